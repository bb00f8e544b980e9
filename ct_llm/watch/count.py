"""How many rows has the champion not seen? By content, not by file name, and without downloading.

A file's content has one id under any name, so renamed and renumbered shards are not new. A file
that was rewritten is new content, and its old rows are content that is gone: rows gone are taken
off, so what counts is what was added. Which rows exactly are new is decided in `prepare`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ct_llm.config import DatasetConfig
from ct_llm.errors import HubNotFoundError
from ct_llm.hub.client import resolve_revision
from ct_llm.hub.dataset_repo import count_rows, list_data_files
from ct_llm.records import DataFile, DatasetSnapshot, SeenDataset

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Since:
    """What came to a repo since some revision."""

    added: list[DataFile]
    kept: list[DataFile]
    removed: list[DataFile]
    note: str | None = None

    @property
    def num_new_rows(self) -> int:
        return max(0, _rows(self.added) - _rows(self.removed))


def snapshot(
    api: "HfApi",
    dataset: DatasetConfig,
    *,
    champion: SeenDataset | None,
    attempted: SeenDataset | None,
) -> DatasetSnapshot:
    """One repo at its current revision, against what champion and last attempt have used.

    One request when nothing changed since both. Raises HubNotFoundError, HubAccessError,
    HubUnavailableError, DataError.
    """
    repo = dataset.repo
    revision = resolve_revision(api, repo, dataset.revision, "dataset")
    if champion is not None and champion.revision == revision:
        return DatasetSnapshot(
            repo=repo,
            revision=revision,
            seen_revision=revision,
            files=(),
            num_rows=champion.num_rows,
            num_unseen_rows=0,
            num_new_rows=0,
        )
    current = list_data_files(api, repo, revision, dataset.files)
    since_champion = _since(api, dataset, current, revision, champion, "the champion")
    if attempted is None:
        num_new_rows = since_champion.num_new_rows
        notes = [since_champion.note]
    elif attempted.revision == revision:
        num_new_rows = 0
        notes = [since_champion.note]
    elif champion is not None and attempted.revision == champion.revision:
        num_new_rows = since_champion.num_new_rows
        notes = [since_champion.note]
    else:
        since_attempt = _since(api, dataset, current, revision, attempted, "the last attempt")
        num_new_rows = min(since_champion.num_new_rows, since_attempt.num_new_rows)
        notes = [since_champion.note, since_attempt.note]
    if not current:
        notes.append(f"no file of {repo} at {revision[:12]} holds rows (files: {dataset.files})")
    if since_champion.removed:
        notes.append(
            f"{len(since_champion.removed)} file(s) that the champion has seen were removed or "
            f"rewritten ({_rows(since_champion.removed):,} rows)"
        )
    seen_rows = champion.num_rows if champion else 0
    return DatasetSnapshot(
        repo=repo,
        revision=revision,
        seen_revision=champion.revision if champion else None,
        files=tuple(
            sorted([*since_champion.added, *since_champion.kept], key=lambda file: file.path)
        ),
        removed_files=tuple(since_champion.removed),
        num_rows=max(0, seen_rows + _rows(since_champion.added) - _rows(since_champion.removed))
        if since_champion.kept or since_champion.removed
        else _rows(since_champion.added),
        num_unseen_rows=since_champion.num_new_rows,
        num_new_rows=num_new_rows,
        notes=tuple(note for note in notes if note),
    )


def _since(
    api: "HfApi",
    dataset: DatasetConfig,
    current: Sequence[DataFile],
    revision: str,
    seen: SeenDataset | None,
    who: str,
) -> Since:
    note = None
    old: list[DataFile] = []
    if seen is not None:
        try:
            old = list_data_files(api, dataset.repo, seen.revision, dataset.files)
        except HubNotFoundError:
            # Squashed or force-pushed. What was seen can no longer be told by content, and leaving
            # rows out would be worse than training on some of them twice.
            note = (
                f"revision {seen.revision[:12]}, which {who} has used, is gone from {dataset.repo} "
                "(history squashed or force-pushed): all rows count as new"
            )
    old_ids = {file.content_id for file in old}
    current_ids = {file.content_id for file in current}
    added = [file for file in current if file.content_id not in old_ids]
    removed = [file for file in old if file.content_id not in current_ids]
    return Since(
        added=count_rows(api, dataset.repo, revision, added),
        kept=[f.model_copy(update={"seen": True}) for f in current if f.content_id in old_ids],
        removed=count_rows(api, dataset.repo, seen.revision, removed) if seen and removed else [],
        note=note,
    )


def _rows(files: Sequence[DataFile]) -> int:
    return sum(file.num_rows or 0 for file in files)
