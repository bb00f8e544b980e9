"""Rows in a bucket, on a real S3 server on loopback."""

import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from moto.server import ThreadedMotoServer

from ct_llm.config import DatasetConfig
from ct_llm.errors import ConfigError, CtError, DataError, StorageError
from ct_llm.sources.row_counts import count_rows
from ct_llm.sources.source import Source, open_source

SECRET = "wJalrXUtnFEMI"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


class Bucket:
    def __init__(self, endpoint: str, cache: Path) -> None:
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)
        self.cache = cache
        self.name = "rows"
        self.client.create_bucket(Bucket=self.name)

    def put(self, path: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"chats/{path}", Body=content)

    def source(self, path: str = "s3://rows/chats", **dataset: str) -> Source:
        config = DatasetConfig.model_validate({"path": path, **dataset})
        return open_source(config, HfApi(token=False), self.cache)


@pytest.fixture
def bucket(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "tester")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = Bucket(server, tmp_path)
    yield bucket
    for page in bucket.client.get_paginator("list_objects_v2").paginate(Bucket="rows"):
        for item in page.get("Contents", ()):
            bucket.client.delete_object(Bucket="rows", Key=item["Key"])
    bucket.client.delete_bucket(Bucket="rows")


def contents(source: Source) -> dict[str, str]:
    files = source.files(source.head().revision)
    assert files is not None
    return {file.path: file.content_id for file in files}


def row_counts(source: Source) -> dict[str, int | None]:
    revision = source.head().revision
    files = source.files(revision)
    assert files is not None
    return {file.path: file.num_rows for file in count_rows(source, revision, files)}


def parquet(num_rows: int, num_bytes: int) -> bytes:
    noise = np.random.default_rng(0).bytes(num_bytes)
    step = num_bytes // num_rows
    sink = io.BytesIO()
    pq.write_table(
        pa.table({"x": [noise[i * step : (i + 1) * step] for i in range(num_rows)]}), sink
    )
    return sink.getvalue()


def test_files_of_every_kind_are_listed_and_counted(bucket: Bucket):
    rows = b'{"text": "a"}\n' * 3
    bucket.put("a.jsonl", rows)
    bucket.put("deep/er/b.jsonl.gz", gzip.compress(rows))
    bucket.put("c.csv", b"q,a\n1,2\n")
    bucket.put("d.parquet", parquet(100, 10_000))
    bucket.put("test.jsonl", rows)
    bucket.put("README.txt", b"hello")
    bucket.client.put_object(Bucket="rows", Key="other/e.jsonl", Body=rows)
    assert row_counts(bucket.source()) == {
        "a.jsonl": 3,
        "c.csv": 1,
        "d.parquet": 100,
        "deep/er/b.jsonl.gz": 3,
    }
    assert row_counts(bucket.source(files="deep/**")) == {"deep/er/b.jsonl.gz": 3}
    assert row_counts(bucket.source(split="test")) == {"test.jsonl": 3}


def test_the_readme_of_a_bucket_counts_too(bucket: Bucket):
    bucket.put("README.md", b"---\nconfigs:\n- config_name: a\n  data_files: a/*\n---\n")
    bucket.put("a/x.jsonl", b"1\n")
    bucket.put("b/x.jsonl", b"1\n2\n")
    assert row_counts(bucket.source()) == {"a/x.jsonl": 1}


def test_a_revision_follows_the_content_not_the_time(bucket: Bucket):
    bucket.put("a.jsonl", b"1\n")
    head = bucket.source().head()
    assert head.as_of is not None and head.as_of.endswith("Z")
    bucket.put("a.jsonl", b"1\n")
    assert bucket.source().head().revision == head.revision
    bucket.put("b.jsonl", b"1\n")
    later = bucket.source()
    assert later.head().revision != head.revision
    assert later.files(head.revision) is None
    assert set(contents(later)) == {"a.jsonl", "b.jsonl"}
    assert len(set(contents(later).values())) == 1


def test_a_footer_is_read_of_a_large_parquet_file(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    bucket.put("a.parquet", parquet(1_000, 6_000_000))
    source = bucket.source()
    revision = source.head().revision
    asked: list[int] = []
    read = source.read_range

    def recorded(path: str, revision: str, start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return read(path, revision, start, stop)

    monkeypatch.setattr(source, "read_range", recorded)
    files = source.files(revision)
    assert files is not None
    assert [file.num_rows for file in count_rows(source, revision, files)] == [1_000]
    assert sum(asked) <= 64 * 1024
    assert not (bucket.cache / "files").exists()


def test_nothing_is_fetched_twice(bucket: Bucket):
    bucket.put("a.jsonl", b"1\n2\n")
    source = bucket.source()
    revision = source.head().revision
    local = source.open("a.jsonl", revision)
    assert local.read_bytes() == b"1\n2\n"
    bucket.put("b.jsonl", b"1\n2\n")
    again = bucket.source()
    later = again.head().revision
    # By content: another process, another name, and the object itself is gone.
    bucket.client.delete_object(Bucket="rows", Key="chats/b.jsonl")
    assert again.open("b.jsonl", later) == local
    assert [path.name for path in (bucket.cache / "files").iterdir()] == [local.name]


def test_an_earlier_revision_is_read_while_new_files_arrive(bucket: Bucket):
    bucket.put("a.jsonl", b"1\n")
    revision = bucket.source().head().revision
    bucket.put("b.jsonl", b"2\n")
    assert bucket.source().open("a.jsonl", revision).read_bytes() == b"1\n"


def test_a_file_that_changed_since_is_refused(bucket: Bucket):
    bucket.put("a.jsonl", b"1\n")
    bucket.put("b.parquet", parquet(10, 1_000))
    revision = bucket.source().head().revision
    bucket.put("a.jsonl", b"2\n")
    bucket.client.delete_object(Bucket="rows", Key="chats/b.parquet")
    source = bucket.source()
    with pytest.raises(DataError, match=r"a\.jsonl was changed or removed since it was listed"):
        source.open("a.jsonl", revision)
    with pytest.raises(DataError, match=r"b\.parquet was changed or removed"):
        source.read_range("b.parquet", revision, 0, 10)


def test_hostile_names_stay_in_the_cache(bucket: Bucket):
    bucket.put("../../../escape.jsonl", b"1\n")
    bucket.put("a/..//b.jsonl", b"1\n2\n")
    source = bucket.source()
    revision = source.head().revision
    for file in source.files(revision) or ():
        assert source.open(file.path, revision).parent == bucket.cache / "files"
    assert not list(bucket.cache.parent.glob("*.jsonl"))


def test_more_files_than_one_page(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    for i in range(25):
        bucket.put(f"{i:04}.jsonl", b"1\n")
    page = bucket.client.list_objects_v2(Bucket="rows")
    assert page["IsTruncated"] and page["KeyCount"] == 10
    assert len(contents(bucket.source())) == 25


# ---------------------------------------------------------------- trouble


def refused(source: Source, kind: type[CtError], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        source.head()
    assert SECRET not in str(caught.value)


def test_a_bucket_that_is_not_there(bucket: Bucket):
    refused(bucket.source("s3://nobody/rows"), ConfigError, "no such bucket")


def test_an_empty_prefix_has_no_files(bucket: Bucket):
    assert contents(bucket.source("s3://rows/nothing/yet")) == {}


def test_a_single_object_is_not_a_folder(bucket: Bucket):
    bucket.put("a.jsonl", b"1\n")
    refused(bucket.source("s3://rows/chats/a.jsonl"), ConfigError, "is a file, not a folder")


def test_no_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    refused(bucket.source(), DataError, "no credentials")


def test_a_server_that_is_not_there(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    refused(bucket.source(), StorageError, "Check the network")


def test_without_s3fs_the_extra_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"].__dict__["_registry"], "s3", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'ct_llm\[s3\]'"):
        bucket.source()
