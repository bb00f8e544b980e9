"""The snapshot's files, read: new ones, and earlier ones that the champion has been trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ct_llm.config import DatasetConfig
from ct_llm.errors import ContentGoneError, DataError, HubNotFoundError, InputError
from ct_llm.prepare.clean.rows import CleaningRules
from ct_llm.prepare.row_cache import CachedFile, OpenFile, read_file
from ct_llm.records import DatasetSnapshot, DataSnapshot


@dataclass
class SnapshotFiles:
    """Files of all datasets, and in words what could not be had."""

    new: list[CachedFile] = field(default_factory=list)
    earlier: list[CachedFile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_files(
    snapshot: DataSnapshot,
    datasets: Sequence[DatasetConfig],
    rules: CleaningRules,
    open_file: OpenFile,
    cache: Path,
) -> SnapshotFiles:
    """Each content once, in the order of its first path.

    Raises DataError (ContentGoneError for a file of the snapshot that is no longer to be had),
    StorageError, and what `open_file` raises.
    """
    known = [dataset.name for dataset in snapshot.datasets]
    if known != [dataset.key for dataset in datasets]:
        raise DataError(
            f"the datasets of the config are not those that this cycle began with "
            f"({', '.join(known)}). Start a new cycle after changing them."
        )
    files = SnapshotFiles()
    for index, (part, dataset) in enumerate(zip(snapshot.datasets, datasets, strict=True)):
        read = partial(
            read_file,
            dataset,
            revision=part.revision,
            rules=rules,
            format_key=f"datasets[{index}].format",
            open_file=open_file,
            cache=cache,
        )
        for file in sorted(part.files, key=lambda file: file.path):
            (files.earlier if file.seen else files.new).append(read(file))
        for file in sorted(part.removed_files, key=lambda file: file.path):
            try:
                files.earlier.append(read(file))
            except (ContentGoneError, HubNotFoundError) as error:
                files.notes.append(_gone(part, file.path, error))
    return files


def _gone(part: DatasetSnapshot, path: str, error: InputError) -> str:
    return (
        f"{part.name}: {path} was removed since and is no longer to be had, so its rows are neither "
        f"known again nor replayed: {error}"
    )
