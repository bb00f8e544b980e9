"""Squashed and force-pushed history: the table of used files knows what the repo no longer tells."""

from ct_llm.records import SeenDataset
from ct_llm.watch.used import Use
from tests.integration.watch.world import Dataset, counts, rows, seen_by_path

NOWHERE = "f" * 40


def test_squashed_history(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.squash()
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.part()
    assert counts(part) == (9, 2, 2)
    assert part.notes == ()


def test_a_history_that_begins_anew(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__parquet=rows(7, 9))
    dataset.promoted()
    dataset.begin_anew()
    dataset.push(other_name__parquet=rows(0, 7), c__parquet=rows(9, 14))
    part = dataset.first_look()
    assert counts(part) == (12, 5, 5)
    assert part.notes == ("1 file that the champion has used, with 2 rows, removed or rewritten",)
    assert dataset.wire.asked("/tree/") == 1, "the old history is not asked for"


def test_without_a_table_the_tree_stands_in(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    dataset.push(b__parquet=rows(7, 9))
    dataset.rejected()
    dataset.tables.clear()
    dataset.push(c__parquet=rows(9, 14))
    assert counts(dataset.part()) == (14, 7, 5)
    dataset.delete("a.parquet")
    assert counts(dataset.first_look()) == (7, 7, 5)


def test_without_table_and_tree_nothing_counts_as_used(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7), b__parquet=rows(7, 9))
    seen = SeenDataset(name=dataset.repo, repo=dataset.repo, revision=NOWHERE, num_rows=7)
    dataset.champion = dataset.attempt = Use("c1", (seen,))
    part = dataset.part()
    assert counts(part) == (9, 9, 9)
    assert set(seen_by_path(part).values()) == {False}
    assert [note.split(" is not known")[0] for note in part.notes] == [
        f"what {who} has used of {dataset.repo}" for who in ("the champion", "the last attempt")
    ]


def test_a_champion_of_a_lost_revision_keeps_the_attempt(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.rejected()
    seen = SeenDataset(name=dataset.repo, repo=dataset.repo, revision=NOWHERE, num_rows=5)
    dataset.champion = Use("lost", (seen,))
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.part()
    assert counts(part) == (9, 9, 2)
    assert part.notes[0].startswith("what the champion has used of")


def test_a_lost_attempt_keeps_the_champion(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    dataset.promoted()
    seen = SeenDataset(name=dataset.repo, repo=dataset.repo, revision=NOWHERE, num_rows=8)
    dataset.attempt = Use("lost", (seen,))
    dataset.push(b__parquet=rows(7, 9))
    part = dataset.part()
    assert counts(part) == (9, 2, 2)
    assert part.notes[0].startswith("what the last attempt has used of")
