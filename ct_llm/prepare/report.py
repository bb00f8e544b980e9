"""The data report of a cycle: what became of the rows, as a record and as text.

data/report.json   DataReport
data/report.txt    the same, for people (see `report_text`)
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from heapq import nsmallest
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.cycle_dir import write_atomically, write_record
from ct_llm.errors import CtError, StorageError
from ct_llm.prepare.one_line import one_line
from ct_llm.prepare.report_text import report_text
from ct_llm.prepare.split import key_of, mixed
from ct_llm.prepare.texts import message_texts
from ct_llm.records import ContaminatedRow, DataReport, DriftReport, Lengths, QuarantineSample

REPORT_PATH = "data/report.json"
REPORT_TEXT_PATH = "data/report.txt"

CountTokens = Callable[[Sequence[str]], list[int]]
"""Texts -> tokens of each."""

MAX_MEASURED_ROWS = 2_000
MAX_MEASURED_CHARS = 4_000_000
"""Of all measured rows of a side together: a few seconds of a tokenizer's time."""

SAMPLES_PER_REASON = 3
MAX_SAMPLE_CHARS = 300
MAX_CONTAMINATED = 1_000
MAX_SOURCES = 1_000
"""Rows may name a source each; the smallest are counted together."""
OTHER_SOURCES = "(other sources)"


def write_report(
    cycle: Path,
    *,
    counts: Mapping[str, int],
    counts_by_source: Mapping[str, Mapping[str, int]],
    messages: Mapping[str, Iterable[str]],
    count_tokens: CountTokens | None,
    quarantine: Path,
    contaminated: Path | None,
    drift: DriftReport | None = None,
    notes: Sequence[str] = (),
) -> DataReport:
    """Write both files of the report below `cycle`.

    counts: rows by fate. counts_by_source: source to fate to rows. messages: `train` and `holdout` to
    the `messages` (JSON) of the rows to measure, those of `length_sample`. count_tokens: none, or one
    that fails, gives lengths in characters. quarantine, contaminated: the tables, as written.

    Raises StorageError.
    """
    said = list(notes)
    report = DataReport(
        counts=dict(counts),
        counts_by_source=_largest(counts_by_source),
        lengths=_lengths(messages, count_tokens, said),
        quarantine_samples=tuple(_quarantine_samples(quarantine)),
        contaminated=_contaminated_rows(contaminated),
        drift=drift,
        notes=tuple(said),
    )
    write_record(cycle / REPORT_PATH, report)
    write_atomically(cycle / REPORT_TEXT_PATH, report_text(report).encode())
    return report


# ---------------------------------------------------------------- lengths


def length_sample(ids: np.ndarray, size: int = MAX_MEASURED_ROWS) -> np.ndarray:
    """int64 [at most size]: indices of a seeded sample, which hangs on the rows' ids alone.

    ids: uint64 [n, 2]. The same rows are chosen, in the same order, whatever order they are in.
    """
    keys = mixed(ids, key_of("lengths"))
    first = np.arange(len(ids))
    if len(ids) > size:  # sort no more than can be among the first
        first = np.flatnonzero(keys <= np.partition(keys, size - 1)[size - 1])
    return first[np.lexsort((ids[first, 1], ids[first, 0], keys[first]))][:size]


def measure(texts: Sequence[str], count_tokens: CountTokens | None) -> Lengths:
    """Of at least one text. Raises what `count_tokens` raises."""
    values = [len(text) for text in texts] if count_tokens is None else count_tokens(texts)
    median, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99), method="inverted_cdf").tolist()
    return Lengths(
        unit="characters" if count_tokens is None else "tokens",
        num_rows=len(values),
        minimum=min(values),
        median=int(median),
        p90=int(p90),
        p99=int(p99),
        maximum=max(values),
        mean=sum(values) / len(values),
    )


def _lengths(
    messages: Mapping[str, Iterable[str]], count_tokens: CountTokens | None, notes: list[str]
) -> dict[str, Lengths]:
    texts = {side: list(_texts(rows)) for side, rows in messages.items()}
    texts = {side: some for side, some in texts.items() if some}
    try:
        return {side: measure(some, count_tokens) for side, some in texts.items()}
    except CtError as error:
        # The training will say it too, if it matters; a report is no reason to stop.
        notes.append(f"lengths are in characters, as tokens could not be counted: {error}")
        return {side: measure(some, None) for side, some in texts.items()}


def _texts(rows: Iterable[str]) -> Iterator[str]:
    """What the rows' messages say, without a template around it, until that is long enough."""
    num_chars = 0
    for row in rows:
        text = "\n".join(message_texts(row))
        num_chars += len(text)
        yield text
        if num_chars >= MAX_MEASURED_CHARS:
            return


# ---------------------------------------------------------------- quarantine and contamination


def _quarantine_samples(path: Path) -> Iterator[QuarantineSample]:
    """A few rows of each reason, chosen by a hash of their place; reasons by name."""
    with _reading(path) as table:
        places = table.read(columns=["reason", "repo", "path", "row_index"])
        columns = [places[name].to_pylist() for name in places.column_names]
        by_reason: defaultdict[str, list[tuple[bytes, int]]] = defaultdict(list)
        for index, (reason, *place) in enumerate(zip(*columns, strict=True)):
            key = sha256("\0".join(map(str, place)).encode()).digest()
            by_reason[reason].append((key, index))
        chosen = {
            index for rows in by_reason.values() for _, index in nsmallest(SAMPLES_PER_REASON, rows)
        }
        samples = [
            QuarantineSample(
                reason=columns[0][index],
                repo=columns[1][index],
                path=columns[2][index],
                row_index=columns[3][index],
                original=one_line(original, MAX_SAMPLE_CHARS),
            )
            for index, original in _originals(table, sorted(chosen))
        ]
    yield from sorted(samples, key=lambda s: (s.reason, s.repo, s.path, s.row_index))


def _originals(table: pq.ParquetFile, indices: Sequence[int]) -> Iterator[tuple[int, str]]:
    """The originals at some indices (ascending); row groups without any are not read."""
    start = 0
    for group in range(table.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        wanted = [index for index in indices if start <= index < start + num_rows]
        if wanted:
            column = table.read_row_group(group, columns=["original"])["original"]
            for index in wanted:
                yield index, column[index - start].as_py()
        start += num_rows


def _contaminated_rows(path: Path | None) -> tuple[ContaminatedRow, ...]:
    if path is None:
        return ()
    with _reading(path) as table:
        batch = next(table.iter_batches(MAX_CONTAMINATED), None)
        return tuple(ContaminatedRow(**row) for row in batch.to_pylist()) if batch else ()


def _reading(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"could not read {path}, which this step has written: {error}. Mend the folder, then run "
            "the same command again."
        ) from error


# ---------------------------------------------------------------- sources


def _largest(counts_by_source: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    by_size = sorted(
        counts_by_source, key=lambda name: (-sum(counts_by_source[name].values()), name)
    )
    kept = {name: dict(sorted(counts_by_source[name].items())) for name in by_size[:MAX_SOURCES]}
    if rest := by_size[MAX_SOURCES:]:
        together = Counter(kept.get(OTHER_SOURCES, {}))
        for name in rest:
            together.update(counts_by_source[name])
        kept[OTHER_SOURCES] = dict(sorted(together.items()))
    return kept
