"""What is counted before a cycle is what `prepare` then reads."""

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.errors import DataError
from ct_llm.prepare.clean.files import SourceFile, read_rows
from ct_llm.sources.row_counts import text_rows
from ct_llm.sources.splits import holds_rows

PIECES = [
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b",",
    b":",
    b"\\",
    b"\n",
    b"\r\n",
    b" ",
    b"1",
    b"null",
    b";",
]
PIECES += [b"\t", b"\xff", "é".encode(), b'{"x": "a"}\n', b'"a\nb"', b"\xef\xbb\xbf"]


def num_read(path: Path) -> int | None:
    try:
        return sum(1 for _ in read_rows(SourceFile("acme/rows", path.name, path)))
    except DataError:
        return None


def num_counted(path: Path) -> int | None:
    try:
        return text_rows(path, path.name)
    except ValueError:
        return None


@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=30),
    ending=st.sampled_from(["jsonl", "csv", "tsv", "txt"]),
    packed=st.booleans(),
)
def test_whatever_can_be_read_was_counted(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], ending: str, packed: bool
):
    content = b"".join(pieces)
    path = tmp_path_factory.mktemp("rows") / (f"a.{ending}.gz" if packed else f"a.{ending}")
    path.write_bytes(gzip.compress(content) if packed else content)
    read = num_read(path)
    if read is not None:
        assert num_counted(path) == read


def test_real_files_have_as_many_rows_as_were_counted(real_data: Path):
    folders = [real_data / "train", real_data / "eval", real_data / "text"]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.*"))]
    counted = {path: num_counted(path) for path in paths if holds_rows(path.name, "**", text=True)}
    assert len(counted) > 20
    assert sum(rows or 0 for rows in counted.values()) > 30_000
    for path, rows in counted.items():
        assert rows == num_read(path), path
