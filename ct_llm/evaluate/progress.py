"""What an evaluation says while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ct_llm.records import SlicePrefix

POOLED = "all slices"


@dataclass(frozen=True)
class EvaluateProgress:
    """One step of an evaluation, for people and for live tables."""

    text: str
    """Such as `coding 128/664: challenger 45.3 %, champion 44.1 %`."""
    fraction: float | None = None
    """Of all items, 0 to 1; none while nothing is scored yet. A rule may stop long before 1."""
    prefixes: tuple[SlicePrefix, ...] = ()
    """One for each evaluated slice: all that is scored so far."""


def progress_of(prefixes: Sequence[SlicePrefix], slice_name: str | None) -> EvaluateProgress:
    """After a batch of that slice; none: a batch of all slices' one order."""
    num_items = sum(prefix.scores.num_items for prefix in prefixes)
    num_scored = sum(prefix.scores.num_scored for prefix in prefixes)
    shown = next((p for p in prefixes if p.scores.slice == slice_name), None)
    text = f"{POOLED} {num_scored}/{num_items}" if shown is None else _sentence(shown)
    return EvaluateProgress(text, num_scored / num_items if num_items else 1.0, tuple(prefixes))


def _sentence(prefix: SlicePrefix) -> str:
    scores = prefix.scores
    in_percent = scores.score_low >= 0.0 and scores.score_high <= 1.0
    means = [
        f"{side} {fmean(values):.1%}" if in_percent else f"{side} {fmean(values):.4g}"
        for side, values in (
            ("challenger", prefix.challenger),
            ("champion", prefix.champion),
            ("anchor", prefix.anchor),
        )
        if values
    ]
    text = f"{scores.slice} {scores.num_scored}/{scores.num_items}"
    return f"{text}: {', '.join(means)}".replace("%", " %") if means else text
