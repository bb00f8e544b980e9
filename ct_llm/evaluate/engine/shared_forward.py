"""Forward passes in which what rows have in common is computed once.

A batch's common prefix (instructions, few-shot examples) is one row whose keys and values all rows
then use. The continuations of a context (a question's choices) lie one after the other behind it in
a single row, each with the positions it would have alone and a mask by which it sees its context and
itself (tree attention, as in speculative decoding). Logits are only computed where they are scored.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ct_llm.evaluate.engine.stacked_lora import StackedLora, close, probe_tokens
from ct_llm.records import Side

MASKS_BY_TENSOR = ("sdpa", "eager")
"""Attention implementations that take a mask [rows, 1, queries, keys]."""
CHANGING_ROPE = ("dynamic", "longrope")
"""Rotary embeddings that depend on the longest row of the pass."""


@dataclass(frozen=True)
class Row:
    """A context and the beginnings of its continuations: all but each one's last token."""

    context: tuple[int, ...]
    tails: tuple[tuple[int, ...], ...] = ()
    """Not empty each; several only where attention is plain."""

    def __len__(self) -> int:
        return len(self.context) + sum(map(len, self.tails))

    def slots(self, tail: tuple[int, ...]) -> list[int]:
        """Where the tokens after the context are predicted: its last slot, then the tail's."""
        end = len(self.context)
        if not tail:
            return [end - 1]
        start = end + sum(map(len, self.tails[: self.tails.index(tail)]))
        return [end - 1, *range(start, start + len(tail))]


class Prefix(DynamicCache):
    """Keys and values of tokens that all rows begin with: one row for each side, used by many passes.

    A pass sees them before its own; what it adds is not kept.
    """

    def __init__(self, filled: DynamicCache) -> None:
        super().__init__()
        self.layers = [_SharedLayer(keys, values) for keys, values, _ in filled]


class _SharedLayer(DynamicLayer):
    def __init__(self, keys: Tensor | None, values: Tensor | None) -> None:
        super().__init__()
        assert keys is not None and values is not None  # filled by the prefix's own pass
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return _behind(self.keys, key_states), _behind(self.values, value_states)


def _behind(shared: Tensor, own: Tensor) -> Tensor:
    """[sides, heads, p, n] before [sides * rows, heads, t, n]: [sides * rows, heads, p + t, n]."""
    sides, heads, before, size = shared.shape
    both = own.new_empty(own.shape[0], heads, before + own.shape[2], size)
    both[:, :, before:] = own
    both.view(sides, -1, heads, both.shape[2], size)[..., :before, :] = shared[:, None]
    return both


class SharedForward:
    """Logits of rows for several sides at once, behind a common prefix or none."""

    def __init__(self, stacked: StackedLora) -> None:
        self._stacked = stacked
        self._head = stacked.model.get_output_embeddings()
        self.selects = self._head is not None and _selects(stacked, self)
        """The output layer can be given the scored positions alone."""
        stacked.plain_attention = plain_attention(stacked, self)

    @property
    def device(self) -> torch.device:
        return self._stacked.model.device

    def prefix(self, tokens: Sequence[int], sides: Sequence[Side]) -> Prefix:
        """Keys and values of the prefix, one row for each side."""
        ids = torch.tensor([tokens], device=self.device).repeat(len(sides), 1)
        cache = DynamicCache(config=self._stacked.model.config)
        last = torch.tensor([len(tokens) - 1], device=self.device)
        self._call(sides, 1, ids, last, past_key_values=cache, use_cache=True)
        return Prefix(cache)

    def logits(
        self,
        rows: Sequence[Row],
        places: Sequence[tuple[int, int]],
        sides: Sequence[Side],
        prefix: Prefix | None = None,
    ) -> Tensor:
        """[sides, places, vocabulary] at (row, slot); the rows come after the prefix."""
        length = max(map(len, rows))
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        for index, row in enumerate(rows):
            tokens = [*row.context, *(token for tail in row.tails for token in tail)]
            ids[index, : len(tokens)] = torch.tensor(tokens)
        flat = torch.tensor([row * length + slot for row, slot in places], device=self.device)
        before = 0 if prefix is None else prefix.get_seq_length()
        inputs: dict[str, Any] = {"use_cache": False}
        if prefix is not None:
            inputs = {"use_cache": True, "past_key_values": prefix}
        if any(len(row.tails) > 1 for row in rows):
            mask, positions = _tree(rows, length, before)
            if self._stacked.model.config._attn_implementation == "eager":
                least = torch.finfo(self._stacked.model.dtype).min
                mask = torch.zeros(mask.shape).masked_fill(~mask, least)
                mask = mask.to(self._stacked.model.dtype)
            inputs["attention_mask"] = mask.to(self.device).repeat(len(sides), 1, 1, 1)
            inputs["position_ids"] = positions.to(self.device).repeat(len(sides), 1)
        ids = ids.to(self.device).repeat(len(sides), 1)
        return self._call(sides, len(rows), ids, flat, **inputs)

    def _call(
        self, sides: Sequence[Side], count: int, ids: Tensor, flat: Tensor, **inputs: Any
    ) -> Tensor:
        """flat [m]: row * length + slot of one side's rows. Gives [sides, m, vocabulary]."""
        with torch.inference_mode(), self._stacked.rows(sides, [count] * len(sides)):
            if not self.selects:
                logits = self._stacked.model(input_ids=ids, **inputs).logits
                return _select(logits, flat, len(sides))
            with self._selected(flat, len(sides)):
                return self._stacked.model(input_ids=ids, **inputs).logits

    @contextmanager
    def _selected(self, flat: Tensor, sides: int) -> Iterator[None]:
        def select(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (_select(args[0], flat, sides), *args[1:])

        # Before any other: the hooks of a LoRA on this layer then see the selected rows as well.
        handle = self._head.register_forward_pre_hook(select, prepend=True)
        try:
            yield
        finally:
            handle.remove()


def plain_attention(stacked: StackedLora, shared: SharedForward) -> bool:
    """Whether prefixes and trees give this model's own logits: its cache, its mask, and a trial.

    Not so for sliding windows, state-space layers, and positions that a mask cannot set.
    """
    model = stacked.model
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if (
        getattr(model.config, "is_encoder_decoder", False)
        or model.config._attn_implementation not in MASKS_BY_TENSOR
        or any(kind in str(rope) for kind in CHANGING_ROPE)
        or any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers)
    ):
        return False
    a, b, c, d = (tuple(ids) for ids in probe_tokens(model, 4, 5).tolist())
    alone = [Row(a + b, (c,)), Row(a + b, (d[:2],)), Row(a + c[:2], (d,))]
    rows = [Row(b, (c, d[:2])), Row(c[:2], (d,))]
    places_alone = [(0, 9), (0, 14), (1, 11), (2, 6), (2, 11)]
    places = [(0, 4), (0, 9), (0, 11), (1, 1), (1, 6)]
    sides = stacked.sides[:1]
    try:
        together = shared.logits(rows, places, sides, shared.prefix(a, sides))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False  # a model that does not take such a cache or mask
    return close(shared.logits(alone, places_alone, sides), together)


def _selects(stacked: StackedLora, shared: SharedForward) -> bool:
    """Whether the model computes the same logits when its output layer gets only some positions."""
    rows = [Row(tuple(ids)) for ids in probe_tokens(stacked.model, 2, 7).tolist()]
    places, sides = [(0, 6), (1, 2), (1, 6)], stacked.sides[:1]
    shared.selects = False
    expected = shared.logits(rows, places, sides)
    shared.selects = True
    try:
        return close(expected, shared.logits(rows, places, sides))
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False


def _select(states: Tensor, flat: Tensor, sides: int) -> Tensor:
    """[sides * rows, tokens, n] to [sides, m, n]."""
    return states.reshape(sides, -1, states.shape[-1])[:, flat]


def _tree(rows: Sequence[Row], length: int, before: int) -> tuple[Tensor, Tensor]:
    """Mask [rows, 1, length, before + length], true where a slot is seen, and positions [rows, length].

    Slots beyond a row's end see what comes before them: some key must be seen, or attention is NaN.
    """
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.ones(len(rows), 1, length, before + length, dtype=torch.bool)
    mask[:, 0, :, before:] = causal
    positions = torch.arange(before, before + length).repeat(len(rows), 1)
    for index, row in enumerate(rows):
        start = end = len(row.context)
        for tail in row.tails:
            mask[index, 0, start:, before + end : before + start] = False
            stop = start + len(tail)
            positions[index, start:stop] = torch.arange(before + end, before + end + len(tail))
            start = stop
        positions[index, start:] = 0
    return mask, positions
