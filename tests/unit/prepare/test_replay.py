import numpy as np
import pytest

from ct_llm.config import ReplayConfig
from ct_llm.prepare.replay import num_wanted, shares
from tests.unit.prepare.dataset_on_disk import BEFORE, alpaca, prompts


@pytest.mark.parametrize(
    ("rate", "num_new", "num_earlier", "wanted"),
    [(1.0, 10, 100, 10), (0.25, 10, 100, 2), (3.0, 10, 20, 20), (0.0, 10, 20, 0), ("all", 1, 9, 9)],
)
def test_rows_wanted(rate, num_new, num_earlier, wanted):
    assert num_wanted(ReplayConfig(rows_per_new_row=rate), num_new, num_earlier) == wanted


@pytest.mark.parametrize(
    ("sizes", "wanted", "expected"),
    [
        ([], 0, []),
        ([10], 3, [3]),
        ([50, 30, 20], 10, [5, 3, 2]),
        ([1, 1, 1], 2, [1, 1, 0]),
        ([97, 3], 10, [10, 0]),
        ([94, 6], 10, [9, 1]),
        ([4, 6], 10, [4, 6]),
    ],
)
def test_shares_by_the_largest_remainder(sizes, wanted, expected):
    turn = np.arange(len(sizes), dtype=np.uint64)
    assert shares(np.array(sizes, np.int64), wanted, turn).tolist() == expected


def test_of_equal_claims_the_turn_decides():
    sizes, turn = np.ones(3, np.int64), np.array([2, 0, 1], np.uint64)
    assert shares(sizes, 2, turn).tolist() == [0, 1, 1]


def replayed(dataset, num_new=40, **config):
    dataset.write("new.jsonl", [alpaca(n) for n in range(num_new)])
    dataset.write("forum.jsonl", [alpaca(n, source="forum") for n in range(1_000, 1_300)])
    dataset.write("wiki.jsonl", [alpaca(n, source="wiki") for n in range(2_000, 2_100)])
    config = {"holdout_fraction": 0.0, **config}
    data = dataset.prepare(new=["new.jsonl"], seen=["forum.jsonl", "wiki.jsonl"], **config)
    return data, [row for row in dataset.table(data.train_path) if row["replay"]]


def test_every_source_has_its_share(dataset):
    data, rows = replayed(dataset)
    assert data.num_replay == len(rows) == 40
    assert data.counts_by_source["forum"] == 30
    assert data.counts_by_source["wiki"] == 10


def test_another_seed_or_another_cycle_replays_other_rows(dataset):
    _, rows = replayed(dataset)
    _, again = replayed(dataset)
    _, other_seed = replayed(dataset, replay={"seed": 1})
    _, other_cycle = replayed(dataset, num_new=41)
    assert rows == again
    assert prompts(rows) != prompts(other_seed)
    assert prompts(rows) != prompts(other_cycle)


def test_replayed_rows_are_spread_over_the_training_set(dataset):
    """Chosen and ordered by different hashes: else the chosen would all come first."""
    data, _ = replayed(dataset)
    first_half = dataset.table(data.train_path)[: data.num_train // 2]
    assert 10 <= sum(row["replay"] for row in first_half) <= 30


def test_all_and_none(dataset):
    data, _ = replayed(dataset, replay={"rows_per_new_row": "all"})
    assert (data.num_replay, data.counts["earlier:not_replayed"]) == (400, 0)
    data, _ = replayed(dataset, replay={"rows_per_new_row": 0})
    assert (data.num_replay, data.counts["earlier:not_replayed"]) == (0, 400)


def test_earlier_rows_on_the_holdout_side_are_never_replayed(dataset):
    data, rows = replayed(dataset, holdout_fraction=0.3, replay={"rows_per_new_row": "all"})
    assert data.counts["earlier:holdout"] > 50
    assert len(rows) == 400 - data.counts["earlier:holdout"]


def test_removed_files_are_read_where_the_champion_saw_them(dataset):
    dataset.write("new.jsonl", [alpaca(n) for n in range(20)])
    dataset.write("gone.jsonl", [alpaca(n) for n in range(10, 30)], revision=BEFORE)
    data = dataset.prepare(new=["new.jsonl"], removed=["gone.jsonl"], holdout_fraction=0.0)
    assert data.counts["seen_before"] == 10
    # What stands in a file of today may be replayed; what was deleted with its file may not.
    assert (data.num_train, data.num_replay, data.counts["earlier:deleted"]) == (20, 10, 10)
    assert data.notes == ()


def test_removed_files_that_history_lost_are_noted(dataset):
    dataset.write("new.jsonl", [alpaca(n) for n in range(20)])
    data = dataset.prepare(new=["new.jsonl"], removed=["gone.jsonl"])
    assert data.num_replay == 0
    assert len(data.notes) == 1
    assert "gone.jsonl" in data.notes[0]
