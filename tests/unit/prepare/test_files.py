import json
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.errors import DataError, StorageError
from ct_llm.prepare.files import SourceFile, Unparsable, read_rows

ROWS = [{"a": 1}, {"a": "ü\u2028"}, {"b": [None, {"c": 2.5}]}]
LINES = "\n".join(map(json.dumps, ROWS))


def read(tmp_path: Path, name: str, data: bytes) -> list:
    local = tmp_path / name
    local.write_bytes(data)
    return list(read_rows(SourceFile("acme/chats", name, local)))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", LINES.encode()),
        ("rows.ndjson", LINES.replace("\n", "\r\n").encode() + b"\r\n"),
        ("rows.json", LINES.encode()),
        ("ROWS.JSON", json.dumps(ROWS).encode()),
        ("rows.json", json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
        ("rows.jsonl", b" \n" + json.dumps(ROWS).encode()),
        ("rows.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("rows.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
    ],
)
def test_json_rows_under_every_name_and_layout(tmp_path, name, data):
    assert read(tmp_path, name, data) == list(enumerate(ROWS))


def test_the_index_of_a_json_line_is_its_line(tmp_path):
    assert read(tmp_path, "rows.jsonl", b'{"a":1}\n\n{"a":2}\n') == [(0, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize(
    "line", [b'{"a": ', b"{'a': 1}", b'{"a": "\xff"}', b"[" * 100_000, b"9" * 5_000]
)
def test_a_bad_line_is_one_unparsable_row(tmp_path, line):
    rows = read(tmp_path, "rows.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert [value for _, value in rows][::2] == [{"a": 1}, {"a": 2}]
    assert isinstance(rows[1][1], Unparsable)


@pytest.mark.parametrize(
    "data", [b"[1, 2", b"[1 2]", b"[1,]", b"[1]]", b"[,1]", b'["\xff"]', b"[", b"[" * 100_000]
)
def test_a_broken_array_names_the_file(tmp_path, data):
    with pytest.raises(DataError, match=r"acme/chats: rows\.json: not a JSON array"):
        read(tmp_path, "rows.json", data)


def test_parquet_rows_in_order(tmp_path):
    table = pa.table({"n": range(2_500), "text": [f"row {n}" for n in range(2_500)]})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = read(tmp_path, "rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    assert rows == [(n, {"n": n, "text": f"row {n}"}) for n in range(2_500)]


def test_only_the_damaged_row_of_a_parquet_batch_is_unparsable(tmp_path):
    not_utf8 = pa.array([b"fine", b"\xff\xfe", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": not_utf8}), tmp_path / "made.parquet")
    rows = read(tmp_path, "rows.parquet", (tmp_path / "made.parquet").read_bytes())
    assert [value for _, value in rows][::2] == [{"text": "fine"}] * 2
    assert isinstance(rows[1][1], Unparsable)


def test_dates_in_parquet_are_values(tmp_path):
    pq.write_table(pa.table({"day": [date(2026, 1, 2)]}), tmp_path / "rows.parquet")
    data = (tmp_path / "rows.parquet").read_bytes()
    assert read(tmp_path, "rows.parquet", data) == [(0, {"day": date(2026, 1, 2)})]


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_truncated_parquet_names_the_file(tmp_path, cut):
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(1_000)]}), tmp_path / "x")
    with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
        read(tmp_path, "rows.parquet", (tmp_path / "x").read_bytes()[:cut])


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"rows\.csv"):
        read(tmp_path, "rows.csv", b"a,b\n")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_file_that_vanished_from_the_disk_is_not_the_datasets_fault(tmp_path, name):
    with pytest.raises(StorageError):
        list(read_rows(SourceFile("acme/chats", name, tmp_path / name)))
