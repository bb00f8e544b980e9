"""What is scored of a slice, seen as its order demands.

Quick items tend to be items that a model gets right (or wrong), so whoever looks at scores in the
order of their completion looks at a biased sample: 71 % false passes where 5 % were promised. Scores
may arrive in any order here; they show once everything before them is there as well.
"""

import math
from collections.abc import Mapping, Sequence

from ct_llm.records import OrderedItem, Side, SlicePrefix, SliceScores


class ScorePrefix:
    """The scores of one slice. known: scores of an earlier evaluation, by side and item id; they
    count only once `add` has brought them, and until then are what is known of the rest."""

    def __init__(
        self,
        scores: SliceScores,
        order: Sequence[OrderedItem],
        sides: Sequence[Side],
        known: Mapping[Side, Mapping[str, float]] | None = None,
    ) -> None:
        self.sides = tuple(sides)
        self._scores = scores
        self._order = tuple(order)
        self._waiting = {item.item_id: dict[Side, float]() for item in order}
        self._known = known or {}
        self._num_scored = 0
        self._shown: dict[Side, list[float]] = {side: [] for side in sides}
        clusters = tuple(item.cluster for item in order)
        self._clusters = clusters if any(name is not None for name in clusters) else None
        if len(self._waiting) != len(self._order):
            raise ValueError(f"slice {scores.slice}: an item stands in the order twice")

    def add(self, item_id: str, side: Side, score: float) -> None:
        """Raises ValueError for a score that is there already, is no number, or has no place."""
        where = f"slice {self._scores.slice}, item {item_id}, {side}"
        if item_id not in self._waiting or side not in self.sides:
            raise ValueError(f"{where}: is not among what is to be scored")
        if side in self._waiting[item_id]:
            raise ValueError(f"{where}: scored twice")
        if not math.isfinite(score):
            raise ValueError(f"{where}: the score is {score}")
        self._waiting[item_id][side] = score
        while self._num_scored < len(self._order):
            there = self._waiting[self._order[self._num_scored].item_id]
            if len(there) < len(self.sides):
                break
            for name in self.sides:
                self._shown[name].append(there[name])
            self._num_scored += 1

    def slice_scores(self) -> SliceScores:
        return self._scores.model_copy(update={"num_scored": self._num_scored})

    def prefix(self) -> SlicePrefix:
        """The first n items of the order for which every side has a score."""
        return SlicePrefix(
            scores=self.slice_scores(),
            champion=tuple(self._shown.get("champion", ())),
            challenger=tuple(self._shown.get("challenger", ())),
            anchor=tuple(self._shown["anchor"]) if "anchor" in self.sides else None,
            champion_rest=self._rest("champion"),
            anchor_rest=self._rest("anchor"),
            clusters=self._clusters,
        )

    def _rest(self, side: Side) -> tuple[float, ...] | None:
        known = self._known.get(side, {}) if side in self.sides else {}
        rest = [known.get(item.item_id) for item in self._order[self._num_scored :]]
        return None if not known or None in rest else tuple(x for x in rest if x is not None)
