"""What a cycle has used: the datasets in its lineage, and their content in its table.

The table (`data/<cycle_id>.parquet` on the ledger) holds everything that the chain of champions up to
that cycle was trained on, also what the dataset has lost since: deleted shards, squashed history.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ct_llm.records import DataFile, SeenDataset, UsedFile

if TYPE_CHECKING:
    from ct_llm.sources.source import Source


class Use(NamedTuple):
    """A cycle and the datasets that it used."""

    cycle_id: str
    datasets: tuple[SeenDataset, ...]


ReadTable = Callable[[str], Sequence[UsedFile] | None]
"""The table of a cycle; None: there is none."""


@dataclass(frozen=True)
class UsedContent:
    """What one cycle had used of one dataset."""

    seen: SeenDataset
    files: dict[str, UsedFile]
    """By content id."""


class Lost(NamedTuple):
    """Neither a table nor the dataset's history says any more what was used."""

    note: str


def used_content(
    source: "Source", use: Use | None, read_table: ReadTable, who: str
) -> UsedContent | Lost | None:
    """From the cycle's table, else from the dataset's tree at the revision that it used.

    who: "the champion" or "the last attempt". None where it used nothing of this dataset. Raises
    HubNotFoundError, HubAccessError, HubUnavailableError, InputError.
    """
    name = source.dataset.key
    seen = next((one for one in use.datasets if one.name == name), None) if use else None
    if use is None or seen is None:
        return None
    table = read_table(use.cycle_id)
    if table is not None:
        return UsedContent(seen, {file.content_id: file for file in table if file.name == name})
    tree = source.files(seen.revision)
    if tree is None:
        # Leaving rows out would be worse than training on some of them twice.
        return Lost(
            f"what {who} has used of {name} is not known any more: the ledger has no table of "
            f"{use.cycle_id}, and revision {seen.revision[:12]} is gone (history squashed or "
            f"force-pushed), so nothing counts as used by {who}"
        )
    files = [_used(file, name, seen.revision) for file in tree]
    return UsedContent(seen, {file.content_id: file for file in files})


def _used(file: DataFile, name: str, revision: str) -> UsedFile:
    return UsedFile(
        name=name,
        path=file.path,
        content_id=file.content_id,
        num_bytes=file.num_bytes,
        num_rows=file.num_rows,
        revision=revision,
    )
