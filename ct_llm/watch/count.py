"""How many rows has the champion not seen? By content, not by file name, and without downloading.

A file's content has one id under any name. So what the dataset holds, what the champion was trained
on and what the last attempt has used are three sets, and the rows that count are those of files:

    unseen = now - champion             a cycle trains on them
    new    = now - champion - attempt   the trigger counts them

Renamed and renumbered shards, rolled windows, squashed and force-pushed history change nothing of
that. Where used content is gone, it may have been rewritten: then rows of new files may be old rows.
Their number is a bound, and only if it would start a cycle are rows read and compared. New files may
also repeat rows of files that are still there, such as a merged file beside its shards: that is looked
for when a cycle is to begin, which reads them anyway.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm.config import DatasetConfig
from ct_llm.errors import HubUnavailableError
from ct_llm.records import DataFile, DatasetSnapshot, DatasetState, UsedFile
from ct_llm.watch.row_counts import count_rows_once
from ct_llm.watch.used import Lost, UsedContent

if TYPE_CHECKING:
    from ct_llm.sources.source import Head, Source

RowCounter = Callable[[DatasetConfig, str, Sequence[DataFile], Sequence[DataFile]], int]
"""(dataset, revision, new files, used files) -> distinct rows of the new files that are in no used
one. `DataFile.revision` says where a file is that is not at the revision."""

Rows = Mapping[str, int | None]
"""Rows by content id; None: cannot be read any more."""


@dataclass(frozen=True)
class CountedDataset:
    """A snapshot whose counts are exact, or the most that is possible, and what would make it exact."""

    snapshot: DatasetSnapshot
    unseen: tuple[DataFile, ...]
    """Content that the champion has not used."""
    new: tuple[DataFile, ...]
    """Content that neither the champion nor the last attempt has used."""
    lost_by_attempt: tuple[DataFile, ...]
    """Content that only the last attempt has used and that is no longer there."""


def count_dataset(
    source: "Source",
    head: "Head",
    *,
    champion: UsedContent | Lost | None,
    attempted: UsedContent | Lost | None,
    cache: Path,
) -> CountedDataset:
    """One dataset as it is at `head`, file by file, against what champion and last attempt have used.

    Asks for the list of files, and for the number of rows of each file that came since, once for the
    same content. Raises HubNotFoundError, HubAccessError, HubUnavailableError, DataError, StorageError.
    """
    from ct_llm.sources.row_counts import count_rows

    current = source.files(head.revision)
    if current is None:
        raise HubUnavailableError(
            f"{source.dataset.place}: revision {head.revision[:12]} was rewritten while it was looked "
            "at. Run the command again."
        )
    now = _by_content(current)
    by_champion, by_attempt = _files(champion), _files(attempted)
    seen = champion.seen if isinstance(champion, UsedContent) else None

    unseen = [file for content, file in now.items() if content not in by_champion]
    new = [file for file in unseen if file.content_id not in by_attempt]
    gone = [_as_file(used) for content, used in by_champion.items() if content not in now]
    gone_since = [file for file in gone if seen and file.revision == seen.revision]
    returned = [
        now[content]
        for content, used in by_champion.items()
        if content in now and seen and used.revision != seen.revision
    ]
    lost_by_attempt = [
        _as_file(used)
        for content, used in by_attempt.items()
        if content not in now and content not in by_champion
    ]

    rows = {
        used.content_id: used.num_rows for used in (*by_attempt.values(), *by_champion.values())
    }
    # Used content is counted too where no table says its rows: drift weighs files by them, and the
    # next table keeps them.
    added = _not_counted(now.values(), rows)
    rows |= _rows(count_rows_once(source, head.revision, added, cache))
    if seen:
        # A file that somebody took out because it was damaged must not stop the watch.
        taken = _not_counted(gone_since, rows)
        rows |= _rows(count_rows(source, seen.revision, taken, skip_unreadable=True))

    num_unseen, num_new = _total(unseen, rows), _total(new, rows)
    num_rows = (seen.num_rows if seen else 0) + num_unseen
    num_rows = max(0, num_rows + _total(returned, rows) - _total(gone_since, rows))
    is_bound = bool((num_unseen and gone) or (num_new and lost_by_attempt))

    def marked(file: DataFile) -> DataFile:
        return file.model_copy(
            update={
                "num_rows": rows.get(file.content_id),
                "seen": file.content_id in by_champion,
                "attempted": file.content_id in by_attempt,
            }
        )

    snapshot = DatasetSnapshot(
        name=source.dataset.key,
        repo=source.dataset.place,
        revision=head.revision,
        as_of=head.as_of,
        seen_revision=seen.revision if seen else None,
        files=tuple(marked(file) for file in current),
        removed_files=tuple(marked(file) for file in gone),
        num_rows=num_rows,
        num_unseen_rows=num_unseen,
        num_new_rows=num_new,
        counted_by="bounds" if is_bound else "files",
        notes=(
            *(part.note for part in (champion, attempted) if isinstance(part, Lost)),
            *_notes(gone_since, returned, rows),
            *([] if current else [f"{source.dataset.key}: no file that holds rows to train on"]),
        ),
    )
    return CountedDataset(
        snapshot, tuple(map(marked, unseen)), tuple(map(marked, new)), tuple(lost_by_attempt)
    )


def without_content(counted: CountedDataset, held: Collection[str]) -> CountedDataset:
    """The same without the rows of what other datasets hold, by content id."""
    part = counted.snapshot
    unseen = tuple(file for file in counted.unseen if file.content_id not in held)
    new = tuple(file for file in counted.new if file.content_id not in held)
    if part.counted_by != "rows":  # that count was made without them
        counts = {"num_unseen_rows": _sum(unseen), "num_new_rows": _sum(new)}
        part = part.model_copy(update=counts)
    return replace(counted, snapshot=part, unseen=unseen, new=new)


def compare_rows(
    dataset: DatasetConfig, counted: CountedDataset, count_unseen: RowCounter
) -> CountedDataset:
    """The same with exact counts: rows of new files are looked for among those of all used content,
    whether it is still there or not. Where nothing was used there is nothing to look for.

    Raises DataError for a new file that cannot be read, and what `count_unseen` raises.
    """
    part = counted.snapshot
    there = list(_by_content(part.files).values())
    by_champion = (*part.removed_files, *(file for file in there if file.seen))
    attempted = [file for file in there if file.attempted and not file.seen]
    by_any = (*by_champion, *counted.lost_by_attempt, *attempted)
    if part.counted_by == "rows" or not (part.num_unseen_rows and by_any):
        return counted
    num_unseen, num_new = part.num_unseen_rows, part.num_new_rows
    if by_champion:
        num_unseen = count_unseen(dataset, part.revision, counted.unseen, by_champion)
    if num_new:
        same = len(by_any) == len(by_champion) and len(counted.new) == len(counted.unseen)
        num_new = num_unseen if same else count_unseen(dataset, part.revision, counted.new, by_any)
    repeated = part.num_unseen_rows - num_unseen or part.num_new_rows - num_new
    note = (
        f"{repeated:,} rows of new files do not count: they were in files that were used, repeat "
        "another one or cannot be used"
    )
    exact = part.model_copy(
        update={
            "num_unseen_rows": num_unseen,
            "num_new_rows": min(num_new, num_unseen),
            "counted_by": "rows",
            "notes": (*part.notes, *([note] if repeated > 0 else [])),
        }
    )
    return replace(counted, snapshot=exact)


def state_of(part: DatasetSnapshot) -> DatasetState:
    """What a later look must know of it."""
    return DatasetState(
        name=part.name,
        repo=part.repo,
        revision=part.revision,
        as_of=part.as_of,
        num_rows=part.num_rows,
        num_unseen_rows=part.num_unseen_rows,
        num_new_rows=part.num_new_rows,
        counted_by=part.counted_by,
        notes=part.notes,
    )


# ---------------------------------------------------------------- sets of content


def _by_content(files: Iterable[DataFile]) -> dict[str, DataFile]:
    """A copy of a file adds no rows."""
    return {file.content_id: file for file in files}


def _files(used: UsedContent | Lost | None) -> dict[str, UsedFile]:
    return used.files if isinstance(used, UsedContent) else {}


def _as_file(used: UsedFile) -> DataFile:
    return DataFile(
        path=used.path,
        content_id=used.content_id,
        num_bytes=used.num_bytes,
        num_rows=used.num_rows,
        seen=False,
        revision=used.revision,
    )


def _not_counted(files: Iterable[DataFile], rows: Rows) -> list[DataFile]:
    return [file for file in files if rows.get(file.content_id) is None]


def _rows(files: Iterable[DataFile]) -> dict[str, int | None]:
    return {file.content_id: file.num_rows for file in files}


def _total(files: Iterable[DataFile], rows: Rows) -> int:
    return sum(rows.get(file.content_id) or 0 for file in files)


def _sum(files: Iterable[DataFile]) -> int:
    return sum(file.num_rows or 0 for file in files)


def _notes(gone: Sequence[DataFile], returned: Sequence[DataFile], rows: Rows) -> Iterable[str]:
    readable = [file for file in gone if rows.get(file.content_id) is not None]
    unreadable = [file.path for file in gone if rows.get(file.content_id) is None]
    if readable:
        yield (
            f"{_count(readable, 'file')} that the champion has used, with "
            f"{_total(readable, rows):,} rows, removed or rewritten"
        )
    if unreadable:
        yield (
            f"{', '.join(unreadable)}: used before, removed since and not readable any more, so "
            "taken for 0 rows"
        )
    if returned:
        yield f"{_count(returned, 'file')} that the champion had used before came back: not new"


def _count(files: Sequence[DataFile], noun: str) -> str:
    return f"{len(files):,} {noun}{'s' * (len(files) != 1)}"
