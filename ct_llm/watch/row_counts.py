"""Rows of files that were counted before, by content: rows that pile up below the threshold are not
counted anew with every push.

    <cache>/row_counts.json   {"<content id><ending>": rows}, the newest last
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm.cycle_dir import write_atomically
from ct_llm.errors import StorageError
from ct_llm.records import DataFile

if TYPE_CHECKING:
    from ct_llm.sources.source import Source

MAX_FILES = 100_000


def count_rows_once(
    source: "Source", revision: str, files: Sequence[DataFile], cache: Path
) -> list[DataFile]:
    """The same files with `num_rows`; those that were not counted before are asked for.

    Raises what `count_rows` raises.
    """
    from ct_llm.sources.row_counts import count_rows

    path = cache / "row_counts.json"
    known = _read(path) if files else {}
    fresh = count_rows(source, revision, [file for file in files if _key(file) not in known])
    if fresh:
        known |= {_key(file): file.num_rows for file in fresh if file.num_rows is not None}
        newest = dict(list(known.items())[-MAX_FILES:])
        # On a folder that cannot be written, or where two write at once, files are counted again.
        with suppress(StorageError):
            write_atomically(path, json.dumps(newest).encode())
    return [file.model_copy(update={"num_rows": known[_key(file)]}) for file in files]


def _key(file: DataFile) -> str:
    # The ending says how the content is read.
    return file.content_id + "".join(Path(file.path.lower()).suffixes[-2:])


def _read(path: Path) -> dict[str, int]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # not there yet, or damaged: then all is counted again
    return found if isinstance(found, dict) else {}
