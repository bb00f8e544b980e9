"""Whatever happens to a dataset, the rows that are counted are those that really are new.

A dataset in memory goes through pushes, renames, deletions, rewrites, squashes and cycles; beside it
stands a model that knows nothing of files: sets of rows.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ct_llm.config import DatasetConfig, WatchConfig
from ct_llm.promote.champion import seen_datasets, used_files
from ct_llm.records import DataFile, DataSnapshot, SampledRow, UsedFile, WatchState
from ct_llm.sources.source import Head
from ct_llm.watch.state import state_after
from ct_llm.watch.used import Use
from ct_llm.watch.watch import Past, Watched, watch

NOW = "2026-11-24T16:00:00Z"
Tree = dict[str, tuple[int, ...]]
"""Path to the numbers of the rows in the file."""


def content_id(rows: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


@dataclass
class MemorySource:
    """A dataset with history; a file is one line a row. Implements `Source`."""

    folder: Path
    dataset: DatasetConfig = field(default_factory=lambda: DatasetConfig(repo="acme/rows"))
    history: list[Tree] = field(default_factory=lambda: [{}])
    gone: int = 0
    """So many of the oldest revisions are no longer there."""

    @property
    def tree(self) -> Tree:
        return self.history[-1]

    def commit(self, tree: Tree) -> None:
        self.history.append(dict(tree))

    def head(self) -> Head:
        return Head(f"{len(self.history) - 1:040x}", NOW)

    def files(self, revision: str) -> list[DataFile] | None:
        number = int(revision, 16)
        if number < self.gone:
            return None
        return [
            DataFile(
                path=path,
                content_id=content_id(rows),
                num_bytes=len(rows),
                num_rows=None,
                seen=False,
            )
            for path, rows in sorted(self.history[number].items())
        ]

    def rows(self, path: str, revision: str) -> tuple[int, ...]:
        return self.history[int(revision, 16)][path]

    def read_range(self, path: str, revision: str, start: int, stop: int) -> bytes:
        raise AssertionError("lines have no footer")

    def open(self, path: str, revision: str) -> Path:
        rows = self.rows(path, revision)
        local = self.folder / content_id(rows)
        local.write_text("".join(f"{row}\n" for row in rows))
        return local


@dataclass
class World:
    source: MemorySource
    tables: dict[str, list[UsedFile]] = field(default_factory=dict)
    champion: Use | None = None
    attempt: Use | None = None
    state: WatchState | None = None
    num_rows: int = 0
    """Numbers that were given to rows so far."""
    by_champion: set[int] = field(default_factory=set)
    by_attempt: set[int] = field(default_factory=set)

    @property
    def now(self) -> set[int]:
        return {row for rows in self.source.tree.values() for row in rows}

    def fresh_rows(self, count: int) -> tuple[int, ...]:
        self.num_rows += count
        return tuple(range(self.num_rows - count, self.num_rows))

    def look(
        self, threshold: int = 1_000_000, *, force: bool, states: Sequence[WatchState] = ()
    ) -> Watched:
        # A row cache keeps what was read once, so used content can be compared whatever became of it.
        def count_unseen(
            _: DatasetConfig, revision: str, new: Sequence[DataFile], used: Sequence[DataFile]
        ) -> int:
            def all_rows(files: Sequence[DataFile]) -> set[int]:
                found = (self.source.rows(f.path, f.revision or revision) for f in files)
                return {row for rows in found for row in rows}

            return len(all_rows(new) - all_rows(used))

        def sample(*_: object) -> list[SampledRow]:
            raise AssertionError("drift is off")

        return watch(
            WatchConfig(threshold_samples=threshold),
            [self.source],
            past=Past(self.champion, self.attempt),
            states=states,
            read_table=self.tables.get,
            count_unseen=count_unseen,
            sample=sample,
            cache=self.source.folder,
            now=NOW,
            force=force,
            for_a_cycle=force,
        )

    def check(self) -> DataSnapshot:
        """Forced, the counts are exact; else they are, or are called a bound."""
        unseen = self.now - self.by_champion
        new = unseen - self.by_attempt
        data = self.look(force=True).data
        assert data is not None
        [part] = data.datasets
        assert (part.num_unseen_rows, part.num_new_rows) == (len(unseen), len(new))
        assert part.num_rows == len(self.now)

        [quick] = self.look(force=False).state.datasets
        assert quick.num_rows == len(self.now)
        assert quick.num_unseen_rows >= len(unseen) and quick.num_new_rows >= len(new)
        if quick.counted_by != "bounds":
            assert (quick.num_unseen_rows, quick.num_new_rows) == (len(unseen), len(new))
        # A bound never starts a cycle for which there are too few rows.
        due = self.look(max(1, len(new)), force=False).decision.should_train
        assert due == (len(new) > 0)
        assert not self.look(len(new) + 1, force=False).decision.should_train

        states = [self.state] if self.state else []
        again = self.look(force=False, states=states).state.datasets[0]
        assert again.num_new_rows in (len(new), quick.num_new_rows)
        return data

    def cycle(self, promoted: bool) -> None:
        data = self.check()
        cycle = Use(f"c{len(self.tables)}", seen_datasets(data))
        self.tables[cycle.cycle_id] = used_files(data)
        self.state = state_after(
            WatchConfig(threshold_samples=1_000_000),
            [self.source.dataset],
            data,
            champion=self.champion,
            cycle=cycle,
            promoted=promoted,
        )
        used = self.by_champion | self.now
        self.attempt, self.by_attempt = cycle, used
        if promoted:
            self.champion, self.by_champion = cycle, used


# ---------------------------------------------------------------- what may happen

Event = Callable[[World, st.DataObject], None]


def push(world: World, data: st.DataObject) -> None:
    path = f"shard{len(world.source.history)}.txt"
    rows = world.fresh_rows(data.draw(st.integers(1, 6)))
    world.source.commit({**world.source.tree, path: rows})


def rename_all(world: World, data: st.DataObject) -> None:
    del data
    files = sorted(world.source.tree.values())
    world.source.commit({f"part{i}.txt": rows for i, rows in enumerate(files)})


def delete(world: World, data: st.DataObject) -> None:
    tree = dict(world.source.tree)
    if tree:
        del tree[data.draw(st.sampled_from(sorted(tree)))]
        world.source.commit(tree)


def roll(world: World, data: st.DataObject) -> None:
    """The oldest shard goes, another one comes."""
    tree = dict(world.source.tree)
    if tree:
        del tree[min(tree)]
    world.source.commit(tree)
    push(world, data)


def append_to_a_file(world: World, data: st.DataObject) -> None:
    """And to its copies: that rows repeat within a dataset is for `prepare` to find out."""
    tree = world.source.tree
    if tree:
        old = data.draw(st.sampled_from(sorted(tree.values())))
        new = (*old, *world.fresh_rows(data.draw(st.integers(1, 4))))
        world.source.commit({path: new if rows == old else rows for path, rows in tree.items()})


def reshard(world: World, data: st.DataObject) -> None:
    """All rows in another order, in files of another size."""
    rows = data.draw(st.permutations(sorted(world.now)))
    if rows:
        size = data.draw(st.integers(1, len(rows)))
        parts = [tuple(rows[i : i + size]) for i in range(0, len(rows), size)]
        world.source.commit({f"reshard{i}.txt": part for i, part in enumerate(parts)})


def copy(world: World, data: st.DataObject) -> None:
    tree = dict(world.source.tree)
    if tree:
        path = data.draw(st.sampled_from(sorted(tree)))
        world.source.commit({**tree, f"copy_of_{path}": tree[path]})


def bring_back(world: World, data: st.DataObject) -> None:
    """The tree of an earlier commit, as after a revert or a force-push."""
    world.source.commit(data.draw(st.sampled_from(world.source.history)))


def squash(world: World, data: st.DataObject) -> None:
    del data
    world.source.commit(world.source.tree)
    world.source.gone = len(world.source.history) - 1


def promoted(world: World, data: st.DataObject) -> None:
    del data
    world.cycle(promoted=True)


def rejected(world: World, data: st.DataObject) -> None:
    del data
    world.cycle(promoted=False)


EVENTS: list[Event] = [
    push,
    rename_all,
    delete,
    roll,
    append_to_a_file,
    reshard,
    copy,
    bring_back,
    squash,
    promoted,
    rejected,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(events=st.lists(st.sampled_from(EVENTS), min_size=1, max_size=12), data=st.data())
def test_the_rows_that_count_are_the_rows_that_are_new(
    folder: Path, events: list[Event], data: st.DataObject
):
    world = World(MemorySource(folder))
    push(world, data)
    for event in events:
        event(world, data)
        world.check()
