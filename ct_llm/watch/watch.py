"""The watch step: what is new in the datasets, and is it reason enough to train?

A tick where nothing changed asks each dataset for its newest revision and no more: counts and drift
are those of the last look. Files are listed where a revision is new, and all of them when a cycle is
to begin, for what it trains on is their list.

Rows are read where file lists give no more than a bound, and that bound would start a cycle. When a
cycle is to begin because of the number of new rows, rows are compared in any case: `prepare` reads the
new files anyway, through the same cache, and they may repeat files that were used.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ct_llm.config import DatasetConfig, WatchConfig
from ct_llm.errors import DataError
from ct_llm.records import (
    DataFile,
    DatasetState,
    DataSnapshot,
    DriftReport,
    PastCycle,
    SampledRow,
    TriggerDecision,
    WatchState,
)
from ct_llm.watch.count import (
    CountedDataset,
    RowCounter,
    compare_rows,
    count_dataset,
    state_of,
    without_content,
)
from ct_llm.watch.decide import decide
from ct_llm.watch.facts import Facts, moment
from ct_llm.watch.state import state_inputs
from ct_llm.watch.used import ReadTable, Use, used_content

if TYPE_CHECKING:
    from ct_llm.sources.source import Head, Source

RowSampler = Callable[[DatasetConfig, str, Sequence[DataFile], int, int], list[SampledRow]]
"""(dataset, revision, files, number of rows, seed) -> so many rows of the files, or all there are."""


class Past(NamedTuple):
    """What the adapter repo says of the cycles before."""

    champion: Use | None = None
    """None where there is none, or nothing is known of its data: then all rows are unseen."""
    last_attempt: Use | None = None
    """The newest cycle, whatever came of it; its rows do not count towards the trigger again."""
    recent: tuple[PastCycle, ...] = ()
    """Newest first."""


class Watched(NamedTuple):
    decision: TriggerDecision
    state: WatchState
    """For the next look."""
    data: DataSnapshot | None
    """What a cycle would train on; only where one is due and was asked for."""


def watch(
    config: WatchConfig,
    sources: "Sequence[Source]",
    *,
    past: Past,
    states: Sequence[WatchState],
    read_table: ReadTable,
    count_unseen: RowCounter,
    sample: RowSampler,
    cache: Path,
    now: str,
    force: bool = False,
    for_a_cycle: bool = False,
) -> Watched:
    """Count the rows that the champion has not seen, and decide.

    states: what earlier looks have left, if anything. count_unseen, sample: read rows; asked only
    where file lists do not tell, or drift is to be measured. cache: a folder for what was counted.
    now: UTC, ISO 8601. force: whatever rules and brakes say. for_a_cycle: give the list of files when
    training is due. Writes to the cache alone.

    Raises ConfigError, HubNotFoundError, HubAccessError, HubUnavailableError, DataError, StorageError,
    InputError.
    """
    inputs = state_inputs(
        config,
        [source.dataset for source in sources],
        champion=past.champion,
        last_attempt=past.last_attempt,
    )
    known = [state for state in states if state.inputs == inputs]
    look = _Look(sources, past, known, read_table, count_unseen, cache)

    parts = look.states()
    drift = look.known_drift()
    facts = Facts(
        now=moment(now),
        datasets=parts,
        num_new_rows=look.weighted(parts),
        champion=past.champion,
        last_attempt=past.last_attempt,
        recent=past.recent,
        drift=drift,
    )
    if drift is None and _is_worth_measuring(config, facts):
        facts = replace(facts, drift=_measure(config, look.listed(), sample))
    decision = decide(config, facts, force=force)

    volume_is_met = any(reason.rule == "volume" and reason.met for reason in decision.reasons)
    beginning = decision.should_train and for_a_cycle and volume_is_met
    if decision.should_train and (facts.is_bound or beginning or len(sources) > 1):
        parts = look.exact_states(files_too=beginning)
        facts = replace(facts, datasets=parts, num_new_rows=look.weighted(parts))
        decision = decide(config, facts, force=force)
    data = look.snapshot() if decision.should_train and for_a_cycle else None
    return Watched(decision, WatchState(inputs=inputs, datasets=parts, drift=facts.drift), data)


class _Look:
    """The datasets as they are now: what the last look knew, and lists of files where it is not enough."""

    def __init__(
        self,
        sources: "Sequence[Source]",
        past: Past,
        known: Sequence[WatchState],
        read_table: ReadTable,
        count_unseen: RowCounter,
        cache: Path,
    ) -> None:
        self._sources = sources
        self._heads: list[Head] = [source.head() for source in sources]
        self._past = past
        self._known = known
        self._read_table = lru_cache(read_table)
        self._count_unseen = count_unseen
        self._cache = cache
        self._counted: dict[str, CountedDataset] = {}
        self._all_listed = False

    def states(self) -> tuple[DatasetState, ...]:
        """As the last look has left them; where it does not know, by lists of files."""
        return tuple(
            self._known_at(source, head) or state_of(self._list(source, head).snapshot)
            for source, head in zip(self._sources, self._heads, strict=True)
        )

    def exact_states(self, *, files_too: bool) -> tuple[DatasetState, ...]:
        """Content of two datasets counts once, and rows are compared where file lists gave a bound.

        files_too: also where they gave a number, which is exact unless files repeat each other's rows.
        """
        compared = ("bounds", "files") if files_too else ("bounds",)
        if len(self._sources) == 1:
            parts = self.states()
            if parts[0].counted_by not in compared:
                return parts
        for dataset, counted in self.listed():
            if counted.snapshot.counted_by in compared:
                self._counted[dataset.key] = self._compared(dataset, counted)
        return tuple(state_of(counted.snapshot) for _, counted in self.listed())

    def _compared(self, dataset: DatasetConfig, counted: CountedDataset) -> CountedDataset:
        try:
            return compare_rows(dataset, counted, self._count_unseen)
        except DataError:
            if counted.snapshot.counted_by == "bounds":
                raise
            # The cycle will meet the same file, and is then noted as failed.
            return counted

    def listed(self) -> list[tuple[DatasetConfig, CountedDataset]]:
        """All datasets, file by file; what two of them hold counts for the first."""
        if not self._all_listed:
            held: set[str] = set()
            for source, head in zip(self._sources, self._heads, strict=True):
                counted = self._list(source, head)
                self._counted[source.dataset.key] = without_content(counted, held)
                held |= {file.content_id for file in counted.snapshot.files}
            self._all_listed = True
        return [(source.dataset, self._counted[source.dataset.key]) for source in self._sources]

    def snapshot(self) -> DataSnapshot:
        """All of them: the unchanged ones too, for their rows are what a cycle replays."""
        parts = tuple(counted.snapshot for _, counted in self.listed())
        return DataSnapshot(
            datasets=parts,
            num_unseen_rows=sum(part.num_unseen_rows for part in parts),
            num_new_rows=self.weighted([state_of(part) for part in parts]),
        )

    def weighted(self, parts: Sequence[DatasetState]) -> int:
        """New rows, each as often as the weight of its dataset says."""
        weights = {source.dataset.key: source.dataset.weight for source in self._sources}
        return round(sum(weights[part.name] * part.num_new_rows for part in parts))

    def known_drift(self) -> DriftReport | None:
        """As it was measured on the rows that are there now."""
        now = {(s.dataset.key, h.revision) for s, h in zip(self._sources, self._heads, strict=True)}
        for state in self._known:
            measured_on = {(part.name, part.revision) for part in state.datasets}
            if state.drift is not None and measured_on == now:
                return state.drift
        return None

    def _known_at(self, source: "Source", head: "Head") -> DatasetState | None:
        at = (source.dataset.key, head.revision)
        parts = (part for state in self._known for part in state.datasets)
        found = [part for part in parts if (part.name, part.revision) == at]
        # Of several, the one whose rows were compared.
        return min(found, key=lambda part: _BEST.index(part.counted_by), default=None)

    def _list(self, source: "Source", head: "Head") -> CountedDataset:
        key = source.dataset.key
        if key not in self._counted:
            champion, attempt = self._past.champion, self._past.last_attempt
            counted = count_dataset(
                source,
                head,
                champion=used_content(source, champion, self._read_table, "the champion"),
                attempted=used_content(source, attempt, self._read_table, "the last attempt"),
                cache=self._cache,
            )
            known = self._known_at(source, head)
            if known is not None and known.counted_by == "rows":
                # Rows that were compared once need not be compared again.
                exact = known.model_dump(include=_COUNTS)
                counted = replace(counted, snapshot=counted.snapshot.model_copy(update=exact))
            self._counted[key] = counted
        return self._counted[key]


_BEST = ("rows", "files", "bounds")
_COUNTS = {"num_unseen_rows", "num_new_rows", "counted_by", "notes"}


# ---------------------------------------------------------------- drift


def _is_worth_measuring(config: WatchConfig, facts: Facts) -> bool:
    enough = facts.num_new_rows >= config.drift.min_new_rows
    return config.drift.enabled and facts.champion is not None and enough


def _measure(
    config: WatchConfig,
    listed: Sequence[tuple[DatasetConfig, CountedDataset]],
    sample: RowSampler,
) -> DriftReport:
    """New rows against those that the champion was trained on, of every dataset its share."""
    from ct_llm.watch.drift import measure_drift

    def drawn(files_of: Callable[[CountedDataset], Sequence[DataFile]]) -> list[SampledRow]:
        files = [files_of(counted) for _, counted in listed]
        rows = [sum(file.num_rows or 0 for file in some) for some in files]
        wanted = [-(-config.drift.sample_rows * count // max(1, sum(rows))) for count in rows]
        return [
            row
            for (dataset, counted), some, number in zip(listed, files, wanted, strict=True)
            if number
            for row in sample(dataset, counted.snapshot.revision, some, number, config.drift.seed)
        ]

    return measure_drift(drawn(_new_files), drawn(_reference_files), config.drift)


def _new_files(counted: CountedDataset) -> Sequence[DataFile]:
    return counted.new


def _reference_files(counted: CountedDataset) -> Sequence[DataFile]:
    """What is still there of the champion's data; where nothing is, what was there."""
    present = {file.content_id: file for file in counted.snapshot.files if file.seen}
    return list(present.values()) or counted.snapshot.removed_files
