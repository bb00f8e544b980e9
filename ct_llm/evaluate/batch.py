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
    from lm_eval.api.instance import Instance

    from ct_llm.evaluate.engine.engine import Engine, Response
    from ct_llm.evaluate.tasks.requests import TaskRequests
    from ct_llm.evaluate.tasks.samples import Scored


class _Asked(NamedTuple):
    """One item's requests, which stand side by side among the group's."""

    item: OrderedItem
    start: int
    stop: int


class _Group(NamedTuple):
    """Items of one share that the same sides are asked."""

    sides: tuple[Side, ...]
    requests: "list[Instance]"
    places: list[_Asked]


_Answer = tuple[OrderedItem, Side, "list[Response]"]


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
        beside: list[tuple[_Answer, Future[KnownScore | None]]] = []
        alone: list[_Answer] = []
        # Graders of code wait for sandboxes, so some run at a time, and while the next share is
        # generated. The streams are muted around all threads: each alone would restore the other's.
        # Python's and numpy's random states are one for all threads. So whatever watches, seeds or
        # restores them has its turn before the threads or after them: prompts are built before, and
        # all other graders come after, with those among the threads' that turned out to draw.
        with quiet():
            asked = [self._groups(share) for share in mine]
            with ThreadPoolExecutor(_num_threads(self._ranks.size)) as pool:
                for groups in asked:
                    for answer in self._answers(groups):
                        item, _, responses = answer
                        if self.slices[item.slice].suite.executes_code:
                            grade = partial(self._grade_beside_others, item, responses)
                            beside.append((answer, pool.submit(grade)))
                        else:
                            alone.append(answer)
            for answer, future in beside:
                item, side, _ = answer
                score = future.result()
                if score is None:
                    alone.append(answer)
                else:
                    found.setdefault(_key(item), {})[side] = score
            for item, side, responses in alone:
                found.setdefault(_key(item), {})[side] = self._grade(item, responses)
        return found

    def _groups(self, share: Sequence[OrderedItem]) -> list[_Group]:
        groups: dict[tuple[Side, ...], _Group] = {}
        for item in share:
            sides = self._missing(item)
            _, requests, places = groups.setdefault(sides, _Group(sides, [], []))
            own = self.task(item).of(item.item_id)
            places.append(_Asked(item, len(requests), len(requests) + len(own)))
            requests += own
        return list(groups.values())

    def _answers(self, groups: Sequence[_Group]) -> list[_Answer]:
        """What each side that is needed says to each item of a share."""
        answers: list[_Answer] = []
        for sides, requests, places in groups:
            said = self.engine.respond(requests, sides)
            for side in sides:
                for item, start, stop in places:
                    responses = said.get(side, [])[start:stop]
                    _check_answered(item, side, responses, stop - start)
                    answers.append((item, side, responses))
        return answers

    def _grade(self, item: OrderedItem, responses: "Sequence[Response]") -> KnownScore:
        return self._checked(item, self.task(item).score(item.item_id, responses))

    def _grade_beside_others(
        self, item: OrderedItem, responses: "Sequence[Response]"
    ) -> KnownScore | None:
        scored = self.task(item).score_beside_others(item.item_id, responses)
        return None if scored is None else self._checked(item, scored)

    def _checked(self, item: OrderedItem, scored: "Scored") -> KnownScore:
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
