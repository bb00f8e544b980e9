"""One batch of items to one score for each item and side: what is asked, answered and graded."""

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ct_llm.digests import fingerprint
from ct_llm.errors import InputError, StepFailedError
from ct_llm.evaluate.journal import ItemKey, Scores, SideScores
from ct_llm.evaluate.plan import shares
from ct_llm.evaluate.quiet import quiet
from ct_llm.evaluate.ranks import Ranks
from ct_llm.evaluate.slices import EvalSlice
from ct_llm.records import KnownScore, OrderedItem, Side

if TYPE_CHECKING:
    from ct_llm.evaluate.engine.engine import Engine, Response
    from ct_llm.evaluate.tasks.requests import TaskRequests


class _Asked(NamedTuple):
    """One item's requests, which stand side by side among the group's."""

    item: OrderedItem
    start: int
    stop: int


class BatchScorer:
    """Scores batches over all ranks; a side whose score of an item is known is not asked."""

    def __init__(
        self,
        slices: Mapping[str, EvalSlice],
        engine: "Engine",
        known: Scores,
        ranks: Ranks,
        batch_items: int,
    ) -> None:
        self.slices, self.engine, self.known = slices, engine, known
        self._ranks, self._batch_items = ranks, batch_items

    def task(self, item: OrderedItem) -> "TaskRequests":
        return self.slices[item.slice].tasks[item.task]

    def prompt(self, item: OrderedItem) -> str:
        """The context of the first request, as in lm-eval's samples; the same for every side."""
        first = min(self.task(item).of(item.item_id), key=lambda request: request.idx)
        return str(first.args[0])

    def content_key(self, items: Sequence[OrderedItem]) -> str:
        """Of the items and everything that models are asked for them."""
        return fingerprint(
            [[*item[:3], self.task(item).arguments_digest(item.item_id)] for item in items]
        )

    def score(self, items: Sequence[OrderedItem]) -> Scores:
        """Every item with one score for each side that its slice needs, known or new.

        The same on all ranks. Raises InputError for what cannot be asked or graded, StepFailedError
        for an engine that left something unanswered.
        """
        asked = [item for item in items if self._missing(item)]
        cut = shares(asked, self._batch_items)
        mine = cut[self._ranks.rank :: self._ranks.size]
        new: Scores = {}
        for part in self._ranks.gather(lambda: self._score_shares(mine)):
            new.update(part)
        return {
            _key(item): {**self.known.get(_key(item), {}), **new.get(_key(item), {})}
            for item in items
        }

    def _missing(self, item: OrderedItem) -> tuple[Side, ...]:
        known = self.known.get(_key(item), {})
        return tuple(side for side in self.slices[item.slice].sides if side not in known)

    def _score_shares(self, mine: Sequence[Sequence[OrderedItem]]) -> Scores:
        found: dict[ItemKey, SideScores] = {}
        graded: list[tuple[OrderedItem, Side, Future[KnownScore]]] = []
        # Graders of code wait for sandboxes, so some run at a time, and while the next share is
        # generated. The streams are muted around all threads: each alone would restore the other's.
        with quiet(), ThreadPoolExecutor(_num_threads(self._ranks.size)) as pool:
            for share in mine:
                for item, side, responses in self._answers(share):
                    grade = partial(self._grade, item, responses)
                    if self.slices[item.slice].suite.executes_code:
                        graded.append((item, side, pool.submit(grade)))
                    else:
                        found.setdefault(_key(item), {})[side] = grade()
            for item, side, future in graded:
                found.setdefault(_key(item), {})[side] = future.result()
        return found

    def _answers(
        self, share: Sequence[OrderedItem]
    ) -> "list[tuple[OrderedItem, Side, list[Response]]]":
        """What each side that is needed says to each item of a share."""
        groups: dict[tuple[Side, ...], list[OrderedItem]] = {}
        for item in share:
            groups.setdefault(self._missing(item), []).append(item)
        answers: list[tuple[OrderedItem, Side, list[Response]]] = []
        for sides, items in groups.items():
            requests, places = [], list[_Asked]()
            for item in items:
                own = self.task(item).of(item.item_id)
                places.append(_Asked(item, len(requests), len(requests) + len(own)))
                requests += own
            said = self.engine.respond(requests, sides)
            for side in sides:
                for item, start, stop in places:
                    responses = said.get(side, [])[start:stop]
                    _check_answered(item, side, responses, stop - start)
                    answers.append((item, side, responses))
        return answers

    def _grade(self, item: OrderedItem, responses: "Sequence[Response]") -> KnownScore:
        scored = self.task(item).score(item.item_id, responses)
        if not math.isfinite(scored.score):
            raise InputError(f"task {item.task}: item {item.item_id}: its score is {scored.score}.")
        return KnownScore(scored.score, scored.output)


def _key(item: OrderedItem) -> ItemKey:
    return item.slice, item.item_id


def _check_answered(
    item: OrderedItem, side: Side, responses: "Sequence[Response]", expected: int
) -> None:
    where = f"slice {item.slice}, task {item.task}, item {item.item_id}"
    if len(responses) != expected or any(response is None for response in responses):
        raise StepFailedError(
            f"{where}: the engine gave the {side} {len(responses)} answers to {expected} requests. "
            "No item may be left out; run the same command again."
        )
    for response in responses:
        value = response[0] if isinstance(response, tuple) else response
        if isinstance(value, float) and math.isnan(value):
            raise InputError(
                f"{where}: the {side}'s log-likelihood is NaN. Its weights overflow in this dtype: "
                "try base_model.dtype: float32, or train it anew with a lower learning rate."
            )


def _num_threads(num_ranks: int) -> int:
    """Sandboxes at a time: one a core, shared with the other ranks of this machine."""
    return max(1, (os.cpu_count() or 1) // num_ranks)
