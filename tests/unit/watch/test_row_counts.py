"""Rows from a parquet footer and from JSON, and what is said of damaged files."""

import io
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.hub.dataset_repo import TAIL_BYTES, json_rows, parquet_rows


class Bytes:
    """A file's content that remembers which ranges were asked of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(self.content)
        self.ranges.append((start, stop))
        return self.content[start:stop]

    def rows(self) -> int:
        return parquet_rows(len(self.content), self.read)


def parquet(columns: dict[str, list[int]], row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=row_group_size)
    return sink.getvalue()


# ---------------------------------------------------------------- parquet


def test_a_file_smaller_than_the_tail_is_read_whole():
    file = Bytes(parquet({"x": [1, 2, 3]}))
    assert file.rows() == 3
    assert file.ranges == [(0, len(file.content))]


def test_no_rows_is_a_number():
    assert Bytes(parquet({"x": []})).rows() == 0


def test_only_the_tail_of_a_large_file_is_read():
    file = Bytes(b"PAR1" + b"\0" * 10_000_000 + parquet({"x": [1, 2]})[4:])
    assert file.rows() == 2
    assert file.ranges == [(len(file.content) - TAIL_BYTES, len(file.content))]


def test_of_a_large_footer_exactly_the_missing_part_is_read():
    content = parquet({f"column_{i}": list(range(20)) for i in range(100)}, row_group_size=1)
    footer = int.from_bytes(content[-8:-4], "little") + 8
    assert footer > TAIL_BYTES
    file = Bytes(content)
    assert file.rows() == 20
    tail = len(content) - TAIL_BYTES
    assert file.ranges == [(tail, len(content)), (len(content) - footer, tail)]


def cut(content: bytes) -> bytes:
    return content[:-3]


def scrambled(content: bytes) -> bytes:
    footer = int.from_bytes(content[-8:-4], "little")
    return content[: -8 - footer] + b"\xff" * footer + content[-8:]


def boasting(content: bytes) -> bytes:
    return content[:-8] + (2**31).to_bytes(4, "little") + b"PAR1"


def without_footer(content: bytes) -> bytes:
    return content[:-8] + bytes(4) + b"PAR1"


def encrypted(content: bytes) -> bytes:
    return content[:-4] + b"PARE"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "no PAR1"),
        (scrambled, "damaged"),
        (boasting, "claims 2147483648 bytes"),
        (without_footer, "damaged"),
        (encrypted, "encrypted"),
        (lambda _: b"", "0 bytes"),
        (lambda _: b"PAR1PAR1", "8 bytes"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "no PAR1"),
    ],
)
def test_a_damaged_footer_is_named_and_nothing_more_is_read(
    damage: Callable[[bytes], bytes], said: str
):
    file = Bytes(damage(parquet({"x": [1, 2, 3]})))
    with pytest.raises(ValueError, match=said):
        file.rows()
    assert len(file.ranges) <= 1


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": 2}\n', 2),
        ("no_newline_at_the_end.jsonl", b'{"x": 1}\n{"x": 2}', 2),
        ("blank_lines.jsonl", b'\n{"x": 1}\r\n  \r\n\n{"x": 2}\n\n', 2),
        ("empty.jsonl", b"", 0),
        ("a.ndjson", b'{"x": 1}\n', 1),
        ("array.json", b'[{"x": 1},\n {"x": 2},\n {"x": 3}]', 3),
        ("array_with_bom.json", b'\xef\xbb\xbf\n [{"x": 1}]', 1),
        ("no_rows.json", b"[]", 0),
        ("lines.json", b'{"x": 1}\n{"x": 2}\n', 2),
        ("one_row.json", b'{"x": 1}', 1),
        ("empty.json", b" \n", 0),
    ],
)
def test_rows_of_json(tmp_path: Path, name: str, content: bytes, rows: int):
    file = tmp_path / name
    file.write_bytes(content)
    assert json_rows(file) == rows


@pytest.mark.parametrize(
    "content",
    [
        b'[{"x": 1}, {"x"',
        b'{\n  "x": 1\n}\n',
        b"\x89PNG\r\n",
        b"[" * 200_000,
    ],
    ids=["cut", "one object over several lines", "not text", "too deep"],
)
def test_json_that_holds_no_rows_is_named(tmp_path: Path, content: bytes):
    file = tmp_path / "rows.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="neither a JSON array of rows nor one row a line"):
        json_rows(file)
