"""Keys and values of a batch of rows that may lose rows while it decodes."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RowCache(Cache):
    """transformers' cache with room for `capacity` tokens a row from the start.

    Its own DynamicCache joins the new token on by copying everything, for each layer and token.
    Keys and values of a layer: [rows, heads, capacity, head_dim], of which `length` tokens are used.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(layers=[])
        self.capacity = capacity

    @property
    def length(self) -> int:
        return self.get_seq_length()

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        while len(self.layers) <= layer_idx:
            self.layers.append(_RowLayer(self.capacity))
        return self.row_layers[layer_idx].update(key_states, value_states)

    @property
    def row_layers(self) -> list["_RowLayer"]:
        return cast("list[_RowLayer]", self.layers)

    def select(self, rows: Tensor, start: int = 0, capacity: int | None = None) -> None:
        """Keep these rows [n], which may repeat, in this order, without the tokens before `start`."""
        self.capacity = self.capacity - start if capacity is None else capacity
        for layer in self.row_layers:
            layer.select(rows, start, self.capacity)


class _RowLayer(DynamicLayer):
    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self.room(key_states)
        self.values = self.room(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        end = self.used + key_states.shape[-2]
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.used

    def select(self, rows: Tensor, start: int, capacity: int) -> None:
        assert self.keys is not None and self.values is not None
        self.capacity = capacity
        used = slice(start, self.used)
        self.used -= start
        # One after the other: only one layer's keys or values are held twice at a time.
        old = self.keys
        self.keys = self.room(old, rows.shape[0])
        torch.index_select(old[:, :, used], 0, rows, out=self.keys[:, :, : self.used])
        old = self.values
        self.values = self.room(old, rows.shape[0])
        torch.index_select(old[:, :, used], 0, rows, out=self.values[:, :, : self.used])

    def held(self, which: int) -> Tensor:
        """Keys (0) or values (1) of the tokens so far."""
        tensor = (self.keys, self.values)[which]
        assert tensor is not None
        return tensor[:, :, : self.used]

    def room(self, like: Tensor, rows: int | None = None) -> Tensor:
        num_rows, heads, _, size = like.shape
        return like.new_empty(num_rows if rows is None else rows, heads, self.capacity, size)


def joined(parts: Sequence[RowCache], places: Sequence[Tensor], capacity: int) -> RowCache:
    """One cache of the rows of all parts, row i of a part at places[part][i]; each row's last token
    in the same column."""
    rows = sum(place.shape[0] for place in places)
    length = max(part.length for part in parts)
    whole = RowCache(capacity)
    for index in range(len(parts[0].layers)):
        sources = [part.row_layers[index] for part in parts]
        layer = _RowLayer(capacity)
        layer.keys = _placed(layer, [source.held(0) for source in sources], places, rows, length)
        layer.values = _placed(layer, [source.held(1) for source in sources], places, rows, length)
        layer.used, layer.is_initialized = length, True
        whole.layers.append(layer)
    return whole


def _placed(
    layer: _RowLayer, held: list[Tensor], places: Sequence[Tensor], rows: int, length: int
) -> Tensor:
    # Zeros: attention gives the columns before short rows no weight, but no weight times NaN is NaN.
    whole = layer.room(held[0], rows).zero_()
    for tensor, place in zip(held, places, strict=True):
        whole[:, :, length - tensor.shape[2] : length].index_copy_(0, place, tensor)
    return whole
