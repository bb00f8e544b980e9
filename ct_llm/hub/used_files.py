"""`data/<cycle_id>.parquet` on the ledger: the content that a cycle had used, by dataset.

It says what a champion has been trained on when the dataset's own history no longer does: shards
that were deleted, and history that was squashed or force-pushed.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ct_llm.errors import InputError
from ct_llm.hub.client import read_file
from ct_llm.records import UsedFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def table_path(cycle_id: str) -> str:
    return f"data/{cycle_id}.parquet"


def table_bytes(files: Sequence[UsedFile]) -> bytes:
    """The same files give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("name", pa.string()),
            ("path", pa.string()),
            ("content_id", pa.string()),
            ("num_bytes", pa.int64()),
            ("num_rows", pa.int64()),
            ("revision", pa.string()),
        ]
    )
    ordered = sorted(files, key=lambda file: (file.name, file.path, file.content_id))
    table = pa.Table.from_pylist([file.model_dump() for file in ordered], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_used_files(
    api: "HfApi", repo: str, cycle_id: str, revision: str = "ledger"
) -> list[UsedFile] | None:
    """What the cycle had used, in one request; None when the ledger has no such table.

    Raises InputError for a file that is none, HubAccessError, HubUnavailableError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = table_path(cycle_id)
    content = read_file(api, repo, path, revision, "model")
    if content is None:
        return None
    try:
        rows = pq.read_table(pa.BufferReader(content)).to_pylist()
        return [UsedFile.model_validate(row) for row in rows]
    except (pa.ArrowException, OSError, ValidationError) as error:
        raise InputError(
            f"{repo}, branch {revision}: {path} is not a table of used files ({error}). It was "
            "changed by hand or by another version; restore it from the branch's history, or delete "
            "it: the dataset's tree at the revision in the lineage then stands in for it."
        ) from error
