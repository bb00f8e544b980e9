from collections import Counter

from ct_llm.digests import random_order
from ct_llm.evaluate.plan import Batch, Plan, Schedule, idle_ranks, shares
from ct_llm.records import OrderedItem

SIZES = {"coding": 10, "chat": 3, "reasoning": 25}
ITEMS = random_order(
    [OrderedItem(name, f"{name}/{n}", name) for name, size in SIZES.items() for n in range(size)],
    order_seed=0,
)


def _plan(schedule: Schedule = "slices", batch_items: int = 4) -> Plan:
    return Plan(ITEMS, slices=list(SIZES), schedule=schedule, batch_items=batch_items)


def _all_batches(plan: Plan, wanted: list[str]) -> list[Batch]:
    batches = []
    while (batch := plan.next_batch(wanted)) is not None:
        batches.append(batch)
    return batches


def test_slices_take_turns_until_each_is_done() -> None:
    plan = _plan()
    batches = _all_batches(plan, list(SIZES))
    assert [batch.slice for batch in batches[:6]] == [
        *("coding", "chat", "reasoning", "coding", "reasoning", "coding")
    ]
    assert [batch.number for batch in batches] == list(range(len(batches)))
    for name, size in SIZES.items():
        dealt = [item for batch in batches if batch.slice == name for item in batch.items]
        assert tuple(dealt) == plan.order(name)
        assert dealt == [item for item in ITEMS if item.slice == name]
        assert len(dealt) == size
    assert plan.unfinished() == []


def test_a_slice_that_is_not_wanted_waits_and_comes_back_in_turn() -> None:
    plan = _plan()
    turns = [["coding", "reasoning"], ["reasoning"], ["reasoning"], list(SIZES), list(SIZES)]
    batches = [plan.next_batch(wanted) for wanted in turns]
    assert [batch.slice for batch in batches if batch] == [
        *("coding", "reasoning", "reasoning", "chat", "coding")
    ]
    assert plan.next_batch([]) is None
    assert plan.next_batch(["chat"]) is None
    assert plan.unfinished() == ["coding", "reasoning"]


def test_pooled_batches_follow_the_one_order_whatever_the_slice() -> None:
    plan = _plan("pooled", batch_items=7)
    batches = _all_batches(plan, ["coding", "reasoning", "chat"])
    assert [item for batch in batches for item in batch.items] == ITEMS
    assert {batch.slice for batch in batches} == {None}
    assert [len(batch.items) for batch in batches] == [7, 7, 7, 7, 7, 3]
    assert plan.unfinished() == []


def test_what_the_budget_allows_is_all_that_is_dealt() -> None:
    plan = _plan()
    batch = plan.next_batch(["reasoning"], at_most=3)
    assert batch is not None
    assert batch.items == plan.order("reasoning")[:3]
    assert plan.next_batch(["reasoning"], at_most=0) is None
    assert plan.num_dealt == 3
    again = plan.next_batch(["reasoning"], at_most=100)
    assert again is not None
    assert again.items == plan.order("reasoning")[3:7]


def test_shares_depend_on_the_batch_alone() -> None:
    items = [OrderedItem("coding", str(n), "task") for n in range(1000)]
    for batch_items, sizes in (
        (16, [64] * 15 + [40]),
        (64, [64] * 15 + [40]),
        (512, [64] * 15 + [40]),
        (1000, [125] * 8),
    ):
        cut = shares(items, batch_items)
        assert [len(share) for share in cut] == sizes
        assert Counter(item for share in cut for item in share) == Counter(items)
    assert shares([], 64) == []


def test_processes_without_a_share_are_counted() -> None:
    assert [idle_ranks(batch_items, 2) for batch_items in (16, 64, 65, 128, 1000)] == [
        1,
        1,
        0,
        0,
        0,
    ]
    assert idle_ranks(512, 8) == 0
    assert idle_ranks(10_000, 16) == 8
