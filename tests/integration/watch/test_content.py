"""What counts as new, in every history that a dataset repo may have."""

from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from ct_llm.config import DatasetConfig
from tests.integration.watch.world import (
    Dataset,
    Watcher,
    Wire,
    counts,
    lines,
    rows,
    seen_by_path,
)


def test_everything_is_new_to_a_champion_that_is_not_there(dataset: Dataset):
    dataset.push(
        a__parquet=rows(0, 7),
        b__jsonl=lines(7, 12),
        c__json=b'[{"text": "x"}, {"text": "y"}]',
        README__md=b"# Chats",
        dataset_infos__json=b'{"default": {}}',
    )
    decision = dataset.decide().decision
    assert decision.should_train
    assert decision.sentence == "training: 14 new rows (threshold 10)"
    part = dataset.part()
    assert counts(part) == (14, 14, 14)
    assert {file.path: file.num_rows for file in part.files} == {
        "a.parquet": 7,
        "b.jsonl": 5,
        "c.json": 2,
    }
    assert part.seen_revision is None and part.counted_by == "files"


def test_appended_shards_are_new_and_only_they_are_read(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__jsonl=lines(7, 12))
    dataset.promoted()
    dataset.push(c__parquet=rows(12, 15), d__jsonl=lines(15, 16))
    watched = dataset.decide()
    assert counts(watched.state.datasets[0]) == (16, 4, 4)
    assert watched.decision.sentence == "not training: 4 of 10 new rows"
    assert not dataset.wire.asked("a.parquet") and not dataset.wire.asked("b.jsonl")
    assert watched.data is None
    part = dataset.part()
    assert seen_by_path(part) == {
        "a.parquet": True,
        "b.jsonl": True,
        "c.parquet": False,
        "d.jsonl": False,
    }
    assert {file.path: file.num_rows for file in part.files if file.seen} == {
        "a.parquet": 7,
        "b.jsonl": 5,
    }


def test_renamed_and_renumbered_shards_are_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__jsonl=lines(7, 12))
    dataset.promoted()
    dataset.rename("a.parquet", "data/train-00000-of-00002.parquet")
    dataset.rename("b.jsonl", "data/b.jsonl")
    part = dataset.part()
    assert counts(part) == (12, 0, 0)
    assert set(seen_by_path(part).values()) == {True}
    assert part.removed_files == () and part.notes == ()


def test_a_copy_of_a_file_adds_no_rows(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), same__parquet=rows(0, 7))
    assert counts(dataset.promoted()) == (7, 7, 7)
    dataset.push(again__parquet=rows(0, 7))
    assert counts(dataset.part()) == (7, 0, 0)


# ---------------------------------------------------------------- rewritten files


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"a__parquet": rows(0, 7)}, {"a__parquet": rows(0, 9)}),
        ({"a__jsonl": lines(0, 7)}, {"a__jsonl": lines(0, 9)}),
        ({"a__jsonl": lines(0, 7)}, {"a__parquet": rows(0, 9), "a__jsonl": b"\n"}),
        ({"a__parquet": rows(0, 7)}, {"a__parquet": rows(0, 9, language="en")}),
        ({"a__parquet": rows(0, 7)}, {"a__parquet": rows(0, 3), "b__parquet": rows(3, 9)}),
    ],
    ids=["parquet", "jsonl", "converted", "another schema", "resharded"],
)
def test_of_a_rewritten_file_only_rows_that_were_added_are_new(
    dataset: Dataset, before: dict[str, bytes], after: dict[str, bytes]
):
    dataset.push(**before)
    dataset.promoted()
    dataset.push(**after)
    part = dataset.part()
    assert counts(part) == (9, 2, 2)
    assert part.counted_by == "rows"
    assert [file.num_rows for file in part.removed_files] == [7]
    assert part.notes == (
        "1 file that the champion has used, with 7 rows, removed or rewritten",
        "7 rows of new files do not count: they were in files that were used, repeat another one or "
        "cannot be used",
    )


def test_a_bound_that_decides_nothing_reads_no_row(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(a__parquet=rows(0, 9))
    watched = dataset.decide(threshold=10)
    assert watched.decision.sentence.startswith("not training: at most 9 of 10 new rows")
    assert watched.state.datasets[0].counted_by == "bounds"
    assert dataset.num_compared == 0

    watched = dataset.decide(threshold=9)
    assert watched.decision.sentence.startswith("not training: 2 of 9 new rows")
    assert dataset.num_compared == 1


def test_rows_are_compared_once(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(a__parquet=rows(0, 9))
    dataset.state = dataset.decide(threshold=2).state
    assert dataset.num_compared == 1
    data = dataset.decide(threshold=2, force=True).data
    assert data is not None and data.num_new_rows == 2
    assert dataset.decide(threshold=2).decision.should_train
    assert dataset.num_compared == 1


def test_compacted_shards_are_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 5), b__parquet=rows(5, 9), c__parquet=rows(9, 12))
    dataset.promoted()
    dataset.commit(
        CommitOperationDelete("a.parquet"),
        CommitOperationDelete("b.parquet"),
        CommitOperationDelete("c.parquet"),
        CommitOperationAdd("all.parquet", rows(0, 12)),
    )
    part = dataset.part()
    assert counts(part) == (12, 0, 0)
    assert [file.path for file in part.removed_files] == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_rolling_window_counts_what_came(dataset: Dataset):
    for day in range(3):
        dataset.push(**{f"day{day}__parquet": rows(20 * day, 20 * day + 10)})
    dataset.promoted()
    for day in (3, 4):
        dataset.delete(f"day{day - 3}.parquet")
        dataset.push(**{f"day{day}__parquet": rows(20 * day, 20 * day + 10 + day)})
    part = dataset.part()
    assert counts(part) == (37, 27, 27)
    assert [file.path for file in part.removed_files] == ["day0.parquet", "day1.parquet"]
    assert counts(dataset.promoted()) == (37, 27, 27)
    assert counts(dataset.part()) == (37, 0, 0)


def test_deleted_rows_are_not_owed(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__parquet=rows(7, 9))
    dataset.promoted()
    dataset.delete("a.parquet")
    assert counts(dataset.promoted()) == (2, 0, 0)
    dataset.push(c__parquet=rows(9, 13))
    assert counts(dataset.part()) == (6, 4, 4)


def test_content_that_comes_back_is_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__parquet=rows(7, 9))
    old = dataset.promoted()
    dataset.delete("a.parquet")
    dataset.promoted()
    dataset.promoted()
    [removed] = dataset.part().removed_files
    assert (removed.path, removed.revision) == ("a.parquet", old.revision), "where it is to be had"
    dataset.push(again__parquet=rows(0, 7), c__parquet=rows(9, 12))
    part = dataset.part()
    assert counts(part) == (12, 3, 3)
    assert part.notes == ("1 file that the champion had used before came back: not new",)
    dataset.delete("again.parquet")
    dataset.push(rewritten__parquet=rows(3, 7))
    assert counts(dataset.part()) == (9, 3, 3), "nor is it under another schema or cut"


def test_all_files_deleted(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.delete("a.parquet")
    part = dataset.part()
    assert counts(part) == (0, 0, 0)
    assert part.notes[-1].endswith("no file that holds rows to train on")


def test_an_empty_repo_is_no_error(dataset: Dataset):
    watched = dataset.decide()
    assert counts(watched.state.datasets[0]) == (0, 0, 0)
    assert not watched.decision.should_train
    assert "no file that holds rows" in watched.decision.sentence


# ---------------------------------------------------------------- the last attempt


def test_rows_of_a_rejected_attempt_are_unseen_but_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(b__parquet=rows(7, 19))
    assert counts(dataset.rejected()) == (19, 12, 12)
    watched = dataset.decide()
    assert counts(watched.state.datasets[0]) == (19, 12, 0)
    assert not watched.decision.should_train
    assert "0 of 10 new rows; 12 rows of an attempt" in watched.decision.sentence
    # A forced cycle needs to know them.
    part = dataset.part()
    assert seen_by_path(part) == {"a.parquet": True, "b.parquet": False}
    assert [file.attempted for file in part.files] == [True, True]

    dataset.push(c__parquet=rows(19, 22))
    part = dataset.part()
    assert counts(part) == (22, 15, 3)
    assert [file.attempted for file in part.files] == [True, True, False]
    assert dataset.wire.asked("c.parquet") == 1 and not dataset.wire.asked("b.parquet")


def test_rows_of_a_rejected_attempt_that_were_rewritten_are_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(b__parquet=rows(7, 19))
    dataset.rejected()
    dataset.push(b__parquet=rows(7, 20))
    assert counts(dataset.first_look()) == (20, 13, 13)
    part = dataset.part()
    assert counts(part) == (20, 13, 1)
    assert part.counted_by == "rows"


def test_a_rejected_first_attempt(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.rejected()
    dataset.push(b__parquet=rows(7, 9))
    assert counts(dataset.part()) == (9, 9, 2)


def test_after_a_rollback_the_rows_wait_for_newer_ones(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    first = dataset.champion
    dataset.push(b__parquet=rows(7, 19))
    dataset.promoted()
    dataset.champion = first
    assert counts(dataset.part()) == (19, 12, 0)


def test_an_attempt_older_than_the_champion_changes_nothing(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    old = dataset.attempt
    dataset.push(b__parquet=rows(7, 9))
    dataset.promoted()
    dataset.attempt = old
    assert counts(dataset.part()) == (9, 0, 0)
    dataset.push(c__parquet=rows(9, 14))
    assert counts(dataset.part()) == (14, 5, 5)


def test_a_champion_without_a_ledger(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.attempt = None
    dataset.tables.clear()
    dataset.push(b__parquet=rows(7, 9))
    assert counts(dataset.part()) == (9, 2, 2)
    assert seen_by_path(dataset.part()) == {"a.parquet": True, "b.parquet": False}


# ---------------------------------------------------------------- several datasets


def test_unchanged_datasets_are_listed_for_replay_when_another_changed(
    dataset: Dataset, tmp_path: Path
):
    other = Dataset(dataset.api, dataset.wire, tmp_path / "cache")
    for each in (dataset, other):
        each.push(a__parquet=rows(0, 7))
    both = Watcher(
        dataset.api, dataset.wire, tmp_path / "cache", *dataset.datasets, *other.datasets
    )
    both.attempted(promoted=True)
    other.push(b__parquet=rows(7, 9))
    watched = both.decide()
    assert [counts(part) for part in watched.state.datasets] == [(7, 0, 0), (9, 2, 2)]
    assert not both.wire.asked(f"{dataset.repo}/tree"), "it has not changed"
    data = both.look()
    assert seen_by_path(data.datasets[0]) == {"a.parquet": True}
    assert (data.num_unseen_rows, data.num_new_rows) == (2, 2)


def test_two_datasets_of_one_repo_are_told_apart_by_name(
    api: HfApi, wire: Wire, dataset: Dataset, tmp_path: Path
):
    dataset.commit(
        CommitOperationAdd("en/a.parquet", rows(0, 3)),
        CommitOperationAdd("de/b.parquet", rows(3, 8)),
    )
    parts = [
        DatasetConfig(repo=dataset.repo, name=name, files=f"{name}/*") for name in ("en", "de")
    ]
    both = Watcher(api, wire, tmp_path / "cache", *parts)
    both.attempted(promoted=True)
    dataset.commit(CommitOperationAdd("de/c.parquet", rows(8, 12)))
    data = both.look()
    assert [(part.name, *counts(part)) for part in data.datasets] == [
        ("en", 3, 0, 0),
        ("de", 9, 4, 4),
    ]


def test_a_row_counts_as_often_as_its_weight_says(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 8))
    dataset.datasets = [DatasetConfig(repo=dataset.repo, weight=2.5)]
    watched = dataset.decide(threshold=20)
    assert watched.decision.should_train
    assert watched.decision.reasons[0].value == 20
    assert counts(watched.state.datasets[0]) == (8, 8, 8)
    assert not dataset.decide(threshold=21).decision.should_train
    assert dataset.look().num_new_rows == 20


def test_only_files_of_the_glob_count(api: HfApi, wire: Wire, tmp_path: Path):
    dataset = Dataset(api, wire, tmp_path / "cache", files="data/*")
    dataset.commit(
        CommitOperationAdd("data/a.parquet", rows(0, 3)),
        CommitOperationAdd("data/old/b.parquet", rows(3, 5)),
        CommitOperationAdd("c.parquet", b"not even parquet"),
    )
    assert counts(dataset.part()) == (3, 3, 3)


def test_a_wider_glob_brings_new_rows_at_the_same_revision(api: HfApi, wire: Wire, tmp_path: Path):
    dataset = Dataset(api, wire, tmp_path / "cache", files="a.*")
    dataset.push(a__parquet=rows(0, 3), b__parquet=rows(3, 8))
    dataset.promoted()
    dataset.datasets = [DatasetConfig(repo=dataset.repo)]
    assert counts(dataset.decide().state.datasets[0]) == (8, 5, 5)
