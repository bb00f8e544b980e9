"""A dataset repo on a real Hub: what is asked, what it costs, and what changes under our hands."""

import gzip
import io
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from ct_llm.config import DatasetConfig
from ct_llm.errors import (
    ConfigError,
    DataError,
    HubNotFoundError,
    HubUnavailableError,
)
from ct_llm.sources.row_counts import count_rows
from ct_llm.sources.source import Source, open_source
from tests.integration.wire import Wire

NOWHERE = "f" * 40
_numbers = itertools.count()


class Repo:
    def __init__(self, api: HfApi, cache: Path) -> None:
        self.api = api
        self.cache = cache
        self.id = f"sources/rows-{next(_numbers)}"
        api.create_repo(self.id, repo_type="dataset")

    def push(self, files: dict[str, bytes]) -> str:
        """Returns the commit's sha."""
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        return self.api.create_commit(
            self.id, operations, commit_message="change", repo_type="dataset"
        ).oid

    def source(self, **dataset: str) -> Source:
        place = dataset if "path" in dataset else {"repo": self.id, **dataset}
        return open_source(DatasetConfig.model_validate(place), self.api, self.cache)


@pytest.fixture
def repo(api: HfApi, tmp_path: Path) -> Repo:
    return Repo(api, tmp_path)


def paths(source: Source, revision: str) -> list[str]:
    files = source.files(revision)
    assert files is not None
    return [file.path for file in files]


def parquet(num_rows: int, num_bytes: int = 0) -> bytes:
    import numpy as np

    noise = np.random.default_rng(0).bytes(num_bytes)
    step = max(1, num_bytes // num_rows)
    sink = io.BytesIO()
    table = pa.table({"text": [noise[i * step : (i + 1) * step] for i in range(num_rows)]})
    pq.write_table(table, sink)
    return sink.getvalue()


def test_the_head_is_one_small_request_whatever_the_size_of_the_repo(repo: Repo, wire: Wire):
    sha = repo.push({f"data/part-{i:05}.jsonl": b"{}\n" * i for i in range(1, 600)})
    wire.reset()
    head = repo.source().head()
    assert head.revision == sha
    assert head.as_of is not None and head.as_of.endswith("Z") and len(head.as_of) == 20
    assert len(wire.requests) == 1
    assert wire.num_bytes < 2_000


def test_a_footer_is_read_of_a_large_parquet_file(repo: Repo, wire: Wire):
    content = parquet(1_000, 6_000_000)
    sha = repo.push({"a.parquet": content})
    source = repo.source()
    files = source.files(sha)
    assert files is not None and files[0].num_bytes > 5_000_000
    wire.reset()
    assert [file.num_rows for file in count_rows(source, sha, files)] == [1_000]
    assert len(wire.requests) == 1
    assert wire.num_bytes <= 64 * 1024


def test_text_is_downloaded_once_and_compressed_text_too(repo: Repo, wire: Wire):
    rows = b'{"text": "a"}\n' * 5
    sha = repo.push({"a.jsonl": rows, "b.jsonl.gz": gzip.compress(rows * 2), "c.csv": b"q\n1\n"})
    source = repo.source()
    files = source.files(sha)
    assert files is not None
    counted = count_rows(source, sha, files)
    assert {file.path: file.num_rows for file in counted} == {
        "a.jsonl": 5,
        "b.jsonl.gz": 10,
        "c.csv": 1,
    }
    wire.reset()
    assert source.open("a.jsonl", sha).read_bytes() == rows
    assert wire.requests == []


def test_content_has_one_id_under_any_name(repo: Repo):
    large = parquet(10, 100_000)
    first = repo.push({"a.jsonl": b"{}\n", "a.parquet": large})
    second = repo.push({"b.jsonl": b"{}\n", "b.parquet": large})
    before = repo.source().files(first)
    after = repo.source().files(second)
    assert before is not None and after is not None
    ids = {file.path: file.content_id for file in after}
    assert ids["b.jsonl"] == ids["a.jsonl"] == before[0].content_id
    assert ids["b.parquet"] == ids["a.parquet"] == before[1].content_id


def test_a_revision_that_is_gone_has_no_files_but_a_repo_that_is_gone_is_an_error(repo: Repo):
    assert repo.source().files(NOWHERE) is None
    with pytest.raises(HubNotFoundError, match="no such repo"):
        repo.source(repo="sources/nobody").head()
    with pytest.raises(HubNotFoundError, match="no such revision"):
        repo.source(revision="nowhere").head()


def test_a_branch_or_tag_can_be_followed(repo: Repo):
    first = repo.push({"a.jsonl": b"{}\n"})
    repo.api.create_tag(repo.id, tag="v1", revision=first, repo_type="dataset")
    repo.push({"b.jsonl": b"{}\n{}\n"})
    assert repo.source(revision="v1").head().revision == first


# ---------------------------------------------------------------- configs in the README

README = b"""---
configs:
- config_name: en
  data_files: en/*
- config_name: de
  data_files: [{split: train, path: de/*}, {split: test, path: other/*}]
---
"""


def test_the_readme_is_read_once_for_each_content(repo: Repo, wire: Wire):
    files = {"README.md": README, "en/a.jsonl": b"1\n", "de/a.jsonl": b"2\n", "other/a.csv": b"x\n"}
    first = repo.push(files)
    assert paths(repo.source(config="de"), first) == ["de/a.jsonl"]
    second = repo.push({"de/b.jsonl": b"3\n"})
    wire.reset()
    assert paths(repo.source(config="de"), second) == ["de/a.jsonl", "de/b.jsonl"]
    assert paths(repo.source(config="de", split="test"), second) == ["other/a.csv"]
    assert not wire.asked("README")
    third = repo.push({"README.md": README.replace(b"de/*", b"de/b*")})
    wire.reset()
    assert paths(repo.source(config="de"), third) == ["de/b.jsonl"]
    assert wire.asked("README") == 1
    with pytest.raises(ConfigError, match="Its README has: en, de"):
        repo.source(config="fr").files(third)


def test_all_files_need_no_readme(repo: Repo, wire: Wire):
    sha = repo.push({"README.md": README, "x.jsonl": b"1\n"})
    wire.reset()
    assert paths(repo.source(split="all"), sha) == ["x.jsonl"]
    assert not wire.asked("README")


def test_a_damaged_readme_is_named(repo: Repo):
    sha = repo.push({"x.jsonl": b"1\n"})
    readme = b"---\nconfigs:\n- data_files: x\n---\n"
    sha = repo.push({"README.md": readme, "x.jsonl": b"1\n"})
    with pytest.raises(DataError, match=r"README\.md cannot be read .*config_name"):
        repo.source().files(sha)


# ---------------------------------------------------------------- hf:// paths


def test_a_folder_of_a_repo_by_url(repo: Repo, api: HfApi):
    sha = repo.push({"a.jsonl": b"{}\n", "en [1]/b.jsonl": b"{}\n", "en [1]/deep/c.jsonl": b"{}\n"})
    place = f"hf://datasets/{repo.id}"
    assert paths(repo.source(path=place), sha) == [
        "a.jsonl",
        "en [1]/b.jsonl",
        "en [1]/deep/c.jsonl",
    ]
    folder = repo.source(path=f"{place}/en [1]/", files="*")
    assert paths(folder, sha) == ["en [1]/b.jsonl"]
    assert folder.open("en [1]/b.jsonl", sha).read_bytes() == b"{}\n"
    assert folder.head().revision == sha
    pinned = repo.source(path=f"{place}@{sha}/en [1]")
    repo.push({"d.jsonl": b"{}\n"})
    assert pinned.head().revision == sha
    with pytest.raises(HubNotFoundError, match="refs/pr/1"):
        repo.source(path=f"{place}@refs%2Fpr%2F1").head()


@pytest.mark.parametrize("path", ["hf://acme/model", "hf://datasets/acme", "hf://buckets/acme/x"])
def test_other_hub_urls_are_refused(repo: Repo, path: str):
    with pytest.raises(ConfigError, match="hf://datasets/owner/name"):
        repo.source(path=path)


# ---------------------------------------------------------------- trouble


def test_a_damaged_file_is_named_or_skipped(repo: Repo):
    sha = repo.push({"a.parquet": b"no parquet at all", "b.jsonl": b"{}\n"})
    source = repo.source()
    files = source.files(sha)
    assert files is not None
    with pytest.raises(DataError, match=r"rows of a\.parquet cannot be counted"):
        count_rows(source, sha, files)
    counted = count_rows(source, sha, files, skip_unreadable=True)
    assert [file.num_rows for file in counted] == [None, 1]


def test_a_proxy_that_sends_whole_files_is_noticed(repo: Repo, wire: Wire):
    sha = repo.push({"a.parquet": parquet(100, 1_000_000)})
    wire.drops_range = True
    wire.reset()
    with pytest.raises(HubUnavailableError, match="the whole file was offered"):
        repo.source().read_range("a.parquet", sha, 0, 100)
    assert wire.num_bytes < 100_000
