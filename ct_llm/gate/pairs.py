"""Every slice's scored prefix, or an error that names what is wrong.

The gate's guarantee holds for fixed items in an order drawn before any score was seen, each scored for
both adapters. A dropped item is a hole in it (items that time out are not like the others), and so is
an item that is there because it was finished early: a missing score stops the cycle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ct_llm.digests import random_order
from ct_llm.errors import InputError
from ct_llm.gate.observed import score_fault
from ct_llm.records import (
    EvalResult,
    ItemScore,
    OrderedItem,
    Side,
    SlicePrefix,
    SliceScores,
)


@dataclass(frozen=True)
class ScoredSlice:
    """One slice as it stood when the evaluation stopped."""

    prefix: SlicePrefix
    items: tuple[OrderedItem, ...]
    """Shape [N], in the slice's random order."""
    champion: tuple[ItemScore, ...]
    """Shape [n]: the scored prefix; entry i of both tuples is the same item."""
    challenger: tuple[ItemScore, ...]


def check_order(result: EvalResult, items: Sequence[OrderedItem]) -> None:
    """Raises InputError unless the items are the permutation drawn from the order's seed."""
    seen: set[tuple[str, str]] = set()
    for item in items:
        if (item.slice, item.item_id) in seen:
            raise InputError(
                f"{item.slice}: item {item.item_id} is there more than once. Item ids must be unique "
                "within a slice."
            )
        seen.add((item.slice, item.item_id))
    drawn = random_order(items, order_seed=result.order_seed)
    for position, (found, expected) in enumerate(zip(items, drawn, strict=True)):
        if found != expected:
            raise InputError(
                f"The items are not in the random order of seed {result.order_seed}: item "
                f"{position + 1} is {found.item_id} of {found.slice}, not {expected.item_id} of "
                f"{expected.slice}. The verdict rests on this order; run the evaluation again."
            )


def pair_items(
    result: EvalResult, items: Sequence[OrderedItem], scores: Sequence[ItemScore]
) -> dict[str, ScoredSlice]:
    """The scored prefix of every slice that was evaluated, by its name.

    The rows of `scores` may come in any order; an item's place is that in `items`. Raises InputError,
    naming slice and item, for an order that was not drawn from the seed, items that are not all there,
    an unknown slice or item, a repeated or missing score, one of the challenger beyond the first
    `num_scored` items, and one that is not finite, out of range or off the step.
    """
    by_name = {s.slice: s for s in result.slices}
    if len(by_name) < len(result.slices):
        names = [s.slice for s in result.slices]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"{', '.join(twice)}: the evaluation lists this slice more than once.")

    check_order(result, items)
    of_slice: dict[str, list[OrderedItem]] = {name: [] for name in by_name}
    for item in items:
        if item.slice not in by_name:
            raise InputError(f"{item.slice}: {_no_such_slice(item.item_id, by_name, 'listed')}")
        of_slice[item.slice].append(item)

    found: dict[str, dict[tuple[Side, str], ItemScore]] = {name: {} for name in by_name}
    for score in scores:
        if score.slice not in by_name:
            raise InputError(
                f"{score.slice}: {_no_such_slice(score.item_id, by_name, 'has a score')}"
            )
        _check_score(by_name[score.slice], score)
        key = score.adapter, score.item_id
        if key in found[score.slice]:
            raise InputError(
                f"{score.slice}: item {score.item_id} has more than one score of the "
                f"{score.adapter}. Item ids must be unique within a slice."
            )
        found[score.slice][key] = score

    return {
        name: _scored(by_name[name], of_slice[name], found[name])
        for name in by_name
        if by_name[name].not_evaluated is None
    }


def _no_such_slice(item_id: str, slices: Mapping[str, SliceScores], what: str) -> str:
    return (
        f"item {item_id} {what}, but the evaluation lists no such slice. It lists: "
        f"{', '.join(slices)}."
    )


def _check_score(scores: SliceScores, score: ItemScore) -> None:
    what = f"{score.slice}: the {score.adapter}'s score of item {score.item_id} is "
    if scores.not_evaluated is not None:
        raise InputError(f"{what}{score.score}, but the slice is said not to be evaluated.")
    fault = score_fault(scores, score.score)
    if fault is not None:
        raise InputError(what + fault)


def _scored(
    scores: SliceScores,
    items: Sequence[OrderedItem],
    found: Mapping[tuple[Side, str], ItemScore],
) -> ScoredSlice:
    name, n = scores.slice, scores.num_scored
    if len(items) != scores.num_items:
        raise InputError(
            f"{name}: {len(items)} of {scores.num_items} items are listed. The verdict is about all "
            "of them; run the evaluation again."
        )
    if not 0 <= n <= scores.num_items:
        raise InputError(f"{name}: {n} of {scores.num_items} items are said to be scored.")
    place = {item.item_id: position for position, item in enumerate(items)}
    for side, item_id in found:
        if item_id not in place:
            raise InputError(
                f"{name}: item {item_id} has a score of the {side}, but is not among the slice's "
                "items. Run the evaluation again."
            )
        if side == "challenger" and place[item_id] >= n:
            raise InputError(
                f"{name}: item {item_id} is number {place[item_id] + 1} of the slice's order and has "
                f"a score of the challenger, but only the first {n} are said to be scored. What was "
                "finished early says nothing; only a contiguous prefix counts."
            )

    def side_scores(side: Side) -> tuple[tuple[ItemScore, ...], tuple[float, ...] | None]:
        """Of the prefix; of the rest, where all of it is known."""
        for item in items[:n]:
            if (side, item.item_id) not in found:
                raise InputError(
                    f"{name}: item {item.item_id} has no score of the {side}. Every item needs one; "
                    "run the evaluation again."
                )
        rest = [found.get((side, item.item_id)) for item in items[n:]]
        known = tuple(score.score for score in rest if score is not None)
        prefix = tuple(found[side, item.item_id] for item in items[:n])
        return prefix, known if rest and len(known) == len(rest) else None

    challenger, _ = side_scores("challenger")
    champion, champion_rest = side_scores("champion")
    anchor, anchor_rest = side_scores("anchor") if scores.against_anchor else (None, None)
    clusters = tuple(item.cluster for item in items)
    prefix = SlicePrefix(
        scores=scores,
        champion=_values(champion),
        challenger=_values(challenger),
        anchor=None if anchor is None else _values(anchor),
        champion_rest=champion_rest,
        anchor_rest=anchor_rest,
        clusters=None if all(cluster is None for cluster in clusters) else clusters,
    )
    return ScoredSlice(prefix, tuple(items), champion, challenger)


def _values(scores: Sequence[ItemScore]) -> tuple[float, ...]:
    return tuple(score.score for score in scores)
