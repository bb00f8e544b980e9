"""A folder keeps no history: what a champion has used may be rewritten and never be had again."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from ct_llm.config import DatasetConfig
from ct_llm.errors import ContentGoneError, DataError
from ct_llm.prepare.clean.rows import CleaningRules
from ct_llm.prepare.for_watch import count_unseen_rows, sample_rows
from ct_llm.prepare.snapshot_files import read_files
from ct_llm.records import DataFile, DatasetSnapshot, DataSnapshot
from ct_llm.sources.source import Source, open_source
from tests.integration.watch.world import Dataset, rows

RULES = CleaningRules(max_chars=1_000)


class Rewritten:
    """A folder whose used.jsonl was rewritten since it was listed; new.jsonl came."""

    def __init__(self, root: Path) -> None:
        folder = root / "rows"
        folder.mkdir()
        self.config = DatasetConfig(path=str(folder))
        self.cache = root / "cache"
        write(folder / "used.jsonl", 0, 20)
        (self.used,) = self._files(self._source())
        self.used = self.used.model_copy(update={"revision": self._source().head().revision})
        write(folder / "used.jsonl", 50, 60)
        write(folder / "new.jsonl", 10, 30)
        self.source = self._source()
        self.revision = self.source.head().revision
        self.new = self._files(self.source)[0]

    def _source(self) -> Source:
        return open_source(self.config, HfApi(token=False), self.cache)

    def _files(self, source: Source) -> list[DataFile]:
        files = source.files(source.head().revision)
        assert files is not None
        return files

    @property
    def how(self) -> dict[str, Any]:
        def open_file(_: str, revision: str, path: str) -> Path:
            return self.source.open(path, revision)

        return {"rules": RULES, "open_file": open_file, "cache": self.cache}

    def snapshot(self, *files: DataFile) -> DataSnapshot:
        part = DatasetSnapshot(
            name=self.config.key,
            repo=self.config.place,
            revision=self.revision,
            files=files,
            removed_files=(self.used,),
            num_rows=0,
            num_unseen_rows=0,
            num_new_rows=0,
            seen_revision=None,
        )
        return DataSnapshot(datasets=(part,), num_unseen_rows=0, num_new_rows=0)


def write(path: Path, start: int, stop: int) -> None:
    lines = [json.dumps({"instruction": f"Task {i}", "output": "done"}) for i in range(start, stop)]
    path.write_text("\n".join(lines))


@pytest.fixture
def folder(tmp_path: Path) -> Rewritten:
    return Rewritten(tmp_path)


def test_the_watch_counts_and_samples_without_it(folder: Rewritten):
    files = [folder.new], [folder.used]
    assert count_unseen_rows(folder.config, *files, folder.revision, **folder.how) == 20
    assert sample_rows(folder.config, [folder.used], folder.revision, 5, 0, **folder.how) == []
    both = [folder.used, folder.new]
    assert len(sample_rows(folder.config, both, folder.revision, 5, 0, **folder.how)) == 5


def test_prepare_notes_it_and_goes_on(folder: Rewritten):
    files = read_files(folder.snapshot(folder.new), [folder.config], **folder.how)
    assert [file.path for file in files.new] == ["new.jsonl"] and files.earlier == []
    assert "used.jsonl was removed since and is no longer to be had" in files.notes[0]


def test_a_file_of_the_snapshot_itself_must_be_there(folder: Rewritten):
    # The error fails the cycle for good, so that the next run takes a fresh look.
    with pytest.raises(ContentGoneError):
        read_files(folder.snapshot(folder.used), [folder.config], **folder.how)


def test_a_squashed_repo_no_longer_has_it(dataset: Dataset):
    dataset.push(a__parquet=rows(0, 7))
    revision = dataset.part().revision
    dataset.begin_anew()
    dataset.push(b__parquet=rows(7, 9))
    source = open_source(dataset.datasets[0], dataset.api, dataset.cache)
    with pytest.raises(DataError, match=r"a\.parquet"):
        source.open("a.parquet", revision)
