"""Rows out of .parquet, .jsonl/.ndjson and .json files, one after the other."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.errors import DataError, StorageError

_PARQUET_BATCH = 1_000
_decoder = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Unparsable:
    """A row that could not be decoded: its bytes as text, what is no UTF-8 escaped."""

    text: str


@dataclass(frozen=True)
class SourceFile:
    """A file of a dataset repo, on this disk."""

    repo: str
    path: str
    local: Path

    def refuse(self, problem: str) -> NoReturn:
        raise DataError(f"{self.repo}: {self.path}: {problem}")


def read_rows(file: SourceFile) -> Iterator[tuple[int, Any]]:
    """Index and value of every row; the value is whatever JSON held, or Unparsable.

    The index counts from 0: lines in JSON Lines, elements in a JSON array, rows in Parquet. Raises
    DataError when the file as a whole is not what its ending says, StorageError when the disk fails.
    """
    try:
        if file.path.lower().endswith(".parquet"):
            yield from _parquet_rows(file)
        elif file.path.lower().endswith((".json", ".jsonl", ".ndjson")):
            yield from _json_rows(file)
        else:
            file.refuse("not a kind of file that is read; .parquet, .jsonl, .ndjson and .json are.")
    except OSError as error:
        raise StorageError(f"could not read {file.local}: {error.strerror or error}.") from error


# ---------------------------------------------------------------- Parquet


def _parquet_rows(file: SourceFile) -> Iterator[tuple[int, Any]]:
    try:
        index = 0
        with pq.ParquetFile(file.local) as parquet:
            for batch in parquet.iter_batches(_PARQUET_BATCH):
                for row in _batch_rows(batch):
                    yield index, row
                    index += 1
    except FileNotFoundError:
        raise
    # pyarrow reports a damaged file as OSError as well.
    except (pa.ArrowException, OSError) as error:
        file.refuse(f"not a readable Parquet file: {error}. Upload it again.")


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    try:
        yield from batch.to_pylist()
    except ValueError:  # text that is not UTF-8, dates out of range: find the rows that have them
        for index in range(batch.num_rows):
            row = batch.slice(index, 1)
            try:
                yield row.to_pylist()[0]
            except ValueError:
                yield Unparsable(str(row))


# ---------------------------------------------------------------- JSON


def _json_rows(file: SourceFile) -> Iterator[tuple[int, Any]]:
    """An array of rows or a row per line, told apart by the first character.

    Both are found under .json on the Hub, and now and then under .jsonl.
    """
    with file.local.open("rb") as lines:
        bom = lines.read(3)
        start = 3 if bom == b"\xef\xbb\xbf" else 0
        lines.seek(start)
        head = lines.read(4096).lstrip()
        lines.seek(start)
        if head.startswith(b"["):
            yield from _array_rows(file, lines.read())
        else:
            for index, line in enumerate(lines):
                if line.strip():
                    yield index, _parse_line(line)


def _parse_line(line: bytes) -> Any:
    try:
        return _decoder.decode(line.decode())
    except (
        ValueError,
        RecursionError,
    ):  # ValueError: not UTF-8, not JSON, or a number beyond limits
        return Unparsable(line.decode(errors="backslashreplace").rstrip("\r\n"))


def _array_rows(file: SourceFile, data: bytes) -> Iterator[tuple[int, Any]]:
    """Decode element by element: the text is held once, the rows are not."""
    decode = _decoder.raw_decode
    index = 0
    try:
        text = data.decode()
        del data
        position = _skip_blank(text, text.index("[") + 1)
        closed = text.startswith("]", position)
        while not closed:
            value, position = decode(text, position)
            yield index, value
            index += 1
            position = _skip_blank(text, position)
            closed = text.startswith("]", position)
            if not closed:
                if not text.startswith(",", position):
                    raise json.JSONDecodeError("expected ',' or ']'", text, position)
                position = _skip_blank(text, position + 1)
        end = _skip_blank(text, position + 1)
        if end != len(text):
            raise json.JSONDecodeError("text after the array", text, end)
    except (ValueError, RecursionError) as error:
        file.refuse(f"not a JSON array, after {index} rows: {error}. Mend it and upload it again.")


def _skip_blank(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position
