"""lm-eval's log-likelihoods for all sides at once, each context and each common prefix computed once.

Tokens, truncation and arithmetic are those of lm-eval's `HFLM._loglikelihood_tokens`, so the answers
are its answers up to rounding. One difference: lm-eval mixes up positions when the same tokens are
split into context and continuation at different places in one run; here each is scored where it is.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.api.instance import Instance
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from ct_llm.errors import InputError
from ct_llm.evaluate.engine.memory import RowLimit, in_batches
from ct_llm.evaluate.engine.shared_forward import Prefix, Row, SharedForward
from ct_llm.evaluate.engine.stacked_lora import StackedLora
from ct_llm.records import Side

Answer = tuple[float, bool]
Tokens = tuple[int, ...]

WORTH_A_PASS = 512
"""Tokens that a common prefix must save to pay for the pass of its own."""
CHANCE = 32
"""Tokens that a batch's contexts may have in common beyond the prefix of the batch before."""
PREFIXES = 4
"""Kept at a time, for the batches to come: a slice of several tasks asks for each in turn."""
MAX_ENTRIES = 2**27
"""Of the log-softmax at a time: 512 MiB in single precision."""


@dataclass(frozen=True)
class Scored:
    """What is asked of a model: a continuation behind a context, cut to the model's length."""

    context: Tokens
    continuation: Tokens

    @property
    def tail(self) -> Tokens:
        """The continuation's tokens that the model must read."""
        return self.continuation[:-1]


@dataclass
class _Group:
    """A row of a forward pass and the places, in the list of requests, that it answers."""

    row: Row
    places: list[int] = field(default_factory=list)


class Likelihoods:
    def __init__(self, stacked: StackedLora, lm: Any, limit: RowLimit) -> None:
        """lm: the HFLM around the same model, for tokens and for models that are not causal."""
        self._lm, self._limit = lm, limit
        self._stacked = stacked
        self._shared = SharedForward(stacked) if lm.backend == "causal" else None
        self._prefixes: dict[tuple[str, tuple[Side, ...]], tuple[Tokens, Prefix]] = {}

    def loglikelihood(
        self, requests: Sequence[Instance], sides: Sequence[Side]
    ) -> dict[Side, list[Answer]]:
        """Per side (log-likelihood in nats, greedy or not) of each request, in their order.

        Raises InputError for a request that lm-eval refuses.
        """
        if self._shared is None:
            return {side: self._by_lm_eval("loglikelihood", requests, side) for side in sides}
        by_task: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            by_task[str(request.task_name)].append(index)
        asked = [self._encode(request) for request in requests]
        answers: dict[Side, dict[int, Answer]] = {side: {} for side in sides}
        for task, places in by_task.items():
            part = self._answers(task, [asked[index] for index in places], sides)
            for side in sides:
                answers[side].update(zip(places, part[side], strict=True))
        return {side: [found[i] for i in range(len(requests))] for side, found in answers.items()}

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], sides: Sequence[Side]
    ) -> dict[Side, list[float]]:
        """Per side the log-likelihood in nats of each whole text, in windows of the model's length."""
        if self._shared is None:
            return {
                side: self._by_lm_eval("loglikelihood_rolling", requests, side) for side in sides
            }
        windows: list[Scored] = []
        owners: list[int] = []
        for index, request in enumerate(requests):
            text = request.args[0]
            for window in get_rolling_token_windows(
                token_list=self._lm.tok_encode(text),
                prefix_token=self._lm.prefix_token_id,
                max_seq_len=self._lm.max_length,
                context_len=1,
            ):
                windows.append(self._cut(*make_disjoint_window(window), request))
                owners.append(index)
        totals: dict[Side, list[float]] = {}
        for side, found in self._answers(None, windows, sides).items():
            totals[side] = [0.0] * len(requests)
            for owner, (value, _) in zip(owners, found, strict=True):
                totals[side][owner] += value
        return totals

    def _by_lm_eval(self, method: str, requests: Sequence[Instance], side: Side) -> list[Any]:
        def ask(part: Sequence[Instance]) -> list[Any]:
            with self._stacked.only(side):
                return getattr(self._lm, method)(list(part), disable_tqdm=True)

        return in_batches(
            self._limit,
            requests,
            ask,
            length=lambda request: len(self._lm.tok_encode("".join(request.args))),
            copies=1,
        )

    def _encode(self, request: Instance) -> Scored:
        """As `TemplateLM.loglikelihood` encodes a pair."""
        pair: tuple[Any, ...] = request.args
        context, continuation = pair
        if context:
            before, after = self._lm._encode_pair(context, continuation)
        else:
            start = self._lm.prefix_token_id
            after = self._lm.tok_encode(continuation, add_special_tokens=False)
            before = [start]
            if after[:1] == [start]:
                before, after = after[:1], after[1:]
        return self._cut(before, after, request)

    def _cut(self, context: list[int], continuation: list[int], request: Instance) -> Scored:
        longest = self._lm.max_length
        where = f"task {request.task_name}, document {request.doc_id}"
        if not context or not continuation:
            part = "continuation" if context else "context"
            raise InputError(f"{where}: the {part} is empty, in tokens; lm-eval cannot score that.")
        if len(continuation) > longest:
            raise InputError(
                f"{where}: the continuation has {len(continuation)} tokens, but the model's context "
                f"holds {longest}. Leave the task out, or take a base model with a longer context."
            )
        whole = [*context, *continuation][-(longest + 1) :]
        split = len(whole) - len(continuation)
        return Scored(tuple(whole[:split]), tuple(whole[split:]))

    def _answers(
        self, task: str | None, asked: Sequence[Scored], sides: Sequence[Side]
    ) -> dict[Side, list[Answer]]:
        """task: whose requests are expected to begin alike, or None."""
        answers: dict[Side, list[Answer]] = {side: [] for side in sides}
        if asked:
            for group in self._stacked.together(sides):
                answers.update(self._together(task, asked, group))
        return answers

    def _together(
        self, task: str | None, asked: Sequence[Scored], sides: tuple[Side, ...]
    ) -> dict[Side, list[Answer]]:
        """Of sides that one pass can hold."""
        groups = _group(asked, share=self._stacked.plain_attention)
        prefix, length = None, 0
        if task is not None and self._stacked.plain_attention:
            prefix, length = self._prefix(task, [group.row.context for group in groups], sides)
            groups = [_Group(Row(g.row.context[length:], g.row.tails), g.places) for g in groups]

        def forward(batch: Sequence[_Group]) -> list[dict[int, list[Answer]]]:
            return self._score(batch, asked, sides, prefix)

        answers: dict[int, list[Answer]] = {}
        for part in in_batches(
            self._limit,
            groups,
            forward,
            length=lambda group: length + len(group.row),
            copies=len(sides),
        ):
            answers.update(part)
        return {
            side: [answers[place][number] for place in range(len(asked))]
            for number, side in enumerate(sides)
        }

    def _prefix(
        self, task: str, contexts: Sequence[Tokens], sides: tuple[Side, ...]
    ) -> tuple[Prefix | None, int]:
        """What all contexts begin with, and its length; the last call's where that nearly is it."""
        shared = self._shared
        assert shared is not None
        common = contexts[0][: _common_prefix(contexts)]
        if (task, sides) in self._prefixes:
            known, prefix = self._prefixes[task, sides]
            if common[: len(known)] == known and len(common) - len(known) <= CHANCE:
                return prefix, len(known)
        if len(common) * (len(contexts) - 1) < WORTH_A_PASS:
            return None, 0
        [prefix] = in_batches(
            self._limit,
            [common],
            lambda items: [shared.prefix(items[0], sides)],
            length=len,
            copies=len(sides),
        )
        if len(self._prefixes) >= PREFIXES:
            self._prefixes.pop(next(iter(self._prefixes)))
        self._prefixes[task, sides] = common, prefix
        return prefix, len(common)

    def _score(
        self,
        batch: Sequence[_Group],
        asked: Sequence[Scored],
        sides: Sequence[Side],
        prefix: Prefix | None,
    ) -> list[dict[int, list[Answer]]]:
        """For each group its requests' answers, one for each side."""
        assert self._shared is not None
        spots: dict[tuple[int, int], int] = {}
        """Each (row, slot) that predicts a scored token, and its number."""
        wanted: list[tuple[int, int, list[int]]] = []
        """Group, place, and the numbers of the spots of a request."""
        for index, group in enumerate(batch):
            for place in group.places:
                slots = group.row.slots(asked[place].tail)
                numbers = [spots.setdefault((index, slot), len(spots)) for slot in slots]
                wanted.append((index, place, numbers))
        logits = self._shared.logits([group.row for group in batch], list(spots), sides, prefix)
        where = torch.tensor([n for _, _, numbers in wanted for n in numbers])
        targets = torch.tensor([t for _, place, _ in wanted for t in asked[place].continuation])
        found: list[dict[int, list[Answer]]] = [{} for _ in batch]
        for side_logits in logits:
            values, greedy = self._at(side_logits, where, targets)
            start = 0
            for index, place, numbers in wanted:
                stop = start + len(numbers)
                answer = float(values[start:stop].sum()), bool(greedy[start:stop].all())
                found[index].setdefault(place, []).append(answer)
                start = stop
        return found

    def _at(self, logits: Tensor, where: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target at its spot, and whether it is the likeliest token there.

        logits [spots, vocabulary]; where, targets [n]. In lm-eval's precision: the model's own.
        """
        step = max(1, MAX_ENTRIES // logits.shape[-1])
        values = torch.empty(len(where), dtype=self._lm.softmax_dtype or logits.dtype)
        greedy = torch.empty(len(where), dtype=torch.bool)
        for start in range(0, len(logits), step):
            part = F.log_softmax(logits[start : start + step], dim=-1, dtype=self._lm.softmax_dtype)
            here = (where >= start) & (where < start + len(part))
            rows = (where[here] - start).to(part.device)
            tokens = targets[here].to(part.device)
            values[here] = part[rows, tokens].cpu()
            greedy[here] = (part.argmax(dim=-1)[rows] == tokens).cpu()
        return values, greedy


def _group(asked: Sequence[Scored], *, share: bool) -> list[_Group]:
    """One row for each context with the beginnings of its continuations.

    share: a row may hold several of them; without, it holds one, and requests that differ only in
    their last token share it. A row's tails together are at most twice as long as its context: the
    mask and the attention grow with the square of the row, what is saved only with the context.
    """
    by_context: dict[Tokens, dict[Tokens, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, request in enumerate(asked):
        if share:
            by_context[request.context][request.tail].append(place)
        else:
            by_context[request.context + request.tail][request.tail].append(place)
    groups: list[_Group] = []
    for context, tails in by_context.items():
        if not share:
            groups.extend(_alone(context, tails))
            continue
        group = _Group(Row(context))
        room = 2 * len(context)
        for tail, places in tails.items():
            used = len(group.row) - len(context)
            if group.places and used and used + len(tail) > room:
                groups.append(group)
                group = _Group(Row(context))
            if tail:
                group = _Group(Row(context, (*group.row.tails, tail)), group.places)
            group.places.extend(places)
        groups.append(group)
    return groups


def _alone(whole: Tokens, tails: dict[Tokens, list[int]]) -> list[_Group]:
    return [
        _Group(Row(whole[: len(whole) - len(tail)], (tail,) if tail else ()), places)
        for tail, places in tails.items()
    ]


def _common_prefix(contexts: Sequence[Tokens]) -> int:
    """Tokens that all contexts begin with, leaving at least one of each."""
    first, last = min(contexts), max(contexts)  # what these two share, all between them share
    longest = min(map(len, contexts)) - 1
    length = 0
    while length < longest and first[length] == last[length]:
        length += 1
    return length
