"""The two files of an evaluation: the items in their random order, and their scores."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.cycle_dir import write_atomically
from ct_llm.digests import file_sha256
from ct_llm.errors import InputError
from ct_llm.records import ItemScore, OrderedItem

ITEMS_SCHEMA = pa.schema(
    [
        pa.field("slice", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("cluster", pa.string()),
    ]
)
SCORES_SCHEMA = pa.schema(
    [
        pa.field("slice", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("adapter", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("output", pa.string(), nullable=False),
    ]
)


def write_items(path: Path, items: Sequence[OrderedItem]) -> None:
    """Every item of every slice, in the one random order. Raises StorageError."""
    _write(path, [item._asdict() for item in items], ITEMS_SCHEMA)


def read_items(path: Path, digest: str | None = None) -> list[OrderedItem]:
    """In file order. `digest`: the sha256 that the file must have. Raises InputError."""
    return [OrderedItem(**row) for row in _read(path, digest, ITEMS_SCHEMA, "items")]


def write_scores(path: Path, scores: Iterable[ItemScore]) -> None:
    """All of it or nothing. Raises StorageError."""
    _write(path, [score.model_dump() for score in scores], SCORES_SCHEMA)


def read_scores(path: Path, digest: str | None = None) -> list[ItemScore]:
    """Every row in file order. `digest`: the sha256 that the file must have. Raises InputError."""
    return [
        ItemScore.model_construct(**row) for row in _read(path, digest, SCORES_SCHEMA, "scores")
    ]


def _write(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    # Generated text may hold half a surrogate pair, which no UTF-8 file can.
    clean = [
        {
            key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for key, value in row.items()
        }
        for row in rows
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(clean, schema), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def _read(path: Path, digest: str | None, schema: pa.Schema, what: str) -> list[dict[str, Any]]:
    try:
        if digest is not None and file_sha256(path) != digest:
            raise InputError(
                f"{path} was changed after it was evaluated. Run `ct-llm evaluate` again."
            )
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what} file. Run `ct-llm evaluate` first.") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from None
    if not table.schema.equals(schema):
        raise InputError(
            f"{path} is not {what} file of an evaluation: expected columns "
            f"{', '.join(schema.names)}, found {', '.join(table.schema.names)}."
        )
    return table.to_pylist()
