import json
from pathlib import Path

import pytest

from ct_llm.errors import StorageError
from ct_llm.evaluate.journal import Journal, SavedBatch, Scores, remove_journal
from ct_llm.records import KnownScore

SCORES: Scores = {
    ("chat", "t/0/a"): {
        "champion": KnownScore(1 / 3, "yes"),
        "challenger": KnownScore(0.0, "\ud83d?"),
    },
    ("chat", "t/1/b"): {"challenger": KnownScore(1.0, 'line\nline "x"')},
}
BATCH = SavedBatch(SCORES, 1.25)


def test_a_saved_batch_comes_back_exactly(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ["inputs"])
    journal.begin({})
    journal.save(0, "key", BATCH)
    again = Journal(tmp_path, ["inputs"])
    assert again.read(0, "key") == BATCH
    assert again.read(1, "key") is None
    assert again.read(0, "another batch") is None


def test_what_was_known_at_the_start_stays_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ["inputs"])
    assert journal.known() is None
    journal.begin(SCORES)
    assert Journal(tmp_path, ["inputs"]).known() == SCORES


def test_a_journal_of_other_inputs_is_thrown_away(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ["inputs"])
    journal.begin(SCORES)
    journal.save(0, "key", BATCH)
    other = Journal(tmp_path, ["other inputs"])
    assert other.known() is None
    assert other.read(0, "key") is None
    other.begin({})
    assert Journal(tmp_path, ["inputs"]).read(0, "key") is None


def test_a_journal_that_never_quite_began_is_thrown_away(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ["inputs"])
    journal.begin(SCORES)
    journal.save(0, "key", BATCH)
    (tmp_path / "journal" / "inputs.json").unlink()
    again = Journal(tmp_path, ["inputs"])
    assert again.known() is None
    assert again.read(0, "key") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1]",
        lambda text: text.replace('"seconds": 1.25', '"seconds": "x"'),
        lambda text: json.dumps({"key": "key", "seconds": 1.0, "scores": [["chat"]]}),
        lambda text: json.dumps({"key": "key", "seconds": 1.0}),
    ],
)
def test_a_damaged_batch_is_as_good_as_none(tmp_path: Path, damage) -> None:
    journal = Journal(tmp_path, ["inputs"])
    journal.begin({})
    journal.save(0, "key", BATCH)
    journal.save(1, "key", BATCH)
    path = tmp_path / "journal" / "00000.json"
    path.write_text(damage(path.read_text()))
    again = Journal(tmp_path, ["inputs"])
    assert again.read(0, "key") is None
    assert again.read(1, "key") == BATCH


def test_nothing_is_left_at_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, ["inputs"])
    journal.begin({})
    journal.save(0, "key", BATCH)
    remove_journal(tmp_path)
    assert list(tmp_path.iterdir()) == []
    remove_journal(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"known\.json"):
        Journal(tmp_path / "file", []).begin({})
