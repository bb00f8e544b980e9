"""The scores file: one row an item and adapter, in the order that the gate must read them in."""

import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.cycle_dir import write_atomically
from ct_llm.digests import file_sha256
from ct_llm.errors import InputError
from ct_llm.records import ItemScore

SCHEMA = pa.schema(
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


def random_order(item_ids: Sequence[str], *, order_seed: int, slice_name: str) -> list[str]:
    """The items in one random permutation, from their identities alone: no score has been seen.

    Items are sorted by sha256 of seed, slice, the whole set of items and the item, so the order is
    the same on every machine and with every version of every library, whatever order they came in.
    """
    whole = sha256("\0".join(sorted(item_ids)).encode()).hexdigest()

    def key(item_id: str) -> bytes:
        return sha256(f"{order_seed}\0{slice_name}\0{whole}\0{item_id}".encode()).digest()

    return sorted(item_ids, key=key)


def write_scores(path: Path, scores: Sequence[ItemScore]) -> None:
    """All of it or nothing. Raises StorageError."""
    # Generated text may hold half a surrogate pair, which no UTF-8 file can.
    rows = [
        {
            key: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
            for key, value in score.model_dump().items()
        }
        for score in scores
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())


def read_scores(path: Path, digest: str | None = None) -> list[ItemScore]:
    """Every row in file order. `digest`: the sha256 that the file must have.

    Raises InputError when the file is missing, is no scores file or has another digest.
    """
    try:
        if digest is not None and file_sha256(path) != digest:
            raise InputError(
                f"{path} was changed after it was evaluated. Run `ct-llm evaluate` again."
            )
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such scores file. Run `ct-llm evaluate` first.") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from None
    if not table.schema.equals(SCHEMA):
        raise InputError(
            f"{path} is not a scores file: expected columns {', '.join(SCHEMA.names)}, "
            f"found {', '.join(table.schema.names)}."
        )
    return [ItemScore.model_construct(**row) for row in table.to_pylist()]
