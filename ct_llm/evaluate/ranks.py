"""One evaluation over several processes (ranks), started by `accelerate launch` or torchrun.

Every rank runs the same loop on the same batches and takes its share of each; what one rank alone
must do (files, the score store, the stopping rule, the clock) is done by the first and told to the
others. An error that a rank raises on purpose is raised by all of them; one that dies otherwise is
noticed by the launcher, which ends the others.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

from ct_llm.errors import CtError, StepFailedError

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""How long a rank waits for another: longer than any batch. The launcher notices one that died."""


class Ranks:
    """size=1 needs neither torch nor a launcher."""

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size = rank, size
        self._group = group

    @classmethod
    def here(cls) -> "Ranks":
        """By the environment that the launcher sets. Raises StepFailedError for ranks that do not
        find each other: each would do all of the work, and write over the others' files."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size <= 1:
            return cls()
        import torch
        import torch.distributed as dist
        from accelerate import PartialState

        # Joins the ranks and takes this one's GPU. Without a GPU it must be told so, or it joins none.
        state = PartialState(cpu=not torch.cuda.is_available())
        if state.num_processes != size or not dist.is_initialized():
            raise StepFailedError(
                f"{size} processes were started, but accelerate joined {state.num_processes}. See "
                "distributed_type in the accelerate config: MULTI_GPU, on CPU with use_cpu: true."
            )
        # What travels is Python objects, so it goes by CPU whatever the models run on.
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, group)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """Made by the first rank, the same for all."""
        if self.size == 1:
            return make()
        import torch.distributed as dist

        told = [_outcome(make) if self.is_first else None]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return _value(told[0])

    def gather(self, make: Callable[[], T]) -> list[T]:
        """What each rank makes, in the order of the ranks, for all of them."""
        if self.size == 1:
            return [make()]
        import torch.distributed as dist

        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, _outcome(make), group=self._group)
        return [_value(outcome) for outcome in told]


def _outcome(make: Callable[[], T]) -> tuple[T | None, CtError | None]:
    try:
        return make(), None
    except CtError as error:
        return None, error


def _value(outcome: Any) -> Any:
    value, error = cast("tuple[Any, CtError | None]", outcome)
    if error is not None:
        raise error
    return value
