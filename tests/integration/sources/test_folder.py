"""Rows in a folder on this disk, and in another file system that fsspec knows."""

import os
import random
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.config import DatasetConfig, load_config
from ct_llm.cycle_dir import now
from ct_llm.digests import file_sha256
from ct_llm.errors import ConfigError, ContentGoneError, DataError, SecurityError
from ct_llm.sources import folder as folder_module
from ct_llm.sources.row_counts import count_rows
from ct_llm.sources.source import Source, open_source

LONG_AGO = 1_700_000_000


class Folder:
    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "rows"
        self.path.mkdir()
        self.cache = tmp_path / "cache"

    def write(self, path: str, content: bytes, *, at: int = LONG_AGO) -> Path:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, (at, at))
        return file

    def source(self, **dataset: str) -> Source:
        config = DatasetConfig.model_validate({"path": str(self.path), **dataset})
        return open_source(config, HfApi(token=False), self.cache)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files whose content was read."""
    names: list[str] = []

    def recorded(path: Path) -> str:
        names.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(folder_module, "file_sha256", recorded)
    # The files of a test were changed a moment ago.
    monkeypatch.setattr(folder_module, "SETTLED_SECONDS", 0.0)
    yield names


def contents(source: Source) -> dict[str, str]:
    files = source.files(source.head().revision)
    assert files is not None
    return {file.path: file.content_id for file in files}


def row_counts(source: Source) -> dict[str, int | None]:
    revision = source.head().revision
    files = source.files(revision)
    assert files is not None
    return {file.path: file.num_rows for file in count_rows(source, revision, files)}


def test_files_are_listed_and_counted_where_they_lie(folder: Folder):
    folder.write("a.jsonl", b"1\n2\n")
    pq.write_table(pa.table({"x": [1, 2, 3]}), folder.path / "b.parquet")
    folder.write("deep/c.csv", b"q\n1\n")
    folder.write("test/d.jsonl", b"1\n")
    folder.write("notes.txt", b"hello\n")
    folder.write(".hidden/e.jsonl", b"1\n")
    source = folder.source()
    assert row_counts(source) == {"a.jsonl": 2, "b.parquet": 3, "deep/c.csv": 1}
    assert source.open("deep/c.csv", source.head().revision) == folder.path / "deep/c.csv"
    assert row_counts(folder.source(files="deep/*")) == {"deep/c.csv": 1}
    assert row_counts(folder.source(path=f"file://{folder.path}", files="*.txt")) == {
        "notes.txt": 1
    }
    assert row_counts(folder.source(split="test")) == {"test/d.jsonl": 1}


def test_the_readme_of_a_folder_counts_too(folder: Folder):
    folder.write("README.md", b"---\nconfigs:\n- config_name: a\n  data_files: a/*\n---\n")
    folder.write("a/x.jsonl", b"1\n")
    folder.write("b/x.jsonl", b"1\n")
    assert row_counts(folder.source()) == {"a/x.jsonl": 1}


def test_an_empty_folder_has_no_files(folder: Folder):
    source = folder.source()
    assert source.head().as_of is None
    assert contents(source) == {}


# ---------------------------------------------------------------- revisions and contents


def test_the_head_says_when_the_newest_file_came(folder: Folder):
    folder.write("a.jsonl", b"1\n", at=1_700_000_000)
    folder.write("b.jsonl", b"2\n", at=1_700_000_060)
    folder.write("test/c.jsonl", b"2\n", at=1_800_000_000)
    assert folder.source().head().as_of == "2023-11-14T22:14:20Z"


def test_a_file_from_the_future_came_now_at_the_latest(folder: Folder):
    folder.write("a.jsonl", b"1\n", at=4_000_000_000)
    as_of = folder.source().head().as_of
    assert as_of is not None and as_of <= now()


def test_a_revision_follows_the_files_used_and_nothing_else(folder: Folder):
    file = folder.write("a.jsonl", b"1\n")
    revision = folder.source().head().revision
    os.utime(file, (LONG_AGO + 5, LONG_AGO + 5))
    folder.write("notes.txt", b"1\n")
    folder.write("test.jsonl", b"1\n")
    assert folder.source().head().revision == revision
    file.rename(folder.path / "b.jsonl")
    renamed = folder.source()
    assert renamed.head().revision != revision
    assert renamed.files(revision) is None
    assert list(contents(renamed).values()) == [file_sha256(folder.path / "b.jsonl")]


@given(
    files=st.dictionaries(
        st.sampled_from(["a.jsonl", "b/c.csv", "train.json", "d.tsv.gz"]), st.binary(max_size=20)
    ),
    order=st.randoms(use_true_random=False),
)
def test_the_same_files_give_the_same_revision_anywhere(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], order: random.Random
):
    heads = set()
    for _ in range(2):
        folder = Folder(tmp_path_factory.mktemp("same"))
        names = list(files)
        order.shuffle(names)
        for name in names:
            folder.write(name, files[name])
        heads.add(folder.source().head())
    assert len(heads) == 1


def test_an_unchanged_file_is_not_read_again(folder: Folder, hashed: list[str]):
    for name in ("a.jsonl", "b.jsonl"):
        folder.write(name, name.encode())
    before = contents(folder.source())
    assert sorted(hashed) == ["a.jsonl", "b.jsonl"]
    hashed.clear()
    assert contents(folder.source()) == before
    assert hashed == []
    folder.write("c.jsonl", b"c")
    # As large as before and with the time it had before.
    folder.write("a.jsonl", b"A.jsonl")
    after = contents(folder.source())
    assert sorted(hashed) == ["a.jsonl", "c.jsonl"]
    assert after["a.jsonl"] != before["a.jsonl"] and after["b.jsonl"] == before["b.jsonl"]


def test_a_file_written_a_moment_ago_is_not_relied_on(
    folder: Folder, hashed: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(folder_module, "SETTLED_SECONDS", 3600.0)
    folder.write("a.jsonl", b"1\n")
    contents(folder.source())
    contents(folder.source())
    assert hashed == ["a.jsonl", "a.jsonl"]


def test_a_damaged_memory_costs_no_more_than_reading_again(folder: Folder, hashed: list[str]):
    folder.write("a.jsonl", b"1\n")
    before = contents(folder.source())
    [memory] = folder.cache.glob("*/contents-*.json")
    memory.write_bytes(b"[1, 2")
    assert contents(folder.source()) == before


def test_two_datasets_of_one_folder_each_keep_their_memory(folder: Folder, hashed: list[str]):
    for name in ("a.jsonl", "b.jsonl"):
        folder.write(name, name.encode())
    for _ in range(2):
        for glob in ("a.*", "b.*"):
            contents(folder.source(files=glob))
    assert sorted(hashed) == ["a.jsonl", "b.jsonl"]


def test_a_memory_that_cannot_be_written_stops_nothing(folder: Folder, hashed: list[str]):
    folder.write("a.jsonl", b"1\n")
    folder.write("README.md", b"---\nconfigs:\n- config_name: default\n---\n")
    contents(folder.source())
    [memory] = folder.cache.glob("*/contents-*.json")
    for path in (memory, folder.cache / "readme"):
        shutil.move(path, folder.cache / f"was-{path.name}")
    # In their way, since the tests may run as root, whom no permission stops.
    memory.mkdir()
    (folder.cache / "readme").write_bytes(b"")
    assert list(contents(folder.source())) == ["a.jsonl"]
    assert hashed == ["a.jsonl", "a.jsonl"]


def test_an_earlier_revision_is_read_while_new_files_arrive(folder: Folder):
    file = folder.write("a.jsonl", b"1\n")
    revision = folder.source().head().revision
    folder.write("b.jsonl", b"2\n")
    assert folder.source().open("a.jsonl", revision) == file
    assert folder.source().read_range("a.jsonl", revision, 0, 2) == b"1\n"


def test_a_file_that_changed_since_is_refused(folder: Folder):
    folder.write("a.jsonl", b"1\n")
    gone = folder.write("b.jsonl", b"2\n")
    revision = folder.source().head().revision
    folder.write("a.jsonl", b"2\n")
    gone.unlink()
    source = folder.source()
    for path in ("a.jsonl", "b.jsonl", "never.jsonl"):
        with pytest.raises(ContentGoneError, match="was changed or removed since it was listed"):
            source.open(path, revision)
        with pytest.raises(ContentGoneError, match="was changed or removed since it was listed"):
            source.read_range(path, revision, 0, 1)
    with pytest.raises(ContentGoneError, match="was changed or removed"):
        source.open("a.jsonl", "f" * 64)


def test_old_listings_are_not_kept_for_ever(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder_module, "NUM_LISTINGS", 3)
    for i in range(6):
        folder.write(f"{i}.jsonl", b"1\n")
        folder.source().head()
    assert len(list(folder.cache.glob("*/listings/*.json"))) == 3


# ---------------------------------------------------------------- hostile and damaged folders


def test_a_link_out_of_the_folder_is_refused(folder: Folder, tmp_path: Path):
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(b'{"password": 1}\n')
    folder.write("a.jsonl", b"1\n")
    (folder.path / "stolen.jsonl").symlink_to(secret)
    with pytest.raises(SecurityError, match=r"stolen\.jsonl is a link out of the folder"):
        folder.source().head()
    assert row_counts(folder.source(files="a*")) == {"a.jsonl": 1}


def test_a_folder_linked_from_elsewhere_is_refused(folder: Folder, tmp_path: Path):
    (tmp_path / "private").mkdir()
    (folder.path / "sub").mkdir()
    (folder.path / "sub" / "way_out").symlink_to(tmp_path / "private")
    folder.write("a/b.jsonl", b"1\n")
    with pytest.raises(SecurityError, match="sub/way_out is a link out of the folder"):
        folder.source().head()
    assert row_counts(folder.source(files="a/*")) == {"a/b.jsonl": 1}


def test_a_file_that_becomes_a_link_out_is_not_opened(folder: Folder, tmp_path: Path):
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(b"1\n")
    file = folder.write("a.jsonl", b"1\n")
    source = folder.source()
    revision = source.head().revision
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(SecurityError, match="link out"):
        source.open("a.jsonl", revision)


def test_links_within_the_folder_and_a_link_to_the_folder_are_fine(folder: Folder, tmp_path: Path):
    folder.write("data/a.jsonl", b"1\n")
    (folder.path / "b.jsonl").symlink_to("data/a.jsonl")
    (folder.path / "same").symlink_to("data")
    (folder.path / "data" / "up").symlink_to("..")
    assert row_counts(folder.source()) == {"b.jsonl": 1, "data/a.jsonl": 1}
    (tmp_path / "alias").symlink_to(folder.path)
    assert set(contents(folder.source(path=str(tmp_path / "alias")))) == {"b.jsonl", "data/a.jsonl"}


@pytest.mark.parametrize("target", ["nowhere.jsonl", "a.jsonl"])
def test_a_link_that_leads_nowhere_is_named(folder: Folder, target: str):
    (folder.path / "a.jsonl").symlink_to(target)
    with pytest.raises(DataError, match=r"a\.jsonl is a link that leads nowhere"):
        folder.source().head()


def test_pipes_and_sockets_are_no_files(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    folder.write("a.jsonl", b"1\n")
    os.mkfifo(folder.path / "pipe.jsonl")
    monkeypatch.chdir(folder.path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jsonl")
        assert row_counts(folder.source()) == {"a.jsonl": 1}


def test_a_name_that_is_not_utf8_is_named(folder: Folder):
    (folder.path / os.fsdecode(b"\xff.jsonl")).write_bytes(b"1\n")
    with pytest.raises(DataError, match="not UTF-8"):
        folder.source().head()


def test_a_folder_that_is_not_there(folder: Folder):
    file = folder.write("a.jsonl", b"1\n")
    with pytest.raises(ConfigError, match=r"path .*nowhere does not exist"):
        folder.source(path=str(folder.path / "nowhere")).head()
    with pytest.raises(ConfigError, match="is a file, not a folder"):
        folder.source(path=str(file)).head()


# ---------------------------------------------------------------- other file systems


@pytest.fixture
def memory(folder: Folder) -> str:
    return f"memory://{uuid.uuid4().hex}/rows"


def put(url: str, path: str, content: bytes) -> None:
    from fsspec.core import url_to_fs

    files, root = url_to_fs(url)
    files.pipe_file(f"{root}/{path}", content)


def test_a_file_system_without_checksums_is_known_by_content(folder: Folder, memory: str):
    put(memory, "a.jsonl", b"1\n2\n")
    put(memory, "deep/b.csv", b"q\n1\n")
    source = folder.source(path=memory)
    assert row_counts(source) == {"a.jsonl": 2, "deep/b.csv": 1}
    revision = source.head().revision
    # As on a local disk, so that data can move from one to the other and stay known.
    local = folder.write("a.jsonl", b"1\n2\n")
    assert contents(source)["a.jsonl"] == file_sha256(local)
    put(memory, "a.jsonl", b"1\n3\n")
    later = folder.source(path=memory)
    assert later.head().revision != revision
    # What was fetched is there still, at the revision that had it.
    assert later.open("a.jsonl", revision).read_bytes() == b"1\n2\n"
    assert later.open("a.jsonl", later.head().revision).read_bytes() == b"1\n3\n"


def test_what_was_fetched_is_not_fetched_again(
    folder: Folder, memory: str, monkeypatch: pytest.MonkeyPatch
):
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(folder_module, "SETTLED_SECONDS", 0.0)
    put(memory, "a.jsonl", b"1\n")
    head = folder.source(path=memory).head()
    fetched: list[str] = []
    fetch = MemoryFileSystem.get_file

    def recorded(self: MemoryFileSystem, path: str, to: str, **options: Any) -> None:
        fetched.append(path)
        fetch(self, path, to, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", recorded)
    again = folder.source(path=memory)
    assert again.head() == head
    again.open("a.jsonl", head.revision)
    assert fetched == []
    put(memory, "b.jsonl", b"2\n")
    folder.source(path=memory).head()
    assert [Path(path).name for path in fetched] == ["b.jsonl"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("https://example.com/rows", "web server"),
        ("nonsense://rows", "not a URL that fsspec knows"),
    ],
)
def test_urls_that_cannot_be_watched_are_refused(folder: Folder, path: str, said: str):
    with pytest.raises(ConfigError, match=said):
        folder.source(path=path)


@pytest.mark.parametrize(
    "path", ["ftp://user:hunter2@host/rows", "zip://a.csv::https://user:hunter2@host/rows.zip"]
)
def test_a_password_in_a_path_is_refused_and_not_repeated(tmp_path: Path, path: str):
    config = tmp_path / "ct.yaml"
    config.write_text(
        f"base_model: {{repo: acme/base}}\nadapter_repo: acme/adapter\ndatasets: [{{path: '{path}'}}]\n"
    )
    with pytest.raises(ConfigError, match=r"datasets\.0\.path: must ") as caught:
        load_config(config)
    assert "hunter2" not in str(caught.value)
