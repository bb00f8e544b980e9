"""Clean rows of a file, kept by the file's content: what was read once is not read again.

    <cache>/rows/<key>.arrow        clean rows in the file's order, with their identities and sketches
    <cache>/rows/<key>.bad.parquet  rows that were rejected, and why

The key is a hash of the file's content id and of all rules that the rows went through, so a renamed
file is found again and a changed rule reads anew. Arrow files are mapped, not loaded: a million
earlier rows cost what is looked at of them.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.config import DatasetConfig
from ct_llm.digests import fingerprint
from ct_llm.errors import StorageError
from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.identity import Row
from ct_llm.prepare.clean.rows import CleaningRules, CleanRow, DataSource, RejectedRow, clean_rows
from ct_llm.prepare.overlap.near_duplicates import NUM_BANDS, SKETCH_VERSION, sketch
from ct_llm.prepare.texts import split_text
from ct_llm.records import DataFile

OpenFile = Callable[[str, str, str], Path]
"""(name of the dataset, revision, path) -> the file on this disk."""

VERSION = 3
"""Raise when rows of the same file and rules come out differently."""

BATCH_ROWS = 16_384
BATCH_CHARS = 64_000_000
ABANDONED_SECONDS = 86_400
UNUSED_SECONDS = 60 * 86_400
"""Files that no cycle has looked at for so long are removed."""

_ID = pa.binary(32)
_BANDS = pa.list_(pa.uint32(), NUM_BANDS)
ROWS = pa.schema(
    [
        ("row_index", pa.int64()),
        ("row_id", _ID),
        ("prompt_id", _ID),
        ("text_hash", pa.uint64()),  # tells rows of one id apart: they may differ in blanks
        ("source", pa.string()),
        ("bands", _BANDS),
        ("prompt_bands", _BANDS),
        ("messages", pa.large_string()),
        ("tools", pa.large_string()),
    ]
)
BAD = pa.schema([("row_index", pa.int64()), ("reason", pa.string()), ("original", pa.string())])


@dataclass(frozen=True)
class CachedFile:
    """The rows of one file of a dataset."""

    dataset: str
    repo: str
    path: str
    rows_file: Path
    bad_file: Path
    is_present: bool = True
    """The dataset still holds the file."""

    @cached_property
    def batches(self) -> list[pa.RecordBatch]:
        with pa.memory_map(str(self.rows_file)) as file:
            reader = pa.ipc.open_file(file)
            return [reader.get_batch(index) for index in range(reader.num_record_batches)]

    @property
    def num_rows(self) -> int:
        return sum(batch.num_rows for batch in self.batches)

    @cached_property
    def num_bad(self) -> int:
        return pq.read_metadata(self.bad_file).num_rows

    def bad_rows(self) -> Iterator[RejectedRow]:
        for batch in pq.ParquetFile(self.bad_file).iter_batches(1_000):
            for row in batch.to_pylist():
                yield RejectedRow(row["row_index"], row["reason"], row["original"])


def read_file(
    dataset: DatasetConfig,
    file: DataFile,
    *,
    revision: str,
    rules: CleaningRules,
    format_key: str,
    open_file: OpenFile,
    cache: Path,
) -> CachedFile:
    """The file's rows from the cache, or read, cleaned and put there first.

    Raises DataError for a file that cannot be read, StorageError, and what `open_file` raises.
    """
    key = _key(dataset, file, rules)
    folder = cache / "rows"
    cached = CachedFile(
        dataset.key,
        dataset.place,
        file.path,
        folder / f"{key}.arrow",
        folder / f"{key}.bad.parquet",
        is_present=file.revision is None,
    )
    if _is_whole(cached):
        with suppress(OSError):  # a cache on a read-only disk is a cache all the same
            os.utime(cached.rows_file)
        return cached
    local = open_file(dataset.key, file.revision or revision, file.path)
    source = DataSource(
        SourceFile(dataset.place, file.path, local),
        dataset.format,
        format_key,
        columns=dataset.columns,
        default_source=dataset.key,
    )
    before = _version(local)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(source, rules, cached)
        if _version(local) != before:
            cached.rows_file.unlink()  # else its rows would be taken for those of the content before
            source.file.refuse("it was changed while it was read. Run the same command again.")
    except OSError as error:
        raise StorageError(
            f"could not write {folder}: {error.strerror or error}. Free space or mend the folder, "
            "then run the same command again."
        ) from error
    return cached


def remove_unused(cache: Path) -> None:
    """Take out what no cycle has used for sixty days, and what killed processes have left."""
    now = time.time()
    for path in (cache / "rows").iterdir():
        with suppress(OSError):  # another process may be doing the same
            unused = now - path.stat().st_mtime
            if path.name.startswith(".") and unused > ABANDONED_SECONDS:
                path.unlink()
            elif path.suffix == ".arrow" and unused > UNUSED_SECONDS:
                path.with_name(f"{path.stem}.bad.parquet").unlink(missing_ok=True)
                path.unlink()


def _is_whole(cached: CachedFile) -> bool:
    """Both files are there and can be read; what a failing disk has damaged is made anew."""
    try:
        return cached.num_bad >= 0 and cached.batches is not None
    except (OSError, pa.ArrowException):
        # What was read of it must not stay.
        cached.__dict__.pop("num_bad", None)
        return False


def _version(local: Path) -> tuple[int, int, int]:
    found = local.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _key(dataset: DatasetConfig, file: DataFile, rules: CleaningRules) -> str:
    ending = file.path.lower().rpartition("/")[2].split(".")[1:]
    identity = [
        VERSION,
        SKETCH_VERSION,
        file.content_id,
        ending,  # decides how the bytes are read
        dataset.format,
        dataset.columns,
        dataset.key,
        list(rules),
    ]
    return fingerprint(identity)[:40]


def _write(source: DataSource, rules: CleaningRules, cached: CachedFile) -> None:
    """Both files appear whole or not at all; the rows last, so that they vouch for the other."""
    places = (cached.bad_file, cached.rows_file)
    partial = [_temporary(place) for place in places]
    try:
        with (
            pq.ParquetWriter(partial[0], BAD, compression="zstd") as bad,
            pa.ipc.new_file(str(partial[1]), ROWS) as rows,
        ):
            for some in _chunks(clean_rows(source, rules)):
                if clean := [row for row in some if isinstance(row, CleanRow)]:
                    rows.write_batch(_batch(clean))
                if rejected := [row for row in some if isinstance(row, RejectedRow)]:
                    columns = zip(zip(*rejected, strict=True), BAD.types, strict=True)
                    bad.write_batch(
                        pa.record_batch([pa.array(c, k) for c, k in columns], schema=BAD)
                    )
        for path, place in zip(partial, places, strict=True):
            with path.open("rb") as written:
                os.fsync(written.fileno())
            path.replace(place)
    finally:
        for path in partial:
            path.unlink(missing_ok=True)


def _temporary(place: Path) -> Path:
    # A name that nobody else has: processes of several containers may share the folder.
    descriptor, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")
    os.close(descriptor)
    return Path(name)


def _chunks(rows: Iterable[CleanRow | RejectedRow]) -> Iterator[list[CleanRow | RejectedRow]]:
    """So many rows, or so much text, at once."""
    some: list[CleanRow | RejectedRow] = []
    num_chars = 0
    for row in rows:
        some.append(row)
        num_chars += len(row.row.messages if isinstance(row, CleanRow) else row.original)
        if len(some) == BATCH_ROWS or num_chars > BATCH_CHARS:
            yield some
            some, num_chars = [], 0
    if some:
        yield some


def _batch(rows: Sequence[CleanRow]) -> pa.RecordBatch:
    sketches = sketch([split_text(row.row.messages) for row in rows])
    columns = [
        pa.array([row.row.row_index for row in rows], pa.int64()),
        pa.array([row.id.row for row in rows], _ID),
        pa.array([row.id.prompt for row in rows], _ID),
        pa.array([_text_hash(row.row) for row in rows], pa.uint64()),
        pa.array([row.row.source for row in rows], pa.string()),
        _band_array(sketches.rows),
        _band_array(sketches.prompts),
        pa.array([row.row.messages for row in rows], pa.large_string()),
        pa.array([row.row.tools for row in rows], pa.large_string()),
    ]
    return pa.record_batch(columns, schema=ROWS)


def _text_hash(row: Row) -> int:
    text = f"{row.messages}\0{row.tools or ''}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def _band_array(bands: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(bands.reshape(-1), pa.uint32()), NUM_BANDS)
