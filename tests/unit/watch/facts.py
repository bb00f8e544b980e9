"""Facts to decide on, at a fixed moment."""

from datetime import timedelta
from typing import Any

from ct_llm.records import DatasetState, DriftedFeature, DriftReport, PastCycle, SeenDataset
from ct_llm.watch.facts import Facts, moment
from ct_llm.watch.used import Use

NOW = "2026-11-24T16:00:00Z"


def ago(**duration: float) -> str:
    return (moment(NOW) - timedelta(**duration)).strftime("%Y-%m-%dT%H:%M:%SZ")


def state(new: int = 0, *, unseen: int | None = None, **changes: Any) -> DatasetState:
    known: dict[str, Any] = {
        "name": "chats",
        "repo": "acme/chats",
        "revision": "a" * 40,
        "as_of": ago(days=1),
        "num_rows": 50_000,
        "num_unseen_rows": new if unseen is None else unseen,
        "num_new_rows": new,
        "counted_by": "files",
    }
    return DatasetState(**{**known, **changes})


def facts(new: int = 0, **changes: Any) -> Facts:
    known: dict[str, Any] = {
        "now": moment(NOW),
        "datasets": (state(new),),
        "num_new_rows": new,
    }
    return Facts(**{**known, **changes})


def use(*as_of: str | None, cycle_id: str = "c1") -> Use:
    seen = (
        SeenDataset(name=f"set{i}", repo="acme/chats", revision="b" * 40, num_rows=100, as_of=at)
        for i, at in enumerate(as_of)
    )
    return Use(cycle_id, tuple(seen))


def past(outcome: Any, finished_at: str, number: int = 0) -> PastCycle:
    return PastCycle(cycle_id=f"c{number}", outcome=outcome, finished_at=finished_at)


def report(auc: float = 0.52, p_value: float = 0.4, **changes: Any) -> DriftReport:
    known: dict[str, Any] = {
        "num_new": 2_000,
        "num_reference": 2_000,
        "auc": auc,
        "p_value": p_value,
        "drifted": False,
        "features": (
            DriftedFeature(
                feature="length",
                statistic="Kolmogorov-Smirnov",
                value=0.5,
                p_value=0.001,
                sentence="median length 300 characters, 120 in the champion's data",
            ),
        ),
    }
    return DriftReport(**{**known, **changes})
