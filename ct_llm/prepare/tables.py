"""Parquet tables of a cycle: written row by row, seen only when whole, the same bytes every time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.errors import StorageError

_PLACE = [("repo", pa.string()), ("path", pa.string()), ("row_index", pa.int64())]
_ROW = [
    ("row_id", pa.string()),
    ("messages", pa.string()),
    ("tools", pa.string()),
    ("source", pa.string()),
    *_PLACE,
]

TRAIN = pa.schema([*_ROW, ("replay", pa.bool_())])
HOLDOUT = pa.schema(_ROW)
QUARANTINE = pa.schema([*_PLACE, ("reason", pa.string()), ("original", pa.string())])
CONTAMINATED = pa.schema(
    [
        *_PLACE,
        ("slice", pa.string()),
        ("item_id", pa.string()),
        ("kind", pa.string()),
        ("containment", pa.float64()),
    ]
)

ROWS_PER_GROUP = 4_096

Append = Callable[[tuple[Any, ...]], None]


@contextmanager
def parquet_file(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """The file appears under its name when the block ends well, and not at all when it does not.

    Raises StorageError.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            yield writer
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"could not write {path}: {error.strerror or error}. Free space or mend the folder, then "
            "run the same command again."
        ) from error
    finally:
        with suppress(OSError):  # gone after the rename; else the first error is the one to tell
            temporary.unlink()


@contextmanager
def table(path: Path, schema: pa.Schema) -> Iterator[Append]:
    """Gives a function that appends a row (values in the schema's order). As `parquet_file`."""
    pending: list[tuple[Any, ...]] = []
    with parquet_file(path, schema) as writer:

        def append(row: tuple[Any, ...]) -> None:
            pending.append(row)
            if len(pending) == ROWS_PER_GROUP:
                writer.write_batch(_batch(pending, schema))
                pending.clear()

        yield append
        writer.write_batch(_batch(pending, schema))


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(schema)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    return pa.record_batch(arrays, schema=schema)
