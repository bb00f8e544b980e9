"""Rows per pass shrink when memory runs out, and nothing is lost."""

import re
from collections.abc import Sequence

import pytest
import torch

from ct_llm.errors import StepFailedError
from ct_llm.evaluate.engine.memory import RowLimit, in_batches, row_limit

pytestmark = pytest.mark.e2e


class Device:
    """Runs out of memory beyond so many tokens in a pass, padding included."""

    def __init__(self, room: int, copies: int = 1) -> None:
        self.room, self.copies = room, copies
        self.passes: list[int] = []
        self.failures = 0

    def forward(self, items: Sequence[str]) -> list[str]:
        if len(items) * self.copies * max(map(len, items)) > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("no room")
        self.passes.append(len(items))
        return [item.upper() for item in items]


WORDS = ["a" * length for length in (3, 9, 1, 7, 7, 2, 8, 5, 10, 4)]


@pytest.mark.parametrize("tokens", [None, 1000])
def test_out_of_memory_halves_the_rows_for_good(tokens: int | None) -> None:
    device, limit = Device(room=20), RowLimit(8, tokens)
    for _ in range(2):
        got = in_batches(limit, WORDS, device.forward, length=len, copies=1)
        assert got == [word.upper() for word in WORDS]
    assert device.failures == 2  # 8, 4, then 2 fit: and the second time nothing failed
    assert sum(device.passes) == 2 * len(WORDS)
    assert max(device.passes) >= 2


def test_rows_are_shared_by_the_sides() -> None:
    device, limit = Device(room=60, copies=3), RowLimit(6)
    in_batches(limit, WORDS, device.forward, length=len, copies=3)
    assert device.passes == [2] * 5 and not device.failures


def test_a_single_row_without_room_says_what_to_do() -> None:
    device, limit = Device(room=9), RowLimit(8)
    with pytest.raises(StepFailedError, match=re.compile("single item of 10 tokens.*bfloat16")):
        in_batches(limit, WORDS, device.forward, length=len, copies=1)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def broken(items: Sequence[str]) -> list[str]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(RowLimit(8), WORDS, broken, length=len, copies=1)


def test_the_cpu_allocator_is_understood_too() -> None:
    failed: list[int] = []

    def forward(items: Sequence[str]) -> list[str]:
        if len(items) > 1:
            failed.append(len(items))
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return list(items)

    assert in_batches(RowLimit(4), WORDS, forward, length=len, copies=1) == WORDS
    assert failed == [4, 2]


def test_small_models_take_more_rows_than_large_ones() -> None:
    cpu = torch.device("cpu")
    with torch.device("meta"):
        small, large = torch.nn.Linear(1000, 1000), torch.nn.Linear(30_000, 30_000)
    limits = [row_limit("auto", model, cpu).rows for model in (small, large)]
    assert limits[0] > limits[1] >= 1
    assert row_limit(5, small, cpu).rows_for(1_000_000, 1) == 5
    assert row_limit(5, small, cpu).rows_for(10, 2) == 2
    assert row_limit(1, small, cpu).rows_for(10, 3) == 1
