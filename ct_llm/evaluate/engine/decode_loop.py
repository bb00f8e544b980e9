"""The decode loop: prompts of several adapters in one batch, until each row's text ends."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ct_llm.evaluate.engine.prompt_groups import prompt_groups
from ct_llm.evaluate.engine.row_cache import RowCache, joined
from ct_llm.evaluate.engine.sampling import sample
from ct_llm.evaluate.engine.stop_strings import StopStrings
from ct_llm.records import Side

TOKENS_AHEAD = 64
"""Room made in the cache at a time: most texts end long before the longest allowed."""
WORTH_DROPPING = 0.85
"""Rows are taken out when at most this part of the batch goes on; taking out copies the cache."""
STEPS_BETWEEN_LOOKS = 4
"""On accelerators: tokens generated between two looks at them, each of which waits for the device."""


class StackedRows(Protocol):
    """A causal LM with the adapters of several sides (see StackedLora)."""

    @property
    def model(self) -> Any: ...

    def rows(
        self, sides: Sequence[Side], counts: Sequence[int]
    ) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Prompt:
    tokens: list[int]
    stops: StopStrings
    eos: frozenset[int]
    max_tokens: int
    uniform: list[float] | None = None
    """One draw in [0, 1) for each token to come, for sampling."""

    def ends(self, generated: list[int]) -> bool:
        return (
            len(generated) >= self.max_tokens
            or generated[-1] in self.eos
            or self.stops.ends(generated)
        )


@dataclass
class _Row:
    prompt: Prompt
    side: int
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    def take(self, tokens: list[int]) -> None:
        """Add tokens up to the one that ends the text; what the device made beyond it is dropped."""
        for token in tokens:
            if self.ended:
                return
            self.tokens.append(token)
            self.ended = self.prompt.ends(self.tokens)


def waits_for_device(device: torch.device) -> bool:
    """Whether looking at a token makes the device idle: it computes behind the program's back."""
    return device.type != "cpu"


def decode(
    stacked: StackedRows,
    sides: Sequence[Side],
    prompts: Sequence[Prompt],
    *,
    pad: int,
    chain: Any = None,
) -> list[list[list[int]]]:
    """Generated tokens of each prompt for each side: [prompts][sides], the ending token included.

    pad: a token id for the places before shorter prompts. chain: transformers' score warpers for
    sampling; None takes the likeliest token. All prompts of all sides are one batch.
    """
    rows = [_Row(prompt, side) for side in range(len(sides)) for prompt in prompts]
    with torch.inference_mode():
        _Batch(stacked, sides, rows, pad, chain).run()
    return [
        [rows[side * len(prompts) + index].tokens for side in range(len(sides))]
        for index in range(len(prompts))
    ]


class _Batch:
    """Rows of all sides, those of a side together: what `StackedLora.rows` asks for."""

    def __init__(
        self,
        stacked: StackedRows,
        sides: Sequence[Side],
        rows: list[_Row],
        pad: int,
        chain: Any,
    ) -> None:
        self.stacked, self.model, self.sides, self.pad = stacked, stacked.model, sides, pad
        self.device: torch.device = self.model.device
        self.rows = rows
        self.prompts = [row.prompt for row in rows if row.side == 0]
        self.longest = max(prompt.max_tokens for prompt in self.prompts)
        self.chain = chain
        self.uniform = self._uniform() if chain is not None else None

    def run(self) -> None:
        logits = self._prefill()
        looks_every = STEPS_BETWEEN_LOOKS if waits_for_device(self.device) else 1
        unseen: list[Tensor] = []
        for step in range(self.longest):
            tokens = self._pick(logits, step)
            unseen.append(tokens)
            if len(unseen) == looks_every or step == self.longest - 1:
                seen = torch.stack(unseen, dim=1).tolist()
                unseen = []
                for row, new in zip(self.rows, seen, strict=True):
                    if not row.ended:
                        row.take(new)
                if all(row.ended for row in self.rows):
                    return
                if (kept := self._worth_keeping()) is not None:
                    tokens = self._keep(kept, tokens)
            logits = self._step(tokens)

    def _pick(self, logits: Tensor, step: int) -> Tensor:
        if self.uniform is None:
            return logits.argmax(dim=-1)
        return sample(logits, self.chain, self.uniform[:, step])

    def _uniform(self) -> Tensor:
        """Draws [rows, steps]; rows that end earlier than others have zeros after their end."""
        table = torch.zeros(len(self.rows), self.longest)
        for index, row in enumerate(self.rows):
            if row.prompt.uniform is not None:
                table[index, : row.prompt.max_tokens] = torch.tensor(row.prompt.uniform)
        return table.to(self.device)

    # --- forward passes ---

    def _prefill(self) -> Tensor:
        """Read all prompts; what many of them begin with, once for each side. Logits [rows, words]."""
        groups = prompt_groups([prompt.tokens for prompt in self.prompts])
        ahead = min(self.longest, TOKENS_AHEAD)
        parts = [
            _read(self, [self.prompts[i].tokens for i in members], shared, ahead)
            for shared, members in groups
        ]
        if len(parts) == 1 and groups[0][1] == list(range(len(self.prompts))):
            part = parts[0]
            self.cache, hidden, self.positions, logits = (
                part.cache,
                part.hidden,
                part.positions,
                part.logits,
            )
        else:
            places = [
                torch.tensor(
                    [s * len(self.prompts) + i for s in range(len(self.sides)) for i in members],
                    device=self.device,
                )
                for _, members in groups
            ]
            length = max(part.cache.length for part in parts)
            self.cache = joined([part.cache for part in parts], places, length + ahead)
            hidden = torch.ones(len(self.rows), length, dtype=torch.bool, device=self.device)
            for part, place in zip(parts, places, strict=True):
                hidden[place, length - part.hidden.shape[1] :] = part.hidden
            order = torch.cat(places).argsort()
            self.positions = torch.cat([part.positions for part in parts])[order]
            logits = torch.cat([part.logits for part in parts])[order]
        self._set_mask(hidden)
        return logits

    def _set_mask(self, hidden: Tensor) -> None:
        """hidden [rows, prompt columns]: where no token of the row stands."""
        self.mask: Tensor | None = None
        if not bool(hidden.any()):
            return
        columns = hidden.shape[1] + self.longest
        if self._attends_to_4d():
            lowest = torch.finfo(self.model.dtype).min
            self.mask = torch.zeros(
                hidden.shape[0], 1, 1, columns, dtype=self.model.dtype, device=self.device
            )
            self.mask[:, 0, 0, : hidden.shape[1]].masked_fill_(hidden, lowest)
        else:
            self.mask = torch.ones(hidden.shape[0], columns, dtype=torch.long, device=self.device)
            self.mask[:, : hidden.shape[1]].masked_fill_(hidden, 0)

    def _attends_to_4d(self) -> bool:
        """Such a mask is used as it is; from others transformers makes one, again for every token."""
        return self.model.config._attn_implementation in ("sdpa", "eager")

    def _step(self, tokens: Tensor) -> Tensor:
        length = self.cache.length
        if length == self.cache.capacity:
            everything = torch.arange(len(self.rows), device=self.device)
            self.cache.select(everything, capacity=length + TOKENS_AHEAD)
        mask = None if self.mask is None else self.mask[..., : length + 1]
        logits = self.forward(tokens[:, None], self.positions, mask, self.cache, self._counts())
        self.positions += 1
        return logits

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: RowCache,
        counts: dict[int, int],
    ) -> Tensor:
        """Logits [rows, words] behind the last of tokens [rows, new]."""
        present = [side for side in counts if counts[side]]
        with self.stacked.rows([self.sides[s] for s in present], [counts[s] for s in present]):
            output = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1]

    # --- rows ---

    def _counts(self) -> dict[int, int]:
        counts = dict.fromkeys(range(len(self.sides)), 0)
        for row in self.rows:
            counts[row.side] += 1
        return counts

    def _worth_keeping(self) -> list[int] | None:
        """Which rows go on, if leaving the others out is worth the copying; None to keep all."""
        live: dict[int, list[int]] = {}
        for index, row in enumerate(self.rows):
            if not row.ended:
                live.setdefault(row.side, []).append(index)
        total = sum(len(indices) for indices in live.values())
        if total > WORTH_DROPPING * len(self.rows):
            return None
        most = max(len(indices) for indices in live.values())
        if total < 0.75 * most * len(live) or most * len(live) > WORTH_DROPPING * len(self.rows):
            return sorted(index for indices in live.values() for index in indices)
        # As many of each side go through every layer in one product: ended rows fill up.
        kept: list[int] = []
        for side, indices in live.items():
            ended = [i for i, row in enumerate(self.rows) if row.side == side and row.ended]
            kept += sorted(indices + ended[: most - len(indices)])
        return kept

    def _keep(self, kept: list[int], tokens: Tensor) -> Tensor:
        index = torch.tensor(kept, device=self.device)
        self.rows = [self.rows[i] for i in kept]
        self.cache.select(index)
        self.positions = self.positions[index]
        if self.mask is not None:
            self.mask = self.mask[index]
        if self.uniform is not None:
            self.uniform = self.uniform[index]
        return tokens[index]


@dataclass
class _Part:
    cache: RowCache
    hidden: Tensor
    """[rows, columns], where a row has no token."""
    positions: Tensor
    """[rows, 1], of the token to come."""
    logits: Tensor
    """[rows, words]"""


def _read(batch: _Batch, prompts: list[list[int]], shared: int, ahead: int) -> _Part:
    """Prompts that have their first `shared` tokens in common, for all sides."""
    num_sides, num_rows, device = len(batch.sides), len(prompts), batch.device
    own = max(len(prompt) for prompt in prompts) - shared
    cache = RowCache(shared if shared else own + ahead)
    if shared:
        tokens = torch.tensor([prompts[0][:shared]] * num_sides, device=device)
        positions = torch.arange(shared, device=device).expand(num_sides, -1)
        batch.forward(tokens, positions, None, cache, dict.fromkeys(range(num_sides), 1))
        sides = torch.arange(num_sides, device=device).repeat_interleave(num_rows)
        cache.select(sides, capacity=shared + own + ahead)
    padding = [own - (len(prompt) - shared) for prompt in prompts]
    tokens = torch.tensor(
        [
            [batch.pad] * missing + prompt[shared:]
            for missing, prompt in zip(padding, prompts, strict=True)
        ]
    )
    missing = torch.tensor(padding)[:, None]
    columns = torch.arange(shared + own)
    # A row's own tokens stand at the end, what it shares at the start: the padding is between.
    hidden = (columns >= shared) & (columns < shared + missing)
    positions = (columns[shared:] - missing).clamp(min=0)
    mask = None if not any(padding) else (~hidden).long().repeat(num_sides, 1).to(device)
    logits = batch.forward(
        tokens.repeat(num_sides, 1).to(device),
        positions.repeat(num_sides, 1).to(device),
        mask,
        cache,
        dict.fromkeys(range(num_sides), num_rows),
    )
    following = (positions[:, -1:] + 1).repeat(num_sides, 1).to(device)
    return _Part(cache, hidden.repeat(num_sides, 1).to(device), following, logits)
