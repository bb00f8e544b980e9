"""Scores that are known already, so that no adapter answers the same question twice.

A score is known by three things: the adapter (its digest, or `base:<revision>` for the base model
itself), the context (fingerprint of base model, engine, its versions and the task) and the item with
the digest of everything that the model is asked for it. What is the same in all three has the same
score; everything else is a miss.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ct_llm.cycle_dir import write_atomically
from ct_llm.hub.score_files import keys_of_score_file, parse_score_file, score_file, storable
from ct_llm.records import KnownScore


class ScoreStore(Protocol):
    """Keeps scores. Calls are cheap next to a batch; one a task and side is meant, not one an item."""

    def read(self, adapter: str, context: str) -> Mapping[str, KnownScore]:
        """All that is known, by `item_key`; empty when nothing is."""
        ...

    def write(self, adapter: str, context: str, scores: Mapping[str, KnownScore]) -> None:
        """Keep these too; what is known already and not among them stays."""
        ...


def item_key(item_id: str, arguments_digest: str) -> str:
    """As a file will have it, so that what was written is found again."""
    return storable(f"{item_id}\0{arguments_digest}")


def adapter_key(digest: str | None, base_revision: str) -> str:
    """digest: of the adapter; None for the base model itself."""
    return digest or f"base:{base_revision}"


class LocalScores:
    """`<folder>/<adapter>/<context>.parquet`: on this disk, for this machine's next evaluation.

    Two processes that write the same file at once may lose each other's additions, which then are
    made again; a reader never sees half a file. A damaged file is a missing one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, adapter: str, context: str) -> Path:
        return self.folder / _file_name(adapter) / f"{_file_name(context)}.parquet"

    def read(self, adapter: str, context: str) -> dict[str, KnownScore]:
        try:
            content = self.path(adapter, context).read_bytes()
        except OSError:  # whatever keeps the file from being read: the scores are made again
            return {}
        return parse_score_file(content, adapter, context) or {}

    def read_all(self, adapter: str) -> dict[str, dict[str, KnownScore]]:
        """All that this disk knows of an adapter, by context."""
        found: dict[str, dict[str, KnownScore]] = {}
        for path in sorted((self.folder / _file_name(adapter)).glob("*.parquet")):
            keys = keys_of_score_file(path)
            if keys is not None and keys[0] == adapter:
                found[keys[1]] = self.read(*keys)
        return found

    def write(self, adapter: str, context: str, scores: Mapping[str, KnownScore]) -> None:
        """Raises StorageError."""
        known = self.read(adapter, context)
        merged = {**known, **scores}
        if merged != known:
            write_atomically(self.path(adapter, context), score_file(adapter, context, merged))


def _file_name(key: str) -> str:
    return re.sub(r"[^\w.-]", "-", key)


__all__ = ["KnownScore", "LocalScores", "ScoreStore", "adapter_key", "item_key"]
