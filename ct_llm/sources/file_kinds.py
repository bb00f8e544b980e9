"""What a file is, by the end of its name."""

from typing import NamedTuple

ENDINGS = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
COMPRESSIONS = (".gz", ".zst")
"""On all but parquet, which is compressed inside."""


class FileKind(NamedTuple):
    ending: str
    """One of ENDINGS."""
    compression: str
    """One of COMPRESSIONS, or ""."""


def file_kind(path: str) -> FileKind | None:
    """None for a file that cannot hold rows; case does not matter."""
    name = path.lower()
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    name = name.removesuffix(compression)
    for ending in ENDINGS:
        if name.endswith(ending) and not (compression and ending == ".parquet"):
            return FileKind(ending, compression)
    return None
