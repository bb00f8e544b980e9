"""Rows out of .parquet, .jsonl/.ndjson, .json, .csv, .tsv and .txt files, one after the other.

All but Parquet, which packs itself, also as .gz or .zst.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ct_llm.errors import DataError, StorageError
from ct_llm.prepare.clean.delimited_rows import delimited_rows, text_rows
from ct_llm.prepare.clean.json_rows import json_rows
from ct_llm.prepare.clean.unparsable import Unparsable
from ct_llm.prepare.one_line import one_line
from ct_llm.sources.byte_streams import BadBytes, open_bytes, unpacked_name

__all__ = ["SourceFile", "Unparsable", "read_rows"]

_BATCH_ROWS = 1_000
_BATCH_BYTES = 64 * 1024**2
"""Decoded; a single row of more is too long."""
_VALUE_BYTES = 16
"""Of a number, decoded, at most."""

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
        raise DataError(f"{self.repo}: {one_line(self.path)}: {problem}")


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
        file.refuse(f"{one_line(str(error))}. Mend it and upload it again.")
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
        with pq.ParquetFile(file.local) as parquet:
            metadata, schema = parquet.metadata, parquet.schema_arrow
        yield from enumerate(_rows_of(file.local, metadata, schema))
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        file.refuse(f"not a readable Parquet file: {one_line(str(error))}. Upload it again.")


def _rows_of(local: Path, metadata: pq.FileMetaData, schema: pa.Schema) -> Iterator[Any]:
    """Texts are read as dictionaries: one that a file holds once and repeats a million times is in
    memory once, too, until its size is known. Arrow cannot do that with every encoding; such files are
    read row by row."""
    size, texts = _batch_size(metadata), _text_columns(metadata)
    try:
        with pq.ParquetFile(local, metadata=metadata, read_dictionary=texts) as parquet:
            next(parquet.iter_batches(1), None)
    except _DAMAGED:
        size, texts = 1, []
    with pq.ParquetFile(local, metadata=metadata, read_dictionary=texts) as parquet:
        for batch in parquet.iter_batches(size):
            for piece in _pieces(batch):
                yield from _batch_rows(piece, schema)


# Of damaged metadata, Arrow's column chunks end the process: only the schema and the sizes of groups
# are asked for.


def _text_columns(metadata: pq.FileMetaData) -> list[str]:
    """Paths of the columns that hold text or bytes."""
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("NONE", "STRING")
    ]


def _batch_size(metadata: pq.FileMetaData) -> int:
    """Rows at a time: fewer where they are large. A group's own size counts a run of a million nulls
    or zeros as nothing, so each value is taken to need some bytes."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    sizes = [group.total_byte_size / max(1, group.num_rows) for group in groups]
    largest = max(_VALUE_BYTES * metadata.num_columns, *sizes, 1)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / largest)))


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in parts that may be decoded; only a single row may be larger."""
    if batch.num_rows <= 1 or _row_bytes(batch) <= _BATCH_BYTES:
        yield batch
    else:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half))
        yield from _pieces(batch.slice(half))


def _row_bytes(batch: pa.RecordBatch) -> int:
    return sum(map(_decoded_bytes, batch.columns))


def _decoded_bytes(array: pa.Array) -> int:
    if pa.types.is_dictionary(array.type):
        values = array.dictionary
        if pa.types.is_primitive(values.type):
            return array.nbytes
        lengths = pc.call_function("binary_length", [values]).take(array.indices)
        return pc.call_function("sum", [lengths]).as_py() or 0
    if pa.types.is_struct(array.type):
        return sum(map(_decoded_bytes, array.flatten()))
    if pa.types.is_map(array.type):
        start, end = array.offsets[0].as_py(), array.offsets[-1].as_py()
        parts = (array.keys, array.items)
        return sum(_decoded_bytes(part.slice(start, end - start)) for part in parts)
    if pa.types.is_nested(array.type):  # lists; flatten heeds what a slice leaves out
        return _decoded_bytes(array.flatten())
    return array.nbytes


def _batch_rows(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[Any]:
    if batch.num_rows == 1 and (size := _row_bytes(batch)) > _BATCH_BYTES:
        yield Unparsable(f"a row of {size:,} bytes", "too_long")
        return
    nested = [field.name for field in batch.schema if pa.types.is_nested(field.type)]
    try:
        rows = _plain(batch, schema).to_pylist()
    except _BAD_VALUES:  # find the rows that have them
        rows = [_single_row(batch.slice(index, 1), schema) for index in range(batch.num_rows)]
    for row in rows:
        if nested and isinstance(row, dict):
            row.update({name: _without_padding(row[name]) for name in nested})
        yield row


def _plain(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Without dictionaries, whose values are slow to turn into Python's, where there is room for it."""
    if sum(map(_cast_bytes, batch.columns)) > _BATCH_BYTES:
        return batch
    try:
        batch.validate(full=True)  # a cast goes wherever damaged indices point to
        return batch.cast(schema)
    except (
        pa.ArrowException
    ):  # not every type can be cast; as dictionaries they are read all the same
        return batch


def _cast_bytes(array: pa.Array) -> float:
    """What Arrow reserves for a cast: whole children, and dictionaries at their mean size."""
    if pa.types.is_dictionary(array.type):
        return len(array) * array.dictionary.nbytes / max(1, len(array.dictionary))
    if pa.types.is_struct(array.type):
        return sum(_cast_bytes(array.field(index)) for index in range(array.type.num_fields))
    if pa.types.is_map(array.type):
        return _cast_bytes(array.keys) + _cast_bytes(array.items)
    if pa.types.is_nested(array.type):
        return _cast_bytes(array.values) if hasattr(array, "values") else math.inf
    return array.nbytes


def _single_row(row: pa.RecordBatch, schema: pa.Schema) -> Any:
    try:
        return row.to_pylist()[0]
    except _BAD_VALUES:
        # Without the dictionaries: the texts of other rows are in them.
        return Unparsable(str(row.take([0]).cast(schema)))


def _without_padding(value: Any) -> Any:
    """Structs without their nulls: Parquet gives all structs of a column the keys of all others, so
    that every tool call would have the arguments of every tool."""
    if isinstance(value, dict):
        return {key: _without_padding(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_padding(item) for item in value]
    return value
