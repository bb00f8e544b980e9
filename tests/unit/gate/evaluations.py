"""Evaluations made by hand: a slice is its champion's and its challenger's scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from ct_llm.records import EvalResult, ItemScore, SliceScores

Scores = tuple[Sequence[float], Sequence[float]]


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
) -> tuple[EvalResult, list[ItemScore]]:
    """A result and its scores; `options` has fields of SliceScores by slice."""
    scores = [
        score(name, index, adapter, value)
        for name, sides in slices.items()
        for index, pair in enumerate(zip(*sides, strict=True))
        for adapter, value in zip(("champion", "challenger"), pair, strict=True)
    ]
    parts = []
    for name, (champion, _) in slices.items():
        fields: dict[str, Any] = {
            "tasks": (f"{name}_task",),
            "num_items": len(champion),
            "tolerance": 0.05,
            "order_seed": 0,
            "order_digest": "0" * 64,
        }
        parts.append(SliceScores(slice=name, **(fields | dict((options or {}).get(name, {})))))
    result = EvalResult(
        slices=tuple(parts),
        scores_path="scores.parquet",
        scores_digest="5" * 64,
        challenger_digest="a" * 64,
        champion_digest=champion_digest,
        champion_revision=None if champion_digest is None else "b" * 40,
        base_model="base",
        base_revision="d" * 40,
        seconds=1.0,
    )
    return result, scores


def score(slice_name: str, index: int, adapter: Any, value: float) -> ItemScore:
    return ItemScore(
        slice=slice_name,
        task=f"{slice_name}_task",
        item_id=f"{slice_name}_task/{index}/abc",
        adapter=adapter,
        score=value,
        prompt=f"question {index}",
        output=f"{adapter}'s answer {index}",
    )
