"""What a test has seen so far: the differences of a contiguous prefix of its items' order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ct_llm.errors import InputError
from ct_llm.gate.sequential import SLACK, Floats, ItemBounds, off_step
from ct_llm.gate.slice_tests import SliceTest
from ct_llm.records import SlicePrefix, SliceScores


@dataclass(frozen=True)
class Observed:
    before: Floats
    """Shape [n], in the order of the test's N items: the champion's scores, or the anchor's."""
    after: Floats
    """Shape [n]: the challenger's."""
    differences: Floats
    """Shape [n]: after - before. By weight, all three are multiplied by the slice's factor."""
    item_bounds: ItemBounds | None = None
    """Narrower ranges of single differences, where the champion's scores of all N are known."""
    clusters: tuple[str | None, ...] | None = None
    """Shape [N], all of them known before the first score; None where no item has one."""


def observed(
    test: SliceTest, order: Sequence[str], prefixes: Mapping[str, SlicePrefix]
) -> Observed:
    """The contiguous prefix of the test's items.

    order: the slice of every item, in the one random order of all items; those of other slices are
    passed over (what a permutation induces on a part is a permutation). For an overall target, the
    prefix ends at the first item in the one order that is not scored, although its slice's guard may
    have gone further: what comes later is not counted, since the way it got there is no accident.

    Raises InputError, naming the slice, for a score that is not finite, out of range or off the step.
    """
    parts = [
        _of_slice(prefixes[name], against_anchor=test.role == "anchor") for name in test.members
    ]
    if not test.is_overall:
        return parts[0]
    return _interleaved(test, order, [prefixes[name].scores for name in test.members], parts)


def _of_slice(prefix: SlicePrefix, *, against_anchor: bool) -> Observed:
    scores = prefix.scores
    side = "anchor" if against_anchor else "champion"
    before = prefix.anchor if against_anchor else prefix.champion
    if before is None or len(before) != len(prefix.challenger):
        raise InputError(
            f"{scores.slice}: {len(prefix.challenger)} items are scored for the challenger and "
            f"{len(before or ())} for the {side}. Every item needs both."
        )
    old = checked_scores(scores, side, before)
    new = checked_scores(scores, "challenger", prefix.challenger)
    rest = prefix.anchor_rest if against_anchor else prefix.champion_rest
    if rest is None and len(before) == scores.num_items:
        rest = ()
    bounds = None
    if rest is not None:
        everywhere = np.append(old, checked_scores(scores, side, rest))
        bounds = ItemBounds(low=scores.score_low - everywhere, high=scores.score_high - everywhere)
    return Observed(old, new, new - old, bounds, prefix.clusters)


def checked_scores(scores: SliceScores, side: str, values: Sequence[float]) -> Floats:
    """The values as an array, without the rounding that the checks let through. Raises InputError."""
    array = np.asarray(values, dtype=np.float64)
    low, high, step = scores.score_low, scores.score_high, scores.score_step
    wrong = ~np.isfinite(array)
    wrong |= (array < low - SLACK) | (array > high + SLACK)
    if step is not None:
        wrong |= ~wrong & off_step(np.where(wrong, 0.0, array), step)
    if wrong.any():
        position = int(np.argmax(wrong))
        raise InputError(
            f"{scores.slice}: the {side}'s score of item {position + 1} of its order is "
            f"{score_fault(scores, float(array[position]))}"
        )
    if step is not None:
        array = np.round(array / step) * step
    return np.clip(array, low, high)


def score_fault(scores: SliceScores, value: float) -> str | None:
    """What is wrong with a score, to go on after "is"; None if nothing is."""
    low, high, step = scores.score_low, scores.score_high, scores.score_step
    if not np.isfinite(value):
        return f"{value}. A failed item must get the score that failing is worth."
    if not low - SLACK <= value <= high + SLACK:
        return f"{value}, outside the suite's score_low {low:g} to score_high {high:g}."
    if step is not None and off_step(np.array([value]), step).any():
        return (
            f"{value}, no multiple of the suite's score_step {step:g}. Correct it or leave it out."
        )
    return None


def _interleaved(
    test: SliceTest,
    order: Sequence[str],
    slices: Sequence[SliceScores],
    parts: Sequence[Observed],
) -> Observed:
    """Several slices' prefixes as one of their union, each difference times its slice's factor."""
    names = np.asarray(order)
    places = [np.flatnonzero(names == scores.slice) for scores in slices]
    for scores, where in zip(slices, places, strict=True):
        if where.size != scores.num_items:
            raise InputError(
                f"{scores.slice}: the order of all items holds {where.size} of its "
                f"{scores.num_items} items."
            )
    # Places in the order of the members' items alone.
    rank = np.empty(names.size, dtype=np.int64)
    rank[np.sort(np.concatenate(places))] = np.arange(test.test.num_items)
    ranks = [rank[where] for where in places]

    counts = [part.differences.size for part in parts]
    ends = [int(r[n]) for r, n in zip(ranks, counts, strict=True) if n < r.size]
    end = min(ends, default=test.test.num_items)

    before, after = np.empty(end), np.empty(end)
    for r, part, factor in zip(ranks, parts, test.factors, strict=True):
        num_inside = int(np.searchsorted(r, end))
        before[r[:num_inside]] = part.before[:num_inside] * factor
        after[r[:num_inside]] = part.after[:num_inside] * factor
    return Observed(
        before,
        after,
        after - before,
        _interleaved_bounds(test, ranks, parts),
        _interleaved_clusters(test, ranks, parts),
    )


def _interleaved_bounds(
    test: SliceTest, ranks: Sequence[np.ndarray], parts: Sequence[Observed]
) -> ItemBounds | None:
    low, high = np.empty(test.test.num_items), np.empty(test.test.num_items)
    for r, part, factor in zip(ranks, parts, test.factors, strict=True):
        if part.item_bounds is None:
            return None
        low[r] = np.asarray(part.item_bounds.low) * factor
        high[r] = np.asarray(part.item_bounds.high) * factor
    return ItemBounds(low=low, high=high)


def _interleaved_clusters(
    test: SliceTest, ranks: Sequence[np.ndarray], parts: Sequence[Observed]
) -> tuple[str | None, ...] | None:
    if all(part.clusters is None for part in parts):
        return None
    clusters: list[str | None] = [None] * test.test.num_items
    for name, r, part in zip(test.members, ranks, parts, strict=True):
        for place, cluster in zip(r, part.clusters or (), strict=part.clusters is not None):
            # The same word in two slices is two clusters.
            clusters[int(place)] = None if cluster is None else f"{name}\0{cluster}"
    return tuple(clusters)
