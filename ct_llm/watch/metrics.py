"""A decision as Prometheus text: how fresh the champion's data is, and what waits.

The format is that of https://prometheus.io/docs/instrumenting/exposition_formats/ (version 0.0.4),
which node_exporter's textfile collector and every Prometheus server read.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ct_llm.records import DriftReport, TriggerDecision

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Sample = tuple[Labels, float]


@dataclass(frozen=True)
class _Gauge:
    name: str
    help: str
    samples: Sequence[Sample]


def prometheus_text(decision: TriggerDecision, adapter_repo: str) -> str:
    """The decision as gauges, each labelled with the adapter repo, so that several configurations
    can be collected on one machine. A gauge whose value is not known is left out.

    Ages are as of the check. An alert takes `time() - ct_llm_champion_data_timestamp_seconds`, which is
    right however long ago that was.
    """
    gauges = [
        *_check(decision),
        *_data(decision),
        *_rules(decision),
        *(_drift(decision.drift) if decision.drift else ()),
    ]
    lines = [
        line
        for gauge in gauges
        if gauge.samples
        for line in _lines(gauge, {"adapter": adapter_repo})
    ]
    return "\n".join(lines) + "\n"


def _check(decision: TriggerDecision) -> Iterable[_Gauge]:
    yield _gauge("should_train", "1: the last check found reason to train.", decision.should_train)
    yield _gauge(
        "last_check_timestamp_seconds", "When the last check was.", _epoch(decision.checked_at)
    )


def _data(decision: TriggerDecision) -> Iterable[_Gauge]:
    yield _gauge(
        "champion_data_age_seconds",
        "Age of the newest data that the champion was trained on, at the last check.",
        decision.data_age_seconds,
    )
    age = decision.data_age_seconds
    yield _gauge(
        "champion_data_timestamp_seconds",
        "When the newest data that the champion was trained on came.",
        None if age is None else _epoch(decision.checked_at) - age,
    )
    by_dataset = [({"dataset": state.name}, state) for state in decision.datasets]
    yield _Gauge(
        "dataset_rows",
        "Rows in the dataset.",
        [(labels, state.num_rows) for labels, state in by_dataset],
    )
    yield _Gauge(
        "unseen_rows",
        "Rows that the champion was not trained on.",
        [(labels, state.num_unseen_rows) for labels, state in by_dataset],
    )
    yield _Gauge(
        "new_rows",
        "Of these, rows that the last attempt has not used either.",
        [(labels, state.num_new_rows) for labels, state in by_dataset],
    )
    yield _Gauge(
        "dataset_timestamp_seconds",
        "When the newest rows of the dataset came.",
        [(labels, _epoch(state.as_of)) for labels, state in by_dataset if state.as_of],
    )


def _rules(decision: TriggerDecision) -> Iterable[_Gauge]:
    # Of two budgets, a day's and a week's, only the unit tells which is which.
    rules = [
        ({"rule": rule.rule, "kind": rule.kind, "unit": rule.unit}, rule)
        for rule in decision.reasons
    ]
    yield _Gauge(
        "rule_value",
        "What the rule looks at.",
        [(labels, rule.value) for labels, rule in rules if rule.value is not None],
    )
    yield _Gauge(
        "rule_threshold",
        "The value at which the rule is met.",
        [(labels, rule.threshold) for labels, rule in rules if rule.threshold is not None],
    )
    yield _Gauge(
        "rule_met",
        "1: a reason speaks for training, or a brake against it.",
        [(labels, rule.met) for labels, rule in rules],
    )


def _drift(report: DriftReport) -> Iterable[_Gauge]:
    yield _gauge("drift_detected", "1: the new rows have drifted.", report.drifted)
    yield _gauge(
        "drift_auc",
        "How well a classifier tells new rows from the champion's (0.5: not at all).",
        report.auc,
    )
    yield _gauge("drift_p_value", "Of the AUC, by permutation.", report.p_value)
    yield _Gauge(
        "drift_distance",
        "Distance between new rows and the champion's in one property, from 0 to 1.",
        [
            ({"feature": feature.feature, "statistic": feature.statistic}, feature.value)
            for feature in report.features
        ],
    )


def _gauge(name: str, help_text: str, value: float | None) -> _Gauge:
    return _Gauge(name, help_text, [] if value is None else [({}, value)])


def _lines(gauge: _Gauge, shared: Labels) -> Iterable[str]:
    name = f"ct_llm_{gauge.name}"
    yield f"# HELP {name} {gauge.help}"
    yield f"# TYPE {name} gauge"
    # Two samples with the same labels make a scraper refuse the whole text: the last one stands.
    by_labels = {tuple({**shared, **labels}.items()): value for labels, value in gauge.samples}
    for labels, value in by_labels.items():
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        yield f"{name}{{{inside}}} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) else repr(float(value))


def _epoch(moment: str) -> float:
    parsed = datetime.fromisoformat(moment)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
