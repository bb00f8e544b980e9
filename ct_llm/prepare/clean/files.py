"""Rows out of .parquet, .jsonl/.ndjson, .json, .csv, .tsv and .txt files, one after the other.

All but Parquet, which packs itself, also as .gz or .zst.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.errors import DataError, StorageError
from ct_llm.prepare.clean.delimited_rows import delimited_rows, text_rows
from ct_llm.prepare.clean.json_rows import json_rows
from ct_llm.prepare.clean.unparsable import Unparsable
from ct_llm.sources.byte_streams import BadBytes, open_bytes, unpacked_name

__all__ = ["SourceFile", "Unparsable", "read_rows"]

_BATCH_ROWS = 1_000
_BATCH_BYTES = 64 * 1024**2

_READERS: dict[str, Callable[[BufferedReader], Iterator[tuple[int, Any]]]] = {
    ".json": json_rows,
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".csv": partial(delimited_rows, delimiter=","),
    ".tsv": partial(delimited_rows, delimiter="\t"),
    ".txt": text_rows,
}


@dataclass(frozen=True)
class SourceFile:
    """A file of a dataset, on this disk."""

    repo: str
    """Hub id or place of the dataset, as people know it."""
    path: str
    local: Path

    def refuse(self, problem: str) -> NoReturn:
        raise DataError(f"{self.repo}: {self.path}: {problem}")


def read_rows(file: SourceFile) -> Iterator[tuple[int, Any]]:
    """Index and value of every row: a dict, a text, whatever JSON held, or Unparsable.

    The index counts from 0: lines in JSON Lines and text, elements in a JSON array, rows elsewhere.
    Raises DataError when the file as a whole is not what its ending says, StorageError when the disk
    fails.
    """
    try:
        if file.path.lower().endswith(".parquet"):
            yield from _parquet_rows(file)
            return
        name = unpacked_name(file.path)
        reader = next((r for ending, r in _READERS.items() if name.endswith(ending)), None)
        if reader is None:
            file.refuse(
                f"not a kind of file that is read; .parquet, {', '.join(_READERS)} are, and all but "
                "the first also as .gz and .zst."
            )
        with open_bytes(file.local, file.path) as stream:
            yield from reader(stream)
    except BadBytes as error:
        file.refuse(f"{error}. Mend it and upload it again.")
    except OSError as error:
        raise StorageError(f"could not read {file.local}: {error.strerror or error}.") from error


# ---------------------------------------------------------------- Parquet


_BAD_VALUES = (ValueError, ArithmeticError, LookupError, TypeError)
"""Text that is not UTF-8, dates out of range, unknown time zones."""
_DAMAGED = (pa.ArrowException, OSError, *_BAD_VALUES, RecursionError, MemoryError)
"""Damage shows as whatever the damaged bytes happen to say: names that are no text, sizes beyond all
memory, indices that are not there."""


def _parquet_rows(file: SourceFile) -> Iterator[tuple[int, Any]]:
    try:
        index = 0
        with pq.ParquetFile(file.local) as parquet:
            for batch in parquet.iter_batches(_batch_size(parquet.metadata)):
                for row in _batch_rows(batch):
                    yield index, row
                    index += 1
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        file.refuse(f"not a readable Parquet file: {error}. Upload it again.")


def _batch_size(metadata: pq.FileMetaData) -> int:
    """Rows at a time: fewer where they are large."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1, largest))))


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Any]:
    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    try:
        rows = batch.to_pylist()
    except _BAD_VALUES:  # find the rows that have them
        rows = [_single_row(batch.slice(index, 1)) for index in range(batch.num_rows)]
    for row in rows:
        if nested and isinstance(row, dict):
            row.update({name: _without_padding(row[name]) for name in nested})
        yield row


def _single_row(row: pa.RecordBatch) -> Any:
    try:
        return row.to_pylist()[0]
    except _BAD_VALUES:
        return Unparsable(str(row))


def _without_padding(value: Any) -> Any:
    """Structs without their nulls: Parquet gives all structs of a column the keys of all others, so
    that every tool call would have the arguments of every tool."""
    if isinstance(value, dict):
        return {key: _without_padding(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_padding(item) for item in value]
    return value
