"""The loop of an evaluation: the next batch, its scores, a look at what is certain.

It is the same loop whether it starts or goes on after a kill (finished batches are read from the
journal instead of scored), and the same on every rank.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from ct_llm.config import EvaluateConfig
from ct_llm.evaluate.batch import BatchScorer
from ct_llm.evaluate.journal import Journal, SavedBatch, Scores
from ct_llm.evaluate.plan import Batch, Plan
from ct_llm.evaluate.prefix import ScorePrefix
from ct_llm.evaluate.progress import EvaluateProgress, progress_of
from ct_llm.evaluate.ranks import Ranks
from ct_llm.records import SlicePrefix

Stopping = Callable[[Sequence[str], Sequence[SlicePrefix]], Collection[str]]
"""The slice of every item in the one order, and what is scored of each slice; gives the names of the
slices that need more items. It may be asked at any time and any number of times."""
Stopped = Literal["all", "decided", "budget"]
Tell = Callable[[EvaluateProgress], None]


class Loop:
    """scores: of every finished batch's items."""

    def __init__(
        self,
        config: EvaluateConfig,
        plan: Plan,
        prefixes: Mapping[str, ScorePrefix],
        scorer: BatchScorer,
        journal: Journal,
        ranks: Ranks,
        *,
        stopping: Stopping | None,
        tell: Tell,
    ) -> None:
        self.scores: Scores = {}
        self.seconds = 0.0
        """From the first score on, without the pauses between a kill and the next start."""
        self._config, self._plan, self._prefixes = config, plan, prefixes
        self._scorer, self._journal, self._ranks = scorer, journal, ranks
        self._stopping, self._tell = stopping, tell

    def run(self) -> Stopped:
        """Until every item is scored, the rest cannot matter, or the budget is spent."""
        while self._plan.unfinished():
            wanted = self._ranks.from_first(self._wanted)
            if not wanted:
                return "decided"
            items_left = self._items_left()
            if items_left == 0 or self._time_is_up():
                return "budget"
            batch = self._plan.next_batch(wanted, items_left)
            assert batch is not None  # of a wanted slice with items left
            self._take_in(batch, self._saved(batch) or self._score(batch))
        return "all"

    def prefixes(self) -> list[SlicePrefix]:
        return [prefix.prefix() for prefix in self._prefixes.values()]

    def _wanted(self) -> list[str]:
        unfinished = self._plan.unfinished()
        if self._stopping is None:
            return unfinished
        wanted = set(self._stopping([item.slice for item in self._plan.items], self.prefixes()))
        return [name for name in unfinished if name in wanted]

    def _items_left(self) -> int | None:
        most = self._config.max_items
        return None if most is None else max(0, most - self._plan.num_dealt)

    def _time_is_up(self) -> bool:
        # `seconds` is the first rank's and stands in the journal, so all ranks and tries agree.
        return self._config.max_seconds is not None and self.seconds >= self._config.max_seconds

    def _saved(self, batch: Batch) -> SavedBatch | None:
        return self._ranks.from_first(
            lambda: self._journal.read(batch.number, self._scorer.content_key(batch.items))
        )

    def _score(self, batch: Batch) -> SavedBatch:
        clock = time.monotonic()
        scores = self._scorer.score(batch.items)

        def save() -> float:
            seconds = self.seconds + time.monotonic() - clock
            key = self._scorer.content_key(batch.items)
            self._journal.save(batch.number, key, SavedBatch(scores, seconds))
            return seconds

        return SavedBatch(scores, self._ranks.from_first(save))

    def _take_in(self, batch: Batch, saved: SavedBatch) -> None:
        for item in batch.items:
            sides = saved.scores[item.slice, item.item_id]
            for side, known in sides.items():
                self._prefixes[item.slice].add(item.item_id, side, known.score)
        self.scores.update(saved.scores)
        self.seconds = saved.seconds
        self._tell(progress_of(self.prefixes(), batch.slice))
