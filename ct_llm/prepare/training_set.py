"""Training set and holdout as Parquet, in an order that depends on the rows alone."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa

from ct_llm.prepare.columns import Rows
from ct_llm.prepare.split import shuffled
from ct_llm.prepare.tables import HOLDOUT, TRAIN, parquet_file

_ROWS_AT_ONCE = 2_048
"""Of the longest rows allowed by default, as many as one Arrow array of strings can hold."""


def write_train(path: Path, new: Rows, times: np.ndarray, replay: Rows, seed: int) -> str:
    """The new rows, each as often as `times` (int [n]) says, and the replayed ones; gives a digest.

    The digest is over what is trained on, in order, and over nothing else: not over files.
    """
    rows = Rows.join(new, replay)
    which = np.repeat(np.arange(len(rows)), np.concatenate([times, np.ones(len(replay), np.int64)]))
    # Which repetition of its row each one is: `which` is sorted.
    copy = np.arange(len(which)) - np.searchsorted(which, which)
    order = which[shuffled(rows.ids[which], seed, copy)]
    return _write(path, TRAIN, rows, order, replay=order >= len(new))


def write_holdout(path: Path, rows: Rows, seed: int) -> str:
    """The rows; gives a digest as `write_train` does."""
    order = shuffled(rows.ids, seed)
    return _write(path, HOLDOUT, rows, order, replay=np.zeros(len(order), bool))


def _write(path: Path, schema: pa.Schema, rows: Rows, order: np.ndarray, replay: np.ndarray) -> str:
    digest = sha256()
    with parquet_file(path, schema) as writer:
        for start in range(0, len(order), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            found = rows.gather(order[some], HOLDOUT.names)
            columns = {name: found[name] for name in found.column_names}
            columns["replay"] = pa.chunked_array([pa.array(replay[some])])
            ids, messages, tools = (
                columns[name].to_pylist() for name in ("row_id", "messages", "tools")
            )
            for row_id, text, tool, again in zip(ids, messages, tools, replay[some], strict=True):
                digest.update(row_id + f"{text}\0{tool or ''}\0{again}\0".encode())
            columns["row_id"] = pa.chunked_array([pa.array([row_id.hex() for row_id in ids])])
            table = pa.table({name: columns[name] for name in schema.names}).cast(schema)
            writer.write_table(table)
    return digest.hexdigest()
