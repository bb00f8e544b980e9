"""Evaluations made by hand: a slice is its champion's, its challenger's and its anchor's scores."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ct_llm.digests import random_order
from ct_llm.records import (
    SIDES,
    EvalResult,
    ItemScore,
    OrderedItem,
    Side,
    SlicePrefix,
    SliceScores,
)

Scores = tuple[Sequence[float], ...]
"""Of the champion and the challenger, and of the anchor where there is a third entry."""
ORDER_SEED = 7


class Evaluated(NamedTuple):
    """What `gate` takes, after the config."""

    result: EvalResult
    items: list[OrderedItem]
    scores: list[ItemScore]


def right_wrong(champion: int, challenger: int, num_items: int = 60) -> Scores:
    """So many right answers of each; the better one is right wherever the other is."""
    return (
        [1.0] * champion + [0.0] * (num_items - champion),
        [1.0] * challenger + [0.0] * (num_items - challenger),
    )


def evaluation(
    slices: Mapping[str, Scores],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    champion_digest: str | None = "c" * 64,
    clusters: Mapping[str, Sequence[str | None]] | None = None,
    order_seed: int = ORDER_SEED,
    **more: Any,
) -> Evaluated:
    """`options` has fields of SliceScores by slice, `clusters` those of its items, `more` fields of
    EvalResult. With `num_scored`, only that much of a slice's order has scores."""
    items = random_order(
        [
            OrderedItem(
                name,
                item_id(name, index),
                f"{name}_task",
                clusters[name][index] if clusters and name in clusters else None,
            )
            for name, sides in slices.items()
            for index in range(len(sides[0]))
        ],
        order_seed=order_seed,
    )
    parts = []
    for name, sides in slices.items():
        fields: dict[str, Any] = {
            "tasks": (f"{name}_task",),
            "num_items": len(sides[0]),
            "num_scored": len(sides[0]),
            "tolerance": 0.05,
            "against_anchor": len(sides) == 3,
        }
        parts.append(SliceScores(slice=name, **(fields | dict((options or {}).get(name, {})))))
    scored = {
        (part.slice, item.item_id)
        for part in parts
        for item in [i for i in items if i.slice == part.slice][: part.num_scored]
    }
    scores = [
        score(name, index, side, values[index])
        for name, sides in slices.items()
        for side, values in zip(SIDES, sides, strict=False)
        for index in range(len(values))
        if (name, item_id(name, index)) in scored
    ]
    fields = {
        "slices": tuple(parts),
        "items_path": "items.parquet",
        "items_digest": "1" * 64,
        "order_seed": order_seed,
        "scores_path": "scores.parquet",
        "scores_digest": "5" * 64,
        "batch_items": 16,
        "challenger_digest": "a" * 64,
        "champion_digest": champion_digest,
        "champion_revision": None if champion_digest is None else "b" * 40,
        "base_model": "base",
        "base_revision": "d" * 40,
        "seconds": 1.0,
    }
    return Evaluated(EvalResult(**(fields | more)), items, scores)


def item_id(slice_name: str, index: int) -> str:
    return f"{slice_name}_task/{index}/abc"


def score(slice_name: str, index: int, adapter: Side, value: float) -> ItemScore:
    return ItemScore(
        slice=slice_name,
        task=f"{slice_name}_task",
        item_id=item_id(slice_name, index),
        adapter=adapter,
        score=value,
        prompt=f"question {index}",
        output=f"{adapter}'s answer {index}",
    )


def prefix(
    name: str,
    champion: Sequence[float],
    challenger: Sequence[float],
    num_scored: int | None = None,
    *,
    anchor: Sequence[float] | None = None,
    known_rest: bool = False,
    clusters: Sequence[str | None] | None = None,
    **options: Any,
) -> SlicePrefix:
    """The first `num_scored` items (default: all) of scores that stand in the slice's order."""
    total = len(champion)
    n = total if num_scored is None else num_scored
    fields: dict[str, Any] = {
        "tasks": (f"{name}_task",),
        "num_items": total,
        "num_scored": n,
        "tolerance": 0.05,
        "against_anchor": anchor is not None,
    }
    return SlicePrefix(
        scores=SliceScores(slice=name, **(fields | options)),
        champion=tuple(champion[:n]),
        challenger=tuple(challenger[:n]),
        anchor=None if anchor is None else tuple(anchor[:n]),
        champion_rest=tuple(champion[n:]) if known_rest else None,
        anchor_rest=None if anchor is None or not known_rest else tuple(anchor[n:]),
        clusters=None if clusters is None else tuple(clusters),
    )
