"""prepare: rows -> training set + holdout.

    earlier rows ─▶ digests ────────────────┬───────────────────────────────────▶ replay
                                            ▼                                        │
    new rows ─▶ messages ─▶ checks ─▶ seen before? ─▶ twice? ─▶ which side? ─▶ train ◀┘
                              └─▶ quarantine                         └─▶ holdout

Every row that is read has one fate, counted in `PreparedData.counts`: new rows are `train`,
`holdout`, `duplicate`, `seen_before` or `quarantined:<reason>`; earlier rows are `replay`,
`earlier:not_replayed`, `earlier:holdout`, `earlier:duplicate` or `earlier:unusable` (not fit by
today's rules; the cycle that read it first has it in its quarantine).
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import pyarrow as pa

from ct_llm.config import DatasetConfig, PrepareConfig
from ct_llm.digests import fingerprint
from ct_llm.errors import DataError, HubNotFoundError
from ct_llm.prepare.dedup import Row, keep_one
from ct_llm.prepare.files import SourceFile
from ct_llm.prepare.quarantine import quarantine
from ct_llm.prepare.replay import EarlierRows
from ct_llm.prepare.rows import DataSource, RejectedRow, clean_rows
from ct_llm.prepare.split import on_holdout_side, shuffled
from ct_llm.prepare.tables import HOLDOUT, TRAIN, table
from ct_llm.records import DataSnapshot, PreparedData

OpenFile = Callable[[str, str, str], Path]
"""(repo, revision, path) -> the file on this disk."""

TRAIN_PATH = "data/train.parquet"
HOLDOUT_PATH = "data/holdout.parquet"
QUARANTINE_PATH = "data/quarantine.parquet"


def prepare(
    config: PrepareConfig,
    snapshot: DataSnapshot,
    *,
    datasets: Sequence[DatasetConfig],
    open_file: OpenFile,
    cycle: Path,
) -> PreparedData:
    """Clean the rows that the champion has not seen, split them, and mix in earlier ones.

    `datasets`: the config's entries, in the snapshot's order. Writes three Parquet files under
    `cycle/data`. The same rows give the same training set and holdout, in the same order, however
    they are spread over files and commits.

    Raises DataError for a file that cannot be read or is in no known format, for more bad rows than
    `max_quarantine_fraction` (the quarantine is written all the same), and when no new row is left to
    train on. Raises StorageError when the disk fails, and what `open_file` raises.
    """
    sources = _open_sources(snapshot, datasets, open_file)
    held_out = partial(on_holdout_side, fraction=config.holdout_fraction, salt=config.holdout_salt)
    earlier = EarlierRows(sources.earlier, config.max_chars, held_out)

    train: dict[bytes, Row] = {}
    holdout: dict[bytes, Row] = {}
    counts: Counter[str] = Counter(duplicate=0, seen_before=0)
    with quarantine(cycle / QUARANTINE_PATH) as bad:
        for source in sources.new:
            for found in clean_rows(source, config.max_chars):
                if isinstance(found, RejectedRow):
                    bad.add(source, found)
                elif found.id.row in earlier:
                    counts["seen_before"] += 1
                else:
                    side = holdout if held_out(found.id.prompt) else train
                    if not keep_one(side, found.id.row, found.row):
                        counts["duplicate"] += 1
    counts.update(train=len(train), holdout=len(holdout))
    counts.update({f"quarantined:{reason}": count for reason, count in bad.counts.items()})

    bad.refuse_more_than(config.max_quarantine_fraction, counts.total())
    if not train:
        raise DataError(_nothing_new(counts, cycle))

    replay = earlier.sample(train, config.replay)
    counts.update(earlier.counts)
    counts["replay"] = len(replay)
    counts["earlier:not_replayed"] = counts.pop("earlier:train", 0) - len(replay)

    training_set, seed = {**train, **replay}, config.replay.seed
    digests = [
        _write(cycle / TRAIN_PATH, TRAIN, training_set, seed, replay),
        _write(cycle / HOLDOUT_PATH, HOLDOUT, holdout, seed, ()),
    ]
    return PreparedData(
        train_path=TRAIN_PATH,
        holdout_path=HOLDOUT_PATH,
        quarantine_path=QUARANTINE_PATH,
        num_train=len(training_set),
        num_replay=len(replay),
        num_holdout=len(holdout),
        num_quarantined=bad.counts.total(),
        rows_read=counts.total(),
        counts=dict(sorted(counts.items())),
        counts_by_source=dict(sorted(Counter(row.source for row in training_set.values()).items())),
        digest=fingerprint(digests),
        notes=tuple(sources.notes),
    )


@dataclass
class _Sources:
    """New and earlier files of all datasets, and in words what could not be had."""

    new: list[DataSource] = field(default_factory=list)
    earlier: list[DataSource] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _open_sources(
    snapshot: DataSnapshot, datasets: Sequence[DatasetConfig], open_file: OpenFile
) -> _Sources:
    known = [dataset.repo for dataset in snapshot.datasets]
    if known != [dataset.repo for dataset in datasets]:
        raise DataError(
            f"the datasets of the config are not those that this cycle began with "
            f"({', '.join(known)}). Start a new cycle after changing them."
        )
    sources = _Sources()
    for index, (dataset, settings) in enumerate(zip(snapshot.datasets, datasets, strict=True)):
        reading = partial(_open, open_file, settings, f"datasets[{index}].format")
        for file in sorted(dataset.files, key=lambda file: file.path):
            group = sources.earlier if file.seen else sources.new
            group.append(reading(dataset.revision, file.path))
        if dataset.seen_revision is None:
            continue
        for file in sorted(dataset.removed_files, key=lambda file: file.path):
            try:
                sources.earlier.append(reading(dataset.seen_revision, file.path))
            except HubNotFoundError as error:
                sources.notes.append(
                    f"{dataset.repo}: {file.path} was removed since and is no longer to be had, so "
                    f"its rows are neither known again nor replayed: {error}"
                )
    return sources


def _open(
    open_file: OpenFile, settings: DatasetConfig, format_key: str, revision: str, path: str
) -> DataSource:
    local = open_file(settings.repo, revision, path)
    return DataSource(SourceFile(settings.repo, path, local), settings.format, format_key)


def _nothing_new(counts: Mapping[str, int], cycle: Path) -> str:
    fates = ", ".join(f"{fate} {count:,}" for fate, count in sorted(counts.items()) if count)
    return (
        f"no new row is left to train on; the new rows by fate: {fates or 'there are none'}. Add rows "
        f"to the dataset; bad ones are in {cycle / QUARANTINE_PATH}."
    )


def _write(
    path: Path, schema: pa.Schema, rows: Mapping[bytes, Row], seed: int, replay: Collection[bytes]
) -> str:
    """The rows in their order, whatever order they came in; gives the digest of what is trained on."""
    digest = sha256()
    with table(path, schema) as append:
        for row_id in shuffled(rows, seed):
            row, replayed = rows[row_id], row_id in replay
            digest.update(row_id + f"{row.messages}\0{replayed}\0".encode())
            append((row_id.hex(), *row, replayed)[: len(schema)])
    return digest.hexdigest()
