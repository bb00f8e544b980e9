"""A dataset repo that changes, the cycles that have used it, and every request that a look costs."""

import io
import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
)

from ct_llm.config import DatasetConfig, DriftConfig, WatchConfig
from ct_llm.promote.champion import seen_datasets, used_files
from ct_llm.records import (
    DataFile,
    DatasetSnapshot,
    DatasetState,
    DataSnapshot,
    SampledRow,
    UsedFile,
    WatchState,
)
from ct_llm.sources.source import Source, open_source
from ct_llm.watch.state import state_after
from ct_llm.watch.used import Use
from ct_llm.watch.watch import Past, Watched, watch
from tests.integration.wire import Wire

NOW = "2026-11-24T16:00:00Z"
_numbers = itertools.count()


class Watcher:
    """Datasets, and what champion and last attempt have used of them, as the ledger would hold it."""

    def __init__(self, api: HfApi, wire: Wire, cache: Path, *datasets: DatasetConfig) -> None:
        self.api = api
        self.wire = wire
        self.cache = cache
        self.datasets = list(datasets)
        self.champion: Use | None = None
        self.attempt: Use | None = None
        self.tables: dict[str, Sequence[UsedFile]] = {}
        self.state: WatchState | None = None
        """What the last cycle has left on the ledger."""
        self.num_compared = 0
        """How often rows had to be compared."""
        self.num_sampled = 0
        """How often rows were drawn to measure drift."""
        self.drift = DriftConfig()

    def attempted(self, *, promoted: bool = False) -> DataSnapshot:
        """A cycle uses everything there is and is rejected, or promoted."""
        data = self.look()
        cycle = Use(f"c{next(_numbers)}", seen_datasets(data))
        self.tables[cycle.cycle_id] = used_files(data)
        self.state = state_after(
            WatchConfig(drift=self.drift),
            self.datasets,
            data,
            champion=self.champion,
            cycle=cycle,
            promoted=promoted,
        )
        self.attempt = cycle
        self.champion = cycle if promoted else self.champion
        return data

    def look(self) -> DataSnapshot:
        """What a forced cycle would train on, counted exactly."""
        data = self.decide(force=True, forget=True).data
        assert data is not None
        return data

    def decide(
        self,
        threshold: int = 10,
        *,
        force: bool = False,
        forget: bool = False,
        for_a_cycle: bool = False,
    ) -> Watched:
        """One look. forget: the state of earlier looks is lost. A forced one is for a cycle."""
        self.wire.reset()
        sources = [open_source(config, self.api, self.cache) for config in self.datasets]
        by_name = {source.dataset.key: source for source in sources}

        def count_unseen(
            dataset: DatasetConfig,
            revision: str,
            new: Sequence[DataFile],
            used: Sequence[DataFile],
        ) -> int:
            self.num_compared += 1
            source = by_name[dataset.key]
            return len(content(source, revision, new) - content(source, revision, used))

        def sample(
            dataset: DatasetConfig,
            revision: str,
            files: Sequence[DataFile],
            num_rows: int,
            seed: int,
        ) -> list[SampledRow]:
            del seed
            self.num_sampled += 1
            found = sorted(content(by_name[dataset.key], revision, files))
            return [SampledRow(text, dataset.key) for text in found[:num_rows]]

        return watch(
            WatchConfig(threshold_samples=threshold, drift=self.drift),
            sources,
            past=Past(self.champion, self.attempt),
            states=[self.state] if self.state and not forget else [],
            read_table=self.tables.get,
            count_unseen=count_unseen,
            sample=sample,
            cache=self.cache,
            now=NOW,
            force=force,
            for_a_cycle=for_a_cycle or force,
        )


class Dataset(Watcher):
    """One dataset repo with a watcher of its own."""

    def __init__(
        self,
        api: HfApi,
        wire: Wire,
        cache: Path,
        *,
        private: bool = False,
        files: str = "**",
    ) -> None:
        self.repo = f"acme/chats-{os.getpid()}-{next(_numbers)}"
        super().__init__(api, wire, cache, DatasetConfig(repo=self.repo, files=files))
        api.create_repo(self.repo, repo_type="dataset", private=private)

    def push(self, **files: bytes) -> None:
        """`a__parquet=...` writes a.parquet."""
        self.commit(*(CommitOperationAdd(p.replace("__", "."), c) for p, c in files.items()))

    def delete(self, *paths: str) -> None:
        self.commit(*(CommitOperationDelete(path) for path in paths))

    def rename(self, old: str, new: str) -> None:
        self.commit(CommitOperationCopy(old, new), CommitOperationDelete(old))

    def commit(
        self, *operations: CommitOperationAdd | CommitOperationDelete | CommitOperationCopy
    ) -> None:
        self.api.create_commit(self.repo, operations, commit_message="change", repo_type="dataset")

    def squash(self) -> None:
        self.api.super_squash_history(self.repo, repo_type="dataset")

    def begin_anew(self) -> None:
        """As after a force-push: another history, of which nothing is known."""
        self.api.delete_repo(self.repo, repo_type="dataset")
        self.api.create_repo(self.repo, repo_type="dataset")

    def rejected(self) -> DatasetSnapshot:
        return self.attempted().datasets[0]

    def promoted(self) -> DatasetSnapshot:
        return self.attempted(promoted=True).datasets[0]

    def part(self) -> DatasetSnapshot:
        [part] = self.look().datasets
        return part

    def first_look(self) -> DatasetState:
        """Without a cycle: the most that can be new, where file lists alone do not tell."""
        [part] = self.decide(threshold=10**6, forget=True).state.datasets
        return part


def content(source: Source, revision: str, files: Sequence[DataFile]) -> set[str]:
    """Rows of the files, as text."""
    rows: set[str] = set()
    for file in files:
        path = source.open(file.path, file.revision or revision)
        if file.path.endswith(".parquet"):
            found = pq.read_table(path).to_pylist()
        else:
            found = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        rows |= {row["text"] for row in found}
    return rows


def rows(
    start: int, stop: int, *, text: str = "row {}", column: str = "text", **columns: str
) -> bytes:
    """A parquet file of these rows."""
    sink = io.BytesIO()
    texts = [text.format(i) for i in range(start, stop)]
    more = {name: [value] * len(texts) for name, value in columns.items()}
    pq.write_table(pa.table({column: texts, **more}), sink)
    return sink.getvalue()


def lines(start: int, stop: int) -> bytes:
    return b"".join(json.dumps({"text": f"row {i}"}).encode() + b"\n" for i in range(start, stop))


def counts(part: DatasetSnapshot | DatasetState) -> tuple[int, int, int]:
    return part.num_rows, part.num_unseen_rows, part.num_new_rows


def seen_by_path(part: DatasetSnapshot) -> dict[str, bool]:
    return {file.path: file.seen for file in part.files}
