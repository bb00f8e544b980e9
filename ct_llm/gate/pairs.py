"""Every item with both its scores, or an error that names what is wrong.

The gate's guarantee holds for fixed items, each scored for both adapters. A dropped item is a hole
in it (items that time out are not like the others), so a missing score stops the cycle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ct_llm.errors import ConfigError, InputError
from ct_llm.gate.sequential import SLACK, Floats, off_step
from ct_llm.records import ItemScore, SliceScores


@dataclass(frozen=True)
class Pairs:
    """One slice's items in their random order: entry i of both tuples is the same item."""

    champion: tuple[ItemScore, ...]
    challenger: tuple[ItemScore, ...]
    champion_scores: Floats
    challenger_scores: Floats
    differences: Floats
    """Shape [N], challenger minus champion."""


def pair_items(slices: Sequence[SliceScores], scores: Sequence[ItemScore]) -> dict[str, Pairs]:
    """The pairs of every slice that was evaluated, by its name.

    An item stands where the first of its two scores does. Raises ConfigError for a slice without
    items or without a range of scores; InputError, naming slice and item, for an unknown slice, a
    repeated id, a missing score, and a score that is not finite, out of range or off the step.
    """
    by_name = {s.slice: s for s in slices}
    if len(by_name) < len(slices):
        names = [s.slice for s in slices]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"{', '.join(twice)}: the evaluation lists this slice more than once.")

    found: dict[str, dict[str, dict[str, ItemScore]]] = {name: {} for name in by_name}
    for score in scores:
        if score.slice not in by_name:
            raise InputError(
                f"{score.slice}: item {score.item_id} has a score, but the evaluation lists no such "
                f"slice. It lists: {', '.join(by_name)}."
            )
        _check_score(by_name[score.slice], score)
        item = found[score.slice].setdefault(score.item_id, {})
        if score.adapter in item:
            raise InputError(
                f"{score.slice}: item {score.item_id} has more than one score of the "
                f"{score.adapter}. Item ids must be unique within a slice."
            )
        item[score.adapter] = score

    return {
        name: _paired(by_name[name], items)
        for name, items in found.items()
        if by_name[name].not_evaluated is None
    }


def _check_score(scores: SliceScores, score: ItemScore) -> None:
    what = f"{score.slice}: the {score.adapter}'s score of item {score.item_id} is {score.score}"
    low, high, step = scores.score_low, scores.score_high, scores.score_step
    if scores.not_evaluated is not None:
        raise InputError(f"{what}, but the slice is said not to be evaluated.")
    if not math.isfinite(score.score):
        raise InputError(f"{what}. A failed item must get the score that failing is worth.")
    if not low - SLACK <= score.score <= high + SLACK:
        raise InputError(f"{what}, outside the suite's score_low {low:g} to score_high {high:g}.")
    if step is not None and off_step(np.array([score.score]), step).any():
        raise InputError(
            f"{what}, no multiple of the suite's score_step {step:g}. Correct it or leave it out."
        )


def _paired(scores: SliceScores, items: dict[str, dict[str, ItemScore]]) -> Pairs:
    if scores.num_items < 1:
        raise ConfigError(
            f"{scores.slice}: the slice has no items. Give its suite some, or drop it."
        )
    if not scores.score_low < scores.score_high:
        raise ConfigError(
            f"{scores.slice}: score_low {scores.score_low:g} must be below score_high "
            f"{scores.score_high:g}."
        )
    for item_id, item in items.items():
        for adapter in ("champion", "challenger"):
            if adapter not in item:
                raise InputError(
                    f"{scores.slice}: item {item_id} has no score of the {adapter}. Every item needs "
                    "both; run the evaluation again."
                )
    if len(items) != scores.num_items:
        raise InputError(
            f"{scores.slice}: {len(items)} of {scores.num_items} items are scored. The verdict is "
            "about all of them; run the evaluation again."
        )

    champion = tuple(item["champion"] for item in items.values())
    challenger = tuple(item["challenger"] for item in items.values())
    before, after = _values(scores, champion), _values(scores, challenger)
    return Pairs(champion, challenger, before, after, after - before)


def _values(scores: SliceScores, items: Sequence[ItemScore]) -> Floats:
    """Shape [N], without the rounding that the checks let through."""
    values = np.array([item.score for item in items], dtype=np.float64)
    if scores.score_step is not None:
        values = np.round(values / scores.score_step) * scores.score_step
    return np.clip(values, scores.score_low, scores.score_high)
