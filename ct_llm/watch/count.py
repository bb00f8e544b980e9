"""How many rows has the champion not seen? By content, not by file name, and without downloading.

A file's content has one id under any name, so renamed and renumbered shards are not new. A file
that was rewritten is new content, and its old rows are content that is gone: rows gone are taken
off, so what counts is what was added. Which rows exactly are new is decided in `prepare`.

Lineage and ledger remember how many rows a repo had at a revision. So only what changed since the
nearer of the two is counted, and the rest is subtraction:

    rows now = rows then + rows of new content - rows of content that is gone
    unseen   = rows now - the champion's rows
    new      = rows now - the last attempt's rows, and never more than are unseen
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ct_llm.config import DatasetConfig
from ct_llm.errors import HubUnavailableError
from ct_llm.hub.dataset_repo import count_rows, list_data_files
from ct_llm.records import DataFile, DatasetSnapshot, SeenDataset

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Contents = dict[str, DataFile]
"""Files by content id: a copy of a file adds no rows."""


def snapshot(
    api: "HfApi",
    dataset: DatasetConfig,
    revision: str,
    *,
    champion: SeenDataset | None,
    attempted: SeenDataset | None,
) -> DatasetSnapshot:
    """One repo at `revision`, file by file, against what champion and last attempt have used.

    Three listings at most, and one request for each file that came or went since the last attempt.
    Raises HubNotFoundError, HubAccessError, HubUnavailableError, DataError.
    """
    repo = dataset.repo
    trees = _Trees(api, dataset)
    current = trees.at(revision)
    if current is None:
        raise HubUnavailableError(
            f"{repo}: {dataset.revision} was rewritten while it was looked at. Run the command again."
        )
    now = _by_content(current)
    base = _nearest(trees, champion, attempted)
    then = _by_content(trees.at(base.revision) or ()) if base else {}

    added = count_rows(api, repo, revision, _without(now, then))
    gone = _without(then, now)
    # A file that somebody took out because it was damaged must not stop the watch.
    removed = count_rows(api, repo, base.revision, gone, skip_unreadable=True) if base else []
    num_rows = max(0, (base.num_rows if base else 0) + _rows(added) - _rows(removed))

    seen_files = trees.at(champion.revision) if champion else None
    num_unseen_rows = num_rows
    if champion and seen_files is not None:
        num_unseen_rows = max(0, num_rows - champion.num_rows)
    num_new_rows = num_unseen_rows
    if attempted and attempted.revision not in trees.gone:
        num_new_rows = min(num_unseen_rows, max(0, num_rows - attempted.num_rows))

    counted = {file.content_id: file.num_rows for file in (*added, *removed)}
    seen = _by_content(seen_files or ())
    return DatasetSnapshot(
        repo=repo,
        revision=revision,
        seen_revision=champion.revision if champion else None,
        files=tuple(_marked(file, counted, seen) for file in current),
        removed_files=tuple(_marked(file, counted, seen) for file in _without(seen, now)),
        num_rows=num_rows,
        num_unseen_rows=num_unseen_rows,
        num_new_rows=num_new_rows,
        notes=(
            *trees.notes(champion, attempted),
            *_notes_on_removed(removed),
            *([] if current else [_no_files(dataset, revision)]),
        ),
    )


def nothing_new(champion: SeenDataset) -> DatasetSnapshot:
    """A repo that is still at the champion's revision, where no cycle can come of it: not listed."""
    return DatasetSnapshot(
        repo=champion.repo,
        revision=champion.revision,
        seen_revision=champion.revision,
        files=(),
        num_rows=champion.num_rows,
        num_unseen_rows=0,
        num_new_rows=0,
    )


class _Trees:
    """Data files of a repo by revision, each listed once, and the revisions that are gone."""

    def __init__(self, api: "HfApi", dataset: DatasetConfig) -> None:
        self._api = api
        self._dataset = dataset
        self._listed: dict[str, list[DataFile] | None] = {}

    def at(self, revision: str) -> list[DataFile] | None:
        if revision not in self._listed:
            self._listed[revision] = list_data_files(
                self._api, self._dataset.repo, revision, self._dataset.files
            )
        return self._listed[revision]

    @property
    def gone(self) -> set[str]:
        return {revision for revision, files in self._listed.items() if files is None}

    def notes(self, champion: SeenDataset | None, attempted: SeenDataset | None) -> list[str]:
        # What was used can no longer be told by content, and leaving rows out would be worse than
        # training on some of them twice.
        users = {"the champion": champion, "the last attempt": attempted}
        return [
            f"revision {seen.revision[:12]}, which {who} has used, is gone from {seen.repo} (history "
            f"squashed or force-pushed): nothing counts as used by {who}"
            for who, seen in users.items()
            if seen is not None and seen.revision in self.gone
        ]


def _nearest(
    trees: _Trees, champion: SeenDataset | None, attempted: SeenDataset | None
) -> SeenDataset | None:
    """Whose rows to count on from: the last attempt, as the later of the two, while it is there."""
    for seen in (attempted, champion):
        if seen is not None and trees.at(seen.revision) is not None:
            return seen
    return None


def _by_content(files: Iterable[DataFile]) -> Contents:
    return {file.content_id: file for file in files}


def _without(files: Contents, others: Contents) -> list[DataFile]:
    return [file for content_id, file in files.items() if content_id not in others]


def _rows(files: Iterable[DataFile]) -> int:
    return sum(file.num_rows or 0 for file in files)


def _marked(file: DataFile, counted: dict[str, int | None], seen: Contents) -> DataFile:
    update = {"num_rows": counted.get(file.content_id), "seen": file.content_id in seen}
    return file.model_copy(update=update)


def _notes_on_removed(removed: list[DataFile]) -> list[str]:
    readable = [file for file in removed if file.num_rows is not None]
    unreadable = [file.path for file in removed if file.num_rows is None]
    notes = []
    if readable:
        notes.append(
            f"{len(readable)} file(s) used before were removed or rewritten: their "
            f"{_rows(readable):,} rows are taken off those of new files"
        )
    if unreadable:
        notes.append(
            f"{', '.join(unreadable)}: used before, removed since and not readable any more, so "
            "taken for 0 rows"
        )
    return notes


def _no_files(dataset: DatasetConfig, revision: str) -> str:
    return f"no file of {dataset.repo} at {revision[:12]} holds rows (files: {dataset.files})"
