"""One file of known scores: what one adapter got for the items of one context, as Parquet.

The same format lies in the cache on this disk and on the ledger. The file says itself whose scores
it holds: a name can be cut short, and a file can be moved.
"""

import io
import math
import struct
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm.records import KnownScore

if TYPE_CHECKING:
    import pyarrow as pa

ADAPTER = b"ct_llm.adapter"
CONTEXT = b"ct_llm.context"
DIGEST = b"ct_llm.digest"
"""Of keys, scores and outputs: a bit that flipped in a number would go unseen otherwise."""


def storable(text: str) -> str:
    """Generated text, and names from elsewhere, may hold half a surrogate pair, which no UTF-8 file
    can: a question mark stands for it."""
    return text.encode("utf-8", "replace").decode()


def score_file(adapter: str, context: str, scores: Mapping[str, KnownScore]) -> bytes:
    """The file's content; the same scores give the same bytes.

    adapter: its digest, or `base:<revision>`. context: fingerprint of everything else that the
    scores depend on. scores: by item and digest of what the model was asked; finite, or nobody will
    read the file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    clean = {
        storable(key): KnownScore(scores[key].score, storable(scores[key].output))
        for key in sorted(scores)
    }
    # Sorted as what is read again from the file will be, or the same scores gave other bytes then.
    known = dict(sorted(clean.items()))
    names = {ADAPTER: adapter.encode(), CONTEXT: context.encode(), DIGEST: _digest(known)}
    table = pa.table(
        {
            "key": list(known),
            "score": [one.score for one in known.values()],
            "output": [one.output for one in known.values()],
        },
        schema=_schema(),
    ).replace_schema_metadata(names)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def parse_score_file(content: bytes, adapter: str, context: str) -> dict[str, KnownScore] | None:
    """The scores; None for a file that is damaged, or holds those of another adapter or context.

    A score that is not finite is damage: none is ever written, and no gate could take it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content))
        named = table.schema.metadata or {}
        if (named.get(ADAPTER), named.get(CONTEXT)) != (adapter.encode(), context.encode()):
            return None
        # Before any value: lists as keys, say, could not even be looked at.
        if not table.schema.equals(_schema()):
            return None
        columns = [column.to_pylist() for column in table.columns]
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    rows = zip(*columns, strict=True)
    known = {key: KnownScore(score, output) for key, score, output in rows}
    return known if _is_whole(known) and named.get(DIGEST) == _digest(known) else None


def keys_of_score_file(path: Path) -> tuple[str, str] | None:
    """(adapter, context) of a file on this disk, as it says itself; None for one that is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        named = pq.read_schema(path).metadata or {}
        return named[ADAPTER].decode(), named[CONTEXT].decode()
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema([("key", pa.string()), ("score", pa.float64()), ("output", pa.string())])


def _is_whole(known: Mapping[str, KnownScore]) -> bool:
    # The columns have the right types by now, but any value in them may be null.
    return all(
        isinstance(key, str)
        and isinstance(score, float)
        and math.isfinite(score)
        and isinstance(output, str)
        for key, (score, output) in known.items()
    )


def _digest(known: Mapping[str, KnownScore]) -> bytes:
    digest = sha256()
    for key, (score, output) in known.items():
        for part in (key.encode(), struct.pack("<d", score), output.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest().encode()
