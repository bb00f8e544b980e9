"""How many rows a forward pass takes: by the device's memory, and fewer when it runs out."""

import gc
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch

from ct_llm.errors import StepFailedError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_ROWS = 512
"""Beyond it nothing gets faster on any device, and one long row among many short ones costs more."""


class RowLimit:
    """Rows and tokens that one forward pass may hold; shrinks for good when memory runs out."""

    def __init__(self, rows: int, tokens: int | None = None) -> None:
        """rows: the most rows of a pass; tokens: the most of rows times the longest row's tokens."""
        self.rows = rows
        self.tokens = tokens

    def rows_for(self, longest: int, copies: int) -> int:
        """Rows per side, at least 1, of a pass for `copies` sides whose longest row has that many
        tokens."""
        rows = self.rows
        if self.tokens is not None:
            rows = min(rows, self.tokens // max(longest, 1))
        return max(1, rows // copies)

    def halve(self, rows: int, longest: int) -> None:
        """After a pass of that many rows in all, the longest of so many tokens, found no room."""
        if self.tokens is None:
            self.rows = max(1, rows // 2)
        else:
            self.tokens = max(1, rows * longest // 2)


def row_limit(
    wanted: int | Literal["auto"], model: torch.nn.Module, device: torch.device
) -> RowLimit:
    """As the config says, or by the size of the model and the memory that it leaves free.

    On an accelerator, half of the free memory is given to a pass. A token of it is taken to need
    keys and values of every layer, some 16 hidden states of one layer, and its logits in full
    precision: more than most rows need, since logits are only computed where they are scored.

    On CPU memory is seldom what limits. Measured on two cores: 64 rows are 4.5 times as fast as 8
    for a model of 0.85 M parameters, while large models gain nothing by more rows.
    """
    if wanted != "auto":
        return RowLimit(wanted)
    parameters = sum(p.numel() for p in model.parameters())
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return RowLimit(MAX_ROWS, max(1, int(0.5 * free / bytes_per_token(model))))
    if device.type == "cpu":
        rows = 128 if parameters < 50e6 else 32 if parameters < 500e6 else 8
        return RowLimit(rows, 512 * rows)
    return RowLimit(16)


def bytes_per_token(model: Any) -> int:
    config = model.config.get_text_config()
    size = torch.finfo(model.dtype).bits // 8
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    keys_and_values = 2 * layers * kv_heads * head_dim * size
    return keys_and_values + 16 * hidden * size + 6 * config.vocab_size


def in_batches(
    limit: RowLimit,
    items: Sequence[Item],
    forward: Callable[[Sequence[Item]], Sequence[Result]],
    *,
    length: Callable[[Item], int],
    copies: int,
) -> list[Result]:
    """One result for each item, in their order; `forward` is called with batches, longest items first.

    length: tokens of an item's row; copies: sides, each of which has all rows in the same pass. When
    memory runs out, the limit is halved for good and the same items are tried again. Raises
    StepFailedError when a single item finds no room.
    """
    order = sorted(range(len(items)), key=lambda index: -length(items[index]))
    results: dict[int, Result] = {}
    done = 0
    while done < len(order):
        longest = length(items[order[done]])
        batch = order[done : done + limit.rows_for(longest, copies)]
        try:
            part = forward([items[index] for index in batch])
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) == 1:
                raise StepFailedError(
                    f"the device ran out of memory with a single item of {longest} tokens (for "
                    f"{copies} adapters at once). Free the device, take a larger one, or set "
                    f"base_model.dtype: bfloat16. {error}"
                ) from error
            limit.halve(len(batch) * copies, longest)
            problem = True
        else:
            results.update(zip(batch, part, strict=True))
            done += len(batch)
            problem = False
        if problem:  # outside the handler: the traceback would keep the tensors alive
            release()
    return [results[index] for index in range(len(items))]


def out_of_memory(error: BaseException) -> bool:
    """On CPU torch raises a bare RuntimeError when the allocator finds nothing."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
