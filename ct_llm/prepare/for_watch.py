"""What the watch step asks of rows: how many are really unseen, and a sample to measure drift on.

Both read through the row cache, so `prepare` does not read the same files again.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from ct_llm.config import DatasetConfig
from ct_llm.digests import fingerprint
from ct_llm.errors import ContentGoneError, HubNotFoundError
from ct_llm.prepare.clean.rows import CleaningRules
from ct_llm.prepare.columns import Rows, first_of_each
from ct_llm.prepare.row_cache import CachedFile, OpenFile, read_file
from ct_llm.prepare.texts import message_texts
from ct_llm.records import DataFile, SampledRow

MAX_FILES = 8

_GONE = (ContentGoneError, HubNotFoundError)


def count_unseen_rows(
    dataset: DatasetConfig,
    new: Sequence[DataFile],
    used: Sequence[DataFile],
    revision: str,
    *,
    rules: CleaningRules,
    open_file: OpenFile,
    cache: Path,
) -> int:
    """Distinct clean rows of `new` whose content is in no file of `used`.

    Used files that are no longer to be had, neither in the cache nor at their source, are left out:
    their rows then count as unseen. Raises DataError, StorageError, and what `open_file` raises.
    """
    read = _reader(dataset, revision, rules, open_file, cache)
    unseen = _ids([read(file) for file in new])
    for file in used:
        if not unseen:
            break
        with suppress(*_GONE):
            unseen -= _ids([read(file)])
    return len(unseen)


def sample_rows(
    dataset: DatasetConfig,
    files: Sequence[DataFile],
    revision: str,
    num_rows: int,
    seed: int,
    *,
    rules: CleaningRules,
    open_file: OpenFile,
    cache: Path,
) -> list[SampledRow]:
    """At most `num_rows` distinct clean rows from at most eight files; the same for the same content.

    Files that are no longer to be had are left out. Raises DataError, StorageError, and what
    `open_file` raises.
    """
    read = _reader(dataset, revision, rules, open_file, cache)
    chosen = sorted(files, key=lambda file: fingerprint([seed, file.content_id]))[:MAX_FILES]
    there: list[CachedFile] = []
    for file in chosen:
        with suppress(*_GONE):
            there.append(read(file))
    if not there:
        return []
    rows = Rows.of(there)
    # The lowest of uniformly random ids are a random sample, whatever the order of files and rows.
    first, _ = first_of_each(rows.ids)
    found = rows.rows(first[:num_rows])
    return [SampledRow("\n".join(message_texts(row.messages)), row.source) for row in found]


def _reader(
    dataset: DatasetConfig, revision: str, rules: CleaningRules, open_file: OpenFile, cache: Path
) -> partial[CachedFile]:
    return partial(
        read_file,
        dataset,
        revision=revision,
        rules=rules,
        format_key=f"format of dataset {dataset.key}",
        open_file=open_file,
        cache=cache,
    )


def _ids(files: Sequence[CachedFile]) -> set[tuple[int, int]]:
    return {(high, low) for high, low in Rows.of(files).ids.tolist()}
