"""Several LoRA adapters on one base in one forward pass.

Every linear layer's A and B of all sides are stacked, so that one `baddbmm` adds to each row what
its own side's adapter gives. Method: as in multi-LoRA serving (Punica, S-LoRA), with the rows of a
side lying together, which makes a plain batched product of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor

from ct_llm.records import Side

PROBE_ROWS, PROBE_TOKENS = 3, 17
Factors = tuple[Tensor, Tensor]
"""A^T [in, r] and scaled B^T [r, out] of one adapter at one layer."""


@dataclass
class _Rows:
    """Whose rows the next forward passes hold; one object, shared by all layers' hooks."""

    sides: tuple[Side, ...] = ()
    counts: tuple[int, ...] = ()
    equal: bool = True


class StackedLora:
    """A causal LM with an adapter for each side; inside `rows` its rows are those of the sides.

    Where adapters cannot be stacked, `why_not` says so and `rows` takes one side at a time, which
    PEFT then switches.
    """

    def __init__(self, model: Any, folders: Mapping[Side, object]) -> None:
        """model: the base model with PEFT's adapters named by side, or bare without any; folders:
        all sides, with None for the base itself."""
        self.sides: tuple[Side, ...] = tuple(folders)
        self._named: set[Side] = {side for side, folder in folders.items() if folder is not None}
        self._rows = _Rows()
        self._peft: PeftModel | None = model if isinstance(model, PeftModel) else None
        self.model: Any = model
        self.why_not: str | None = None
        self.plain_attention = False
        """A prefix may be computed once for many rows; set by `likelihoods.plain_attention`."""
        self._handles: list[Any] = []
        if self._peft is not None:
            self.model = self._peft.base_model.model
            self._take_over(self._peft)

    @property
    def stackable(self) -> bool:
        return self.why_not is None

    def only(self, side: Side) -> AbstractContextManager[None]:
        """The next forward passes, of any shape, are that side's."""
        return self.rows((side,), (1,))

    def together(self, sides: Sequence[Side]) -> list[tuple[Side, ...]]:
        """The sides that one forward pass can hold: all of them, or each alone."""
        return [tuple(sides)] if self.why_not is None else [(side,) for side in sides]

    @contextmanager
    def rows(self, sides: Sequence[Side], counts: Sequence[int]) -> Iterator[None]:
        """The next forward passes hold counts[0] rows of sides[0], then counts[1] of sides[1], ...

        With one side the whole batch is that side's, whatever its size. Not to be nested. Raises
        ValueError for several sides where they cannot be stacked.
        """
        if unknown := [side for side in sides if side not in self.sides]:
            raise ValueError(f"no such side here: {', '.join(unknown)}")
        if len(sides) > 1 and (self.why_not is not None or len(sides) != len(counts)):
            raise ValueError(self.why_not or "as many counts as sides, please")
        if self._peft is not None:
            with self._switched(sides[0]):
                yield
            return
        self._set(tuple(sides), tuple(counts))
        try:
            yield
        finally:
            self._set((), ())

    def bare_logits(self, tokens: Tensor) -> Tensor:
        """Of the base model without any adapter, [rows, tokens, vocabulary]."""
        with nullcontext() if self._peft is None else self._peft.disable_adapter():
            return _logits(self.model, tokens)

    def _set(self, sides: tuple[Side, ...], counts: tuple[int, ...]) -> None:
        self._rows.sides, self._rows.counts = sides, counts
        self._rows.equal = len(set(counts)) <= 1

    @contextmanager
    def _switched(self, side: Side) -> Iterator[None]:
        assert self._peft is not None
        if side in self._named:
            self._peft.set_adapter(side, inference_mode=True)
            yield
        else:
            with self._peft.disable_adapter():
                yield

    def _take_over(self, peft: Any) -> None:
        """Take the factors out of PEFT's layers and check the sum against PEFT's own."""
        self.why_not = _why_not(peft)
        if self.why_not is not None:
            return
        layers = [module for module in peft.modules() if isinstance(module, LoraLinear)]
        probe = probe_tokens(self.model, PROBE_ROWS, PROBE_TOKENS)
        expected = [self._alone(side, probe) for side in self.sides]
        for layer in layers:
            factors: dict[Side, Factors] = {
                side: _factors(layer, side) for side in self.sides if side in layer.lora_A
            }
            base_layer: Any = layer.base_layer
            handle = base_layer.register_forward_hook(_StackedLayer(self._rows, factors))
            self._handles.append(handle)
        self._set(self.sides, (PROBE_ROWS,) * len(self.sides))
        try:
            with torch.inference_mode(), peft.disable_adapter():
                got = _logits(self.model, probe.repeat(len(self.sides), 1))
            same = close(torch.cat(expected), got)
        except _NotStackableError:
            same = False
        self._set((), ())
        if not same:
            self.why_not = "the model does not keep a batch's rows in their order inside its layers"
            for handle in self._handles:
                handle.remove()
            return
        # What is left is the bare model with hooks: PEFT's layers would only cost time.
        self.model = peft.base_model.unload()
        self._peft = None

    def _alone(self, side: Side, tokens: Tensor) -> Tensor:
        with torch.inference_mode(), self._switched(side):
            return _logits(self.model, tokens)


class _NotStackableError(Exception):
    """A layer saw an input whose rows are not those of the batch."""


@dataclass
class _StackedLayer:
    """Forward hook of one linear layer: output plus each row's own B A x."""

    rows: _Rows
    factors: dict[Side, Factors]
    _stacks: dict[tuple[Side, ...], Factors | None] = field(default_factory=dict)

    def __call__(self, module: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
        sides = self.rows.sides
        if not any(side in self.factors for side in sides):
            return output
        x: Tensor = args[0]
        if len(sides) == 1:
            a, b = self.factors[sides[0]]
            return self._one(x, output, a, b)
        total = sum(self.rows.counts)
        # A selection of positions may come as one row for each side.
        per_side = x.shape[0] == len(sides) and self.rows.equal
        if x.dim() != 3 or not (x.shape[0] == total or per_side):
            raise _NotStackableError(f"input of shape {tuple(x.shape)} for {total} rows")
        if self.rows.equal:
            return self._together(x, output, sides)
        parts: list[Tensor] = []
        start = 0
        for side, count in zip(sides, self.rows.counts, strict=True):
            mine = slice(start, start + count)
            start += count
            if side in self.factors and count:
                parts.append(self._one(x[mine], output[mine], *self.factors[side]))
            else:
                parts.append(output[mine])
        return torch.cat(parts)

    def _one(self, x: Tensor, output: Tensor, a: Tensor, b: Tensor) -> Tensor:
        low = x.reshape(-1, x.shape[-1]).to(a.dtype) @ a
        flat = output.reshape(-1, output.shape[-1]).to(b.dtype)
        return torch.addmm(flat, low, b).to(output.dtype).view(output.shape)

    def _together(self, x: Tensor, output: Tensor, sides: tuple[Side, ...]) -> Tensor:
        a, b = self._stack(sides)
        # Rows of a side lie together, so [sides * rows, tokens, n] is [sides, rows * tokens, n].
        low = torch.bmm(x.reshape(len(sides), -1, x.shape[-1]).to(a.dtype), a)
        flat = output.reshape(len(sides), -1, output.shape[-1]).to(b.dtype)
        return torch.baddbmm(flat, low, b).to(output.dtype).view(output.shape)

    def _stack(self, sides: tuple[Side, ...]) -> Factors:
        """A [sides, in, r] and B [sides, r, out], smaller ranks and the base filled up with zeros."""
        stack = self._stacks.get(sides)
        if stack is None:
            known = [self.factors[side] for side in sides if side in self.factors]
            rank = max(a.shape[1] for a, _ in known)
            first_a, first_b = known[0]
            a_all = first_a.new_zeros(len(sides), first_a.shape[0], rank)
            b_all = first_b.new_zeros(len(sides), rank, first_b.shape[1])
            for index, side in enumerate(sides):
                if side in self.factors:
                    a, b = self.factors[side]
                    a_all[index, :, : a.shape[1]] = a
                    b_all[index, : b.shape[0]] = b
            stack = self._stacks[sides] = (a_all, b_all)
        return stack


def _logits(model: Any, tokens: Tensor) -> Tensor:
    return model(tokens, use_cache=False).logits


def _factors(layer: Any, side: Side) -> Factors:
    """scaling holds alpha / r, alpha / sqrt(r) with rsLoRA, and the patterns' own ranks."""
    a = layer.lora_A[side].weight.detach().T.contiguous()
    b = layer.lora_B[side].weight.detach().T * layer.scaling[side]
    return a, b.contiguous()


def _why_not(peft: PeftModel) -> str | None:
    """What PEFT does beyond a plain LoRA on linear layers, if anything."""
    for name, config in peft.peft_config.items():
        for key in ("modules_to_save", "trainable_token_indices", "target_parameters"):
            if getattr(config, key, None):
                return f"{name} has {key}"
    for name, module in peft.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            return f"{name} is replaced as a whole"
        if not isinstance(module, BaseTunerLayer) or not hasattr(module, "lora_A"):
            continue
        if type(module) is not LoraLinear:
            return f"{name} is a {type(module).__name__}"
        if module.lora_variant:
            return f"{name} is not plain LoRA"
        if any(linear.bias is not None for linear in module.lora_B.values()):
            return f"{name} has a LoRA bias"
    return None


def probe_tokens(model: Any, rows: int, tokens: int) -> Tensor:
    """Token ids [rows, tokens], spread over the vocabulary, the same each time."""
    ids = torch.arange(rows * tokens, device=model.device).reshape(rows, tokens)
    return ids * 7919 % model.get_input_embeddings().weight.shape[0]


def close(expected: Tensor, got: Tensor) -> bool:
    """Up to rounding of the model's precision; a row of another side is far beyond it."""
    room = 1e-4 if expected.dtype == torch.float32 else 5e-2
    scale = float(expected.float().std()) + 1.0
    return float((expected.float() - got.float()).abs().max()) <= room * scale
