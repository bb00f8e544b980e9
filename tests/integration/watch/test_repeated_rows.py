"""New files that repeat rows of files that are still there, and content that two datasets hold."""

from pathlib import Path

from tests.integration.watch.world import Dataset, Watcher, counts, lines, rows


def test_a_rewritten_file_is_compared_with_what_is_still_there_too(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 20), b__parquet=rows(20, 40))
    dataset.promoted()
    dataset.push(b__parquet=rows(0, 40))
    assert counts(dataset.part()) == (60, 0, 0)
    dataset.push(c__parquet=rows(0, 43))
    assert counts(dataset.part())[1:] == (3, 3)


def test_rows_of_an_attempt_that_are_still_there_are_not_new(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 20))
    dataset.promoted()
    dataset.push(b__parquet=rows(20, 40), c__parquet=rows(40, 50))
    dataset.rejected()
    dataset.push(c__parquet=rows(0, 52))
    assert counts(dataset.part())[1:] == (32, 2)


def test_a_merged_file_beside_its_shards_begins_no_cycle(dataset: Dataset):
    dataset.push(a__jsonl=lines(0, 20), b__jsonl=lines(20, 40))
    dataset.promoted()
    dataset.push(merged__jsonl=lines(0, 40))
    looked = dataset.decide(threshold=10)
    assert looked.decision.should_train and dataset.num_compared == 0, "no cycle was asked for"
    dataset.state = looked.state
    for _ in range(2):
        begun = dataset.decide(threshold=10, for_a_cycle=True)
        assert begun.decision.sentence.startswith("not training: 0 of 10 new rows")
        assert begun.data is None and dataset.num_compared == 1
        dataset.state = begun.state


def test_below_the_threshold_nothing_is_read_even_for_a_cycle(dataset: Dataset):
    dataset.push(a__jsonl=lines(0, 20))
    dataset.promoted()
    dataset.push(b__jsonl=lines(0, 9))
    assert not dataset.decide(threshold=10, for_a_cycle=True).decision.should_train
    assert dataset.num_compared == 0


def test_content_of_two_datasets_counts_once_for_the_first(dataset: Dataset, tmp_path: Path):
    other = Dataset(dataset.api, dataset.wire, tmp_path / "cache")
    dataset.push(a__parquet=rows(0, 8))
    other.push(same__parquet=rows(0, 8), b__parquet=rows(8, 11))
    both = Watcher(
        dataset.api, dataset.wire, tmp_path / "cache", *dataset.datasets, *other.datasets
    )
    watched = both.decide(threshold=12)
    assert watched.decision.sentence.startswith("not training: 11 of 12 new rows")
    both.state = watched.state
    assert both.decide(threshold=12).decision == watched.decision
    data = both.look()
    assert [part.num_new_rows for part in data.datasets] == [8, 3]
    assert (data.num_unseen_rows, data.num_new_rows) == (11, 11)


def test_used_content_is_counted_where_no_table_says_its_rows(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.tables.clear()
    dataset.attempt = None
    dataset.push(b__parquet=rows(7, 9))
    assert {file.path: file.num_rows for file in dataset.part().files} == {
        "a.parquet": 7,
        "b.parquet": 2,
    }


def test_of_two_known_counts_the_compared_one_is_believed(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 20))
    dataset.promoted()
    dataset.push(b__jsonl=lines(0, 20))
    by_files = dataset.decide(threshold=10).state
    dataset.state = dataset.decide(threshold=10, for_a_cycle=True).state
    assert by_files.datasets[0].counted_by == "files"
    [part] = dataset.decide(threshold=10).state.datasets
    assert part.counted_by == "rows" and part.num_new_rows == 0
