"""What cleaning many rows costs, what it finds, and that the order of files does not matter.

Each measurement runs in a process of its own, so that time and memory are its own.
"""

import io
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.bench.figures import Clock, Figure, in_own_process, say
from scripts.bench.hub_world import bench_hub
from scripts.bench.planted import parts, planted_copies, planted_world

Row = Sequence[Mapping[str, str]]
"""Messages: `role` and `content`."""

ROWS_PER_SECOND, PEAK_GB = 15_000, 2
WITH_HISTORY = 1.5
EXACT_FOUND, NEAR_FOUND, CLEAN_HIT = 0.999, 0.95, 0.001
SAMPLE = 1_000
"""Rows that the obvious way is timed on: every pair of them is compared."""
ROWS_PER_FILE = 50_000


# ---------------------------------------------------------------- dedup and decontamination


def dedup(num_rows: int, num_items: int) -> Iterator[Figure]:
    name = f"dedup and decontaminate, {num_rows:,} rows"
    say(name)
    ours = in_own_process(clean, num_rows=num_rows, num_items=num_items)
    rate = num_rows / ours["processor_seconds"]
    yield Figure(f"{name}, rows a second and core", rate, ROWS_PER_SECOND, at_least=True)
    yield Figure(f"{name}, peak GB", ours["peak_bytes"] / 1e9, PEAK_GB)
    yield Figure(f"{name}, seconds", ours["wall_seconds"], None)
    say(f"the same with Python sets, {min(SAMPLE, num_rows):,} rows")
    obvious = in_own_process(
        clean_with_sets,
        num_rows=min(SAMPLE, num_rows),
        num_items=num_items,
        scaled_to=num_rows,
    )
    times = obvious["scaled_seconds"] / ours["processor_seconds"]
    yield Figure(
        f"{name}, Python sets of n-grams (scaled), seconds", obvious["scaled_seconds"], None
    )
    yield Figure(f"{name}, times faster than Python sets", times, 1, at_least=True)


def clean(num_rows: int, num_items: int) -> dict[str, float]:
    """Sketches, near duplicates within the rows, and copies of the items."""
    from ct_llm.config import DecontaminationConfig, NearDuplicateConfig
    from ct_llm.prepare.overlap.decontaminate import Decontaminator
    from ct_llm.prepare.overlap.near_duplicates import Corpus, keep_one_of_each, sketch

    world = planted_world(num_rows, num_items, 0, 0, seed=0)
    pairs = [parts(row) for row in world.rows]
    clock = Clock()
    with clock.running():
        corpus = Corpus(sketch(pairs), lambda indices: [pairs[index] for index in indices])
        keep_one_of_each(corpus, np.arange(num_rows), NearDuplicateConfig().min_similarity)
        items = Decontaminator(world.items, DecontaminationConfig().min_containment)
        items.find([_texts(row) for row in world.rows])
    return {"wall_seconds": clock.wall, "processor_seconds": clock.processor}


def clean_with_sets(num_rows: int, num_items: int, scaled_to: int) -> dict[str, float]:
    """What one would write first: 13-grams of the items in a set, every pair of rows compared.

    The first grows with the rows and the second with their square; both are scaled so.
    """
    world = planted_world(num_rows, num_items, 0, 0, seed=0)
    matching, comparing = Clock(), Clock()
    items = {gram for item in world.items for text in item.texts for gram in _grams(text, 13)}
    with matching.running():
        num_hit = sum(
            any(not items.isdisjoint(_grams(text, 13)) for text in _texts(row))
            for row in world.rows
        )
    with comparing.running():
        shingles = [_grams("\n".join(_texts(row)), 5) for row in world.rows]
        num_alike = sum(
            len(one & other) >= 0.8 * len(one | other)
            for index, one in enumerate(shingles)
            for other in shingles[:index]
        )
    factor = scaled_to / num_rows
    seconds = matching.processor * factor + comparing.processor * factor**2
    return {"scaled_seconds": seconds, "num_hit": num_hit, "num_alike": num_alike}


def _grams(text: str, length: int) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def _texts(row: Row) -> list[str]:
    return [message["content"] for message in row if message["role"] != "system"]


# ---------------------------------------------------------------- history


def history(
    folder: Path, num_earlier: int, num_new: int, num_items: int, runs: int
) -> Iterator[Figure]:
    """The new rows are read for the first time in each run; the earlier ones lie in the cache, as they
    do after the cycles that read them. With suites, as every cycle has them."""
    say(f"writing {num_earlier:,} earlier rows and {num_new:,} new ones")
    root = folder / "history"
    root.mkdir()
    new = _write_rows(root / "new.parquet", num_new, seed=1)
    earlier = [
        _write_rows(root / f"earlier-{seed}.parquet", count, seed=seed)
        for seed, count in enumerate(_split(num_earlier, ROWS_PER_FILE), start=2)
    ]
    say("preparing, all earlier rows read for the first time")
    common = {"root": str(root), "new": new, "num_items": num_items}
    cold = in_own_process(prepare_files, **common, earlier=earlier, salt="cold")
    found: dict[str, list[dict[str, float]]] = {"none": [], "history": []}
    for number in range(runs):
        for kind, files in (("none", []), ("history", earlier)):
            say(f"preparing, {kind}, {number + 1} of {runs}")
            found[kind].append(
                in_own_process(prepare_files, **common, earlier=files, salt=f"{kind}{number}")
            )
    alone, beside = (_median(found[kind], "wall_seconds") for kind in ("none", "history"))
    busy = _median(found["history"], "processor_seconds") / _median(
        found["none"], "processor_seconds"
    )
    peak = max(run["peak_bytes"] for run in found["history"])
    name = f"prepare {num_new:,} rows beside {num_earlier:,} earlier ones"
    yield Figure(f"{name}, by the time without", beside / alone, WITH_HISTORY)
    yield Figure(f"{name}, by the processor's time without", busy, None)
    yield Figure(f"{name}, seconds", beside, None)
    yield Figure(f"{name}, seconds without", alone, None)
    yield Figure(f"{name}, peak GB", peak / 1e9, None)
    yield Figure(f"{name}, seconds when none was read before", cold["wall_seconds"], None)
    # What one would do without a cache: clean and sketch all rows in every cycle.
    yield Figure(f"{name}, cold / warm", cold["wall_seconds"] / beside, 1, at_least=True)


def _median(runs: Sequence[Mapping[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def prepare_files(
    root: str, new: str, earlier: list[str], num_items: int, salt: str
) -> dict[str, float]:
    """One `prepare`. salt: makes the new file one that no cache has seen."""
    from ct_llm.records import DataFile

    def file(path: str, content_id: str, *, seen: bool) -> DataFile:
        return DataFile(path=path, content_id=content_id, num_bytes=0, num_rows=None, seen=seen)

    clock, items = Clock(), planted_world(1, num_items, 0, 0, seed=0).items
    with clock.running():
        prepared(
            [file(new, f"{new} {salt}", seen=False)]
            + [file(path, path, seen=True) for path in earlier],
            lambda _, __, path: Path(root) / path,
            Path(root),
            cycle=salt,
            eval_items=items,
        )
    return {"wall_seconds": clock.wall, "processor_seconds": clock.processor}


def prepared(
    files: Sequence[Any],
    open_file: Callable[[str, str, str], Path],
    folder: Path,
    *,
    cycle: str,
    eval_items: Sequence[Any] = (),
) -> Any:
    """`prepare` of these DataFiles as one dataset; gives its PreparedData."""
    from ct_llm.config import DatasetConfig, PrepareConfig
    from ct_llm.prepare.prepare import prepare
    from ct_llm.records import DatasetSnapshot, DataSnapshot

    dataset = DatasetConfig(repo="bench/rows", name="rows")
    part = DatasetSnapshot(
        name="rows",
        repo="bench/rows",
        revision="0" * 40,
        seen_revision="1" * 40 if any(file.seen for file in files) else None,
        files=tuple(files),
        num_rows=0,
        num_unseen_rows=0,
        num_new_rows=0,
    )
    return prepare(
        PrepareConfig(),
        DataSnapshot(datasets=(part,), num_unseen_rows=0, num_new_rows=0),
        datasets=[dataset],
        eval_items=eval_items,
        renders_tools=True,
        open_file=open_file,
        cache=folder / "cache",
        cycle=folder / cycle,
    )


def _write_rows(path: Path, num_rows: int, seed: int) -> str:
    path.write_bytes(_parquet(planted_world(num_rows, 10, 0, 0, seed=seed).rows))
    return path.name


def _parquet(rows: Sequence[Row]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"messages": [list(row) for row in rows]}), sink, compression="zstd")
    return sink.getvalue()


def _split(total: int, most: int) -> list[int]:
    return [min(most, total - start) for start in range(0, total, most)]


# ---------------------------------------------------------------- planted copies


def planted(num_rows: int, num_items: int, num_each: int) -> Iterator[Figure]:
    say(f"{num_each:,} exact and {num_each:,} near copies of items in {num_rows:,} rows")
    found = in_own_process(find_planted, num_rows=num_rows, num_items=num_items, num_each=num_each)
    name = "planted copies of items"
    yield Figure(f"{name}, exact ones found, share", found["exact"], EXACT_FOUND, at_least=True)
    yield Figure(f"{name}, near ones found, share", found["near"], NEAR_FOUND, at_least=True)
    yield Figure(f"{name}, clean rows hit, share", found["clean"], CLEAN_HIT)
    found = in_own_process(find_copies, num_rows=num_rows, num_each=num_each)
    name = "planted copies of rows"
    yield Figure(f"{name}, exact ones found, share", found["exact"], EXACT_FOUND, at_least=True)
    # Some are changed so much that they are no near duplicates any more.
    yield Figure(f"{name}, changed ones found, share", found["near"], None)
    yield Figure(f"{name}, other rows dropped, share", found["others"], CLEAN_HIT)


def find_planted(num_rows: int, num_items: int, num_each: int) -> dict[str, float]:
    """Shares of exact and near copies found, and of clean rows taken for one."""
    from ct_llm.config import DecontaminationConfig
    from ct_llm.prepare.overlap.decontaminate import Decontaminator

    world = planted_world(num_rows, num_items, num_each, num_each, seed=1)
    items = Decontaminator(world.items, DecontaminationConfig().min_containment)
    hits = items.find([_texts(row) for row in world.rows])
    is_hit = {index for index, hit in enumerate(hits) if hit}
    of_kind = {
        kind: {index for index, planted in world.truth.items() if planted.kind == kind}
        for kind in ("exact", "near")
    }
    clean_rows = set(range(len(world.rows))) - set(world.truth)
    return {
        "exact": _share(is_hit, of_kind["exact"]),
        "near": _share(is_hit, of_kind["near"]),
        "clean": _share(is_hit, clean_rows),
    }


def find_copies(num_rows: int, num_each: int) -> dict[str, float]:
    """Shares of exact and changed copies found, and of other rows that went."""
    from ct_llm.config import NearDuplicateConfig
    from ct_llm.prepare.overlap.near_duplicates import Corpus, keep_one_of_each, sketch

    world = planted_copies(num_rows, num_each, num_each, seed=1)
    pairs = [parts(row) for row in world.rows]
    corpus = Corpus(sketch(pairs), lambda indices: [pairs[index] for index in indices])
    threshold = NearDuplicateConfig().min_similarity
    keeper = keep_one_of_each(corpus, np.arange(len(pairs)), threshold)
    words = [[text.split() for text in pair] for pair in pairs]
    gone = set(np.flatnonzero(keeper != np.arange(len(pairs))).tolist())
    # Of a copy and its original, either may be the one that stays.
    found = {copy for copy, original in world.truth.items() if {copy, original} & gone}
    exact = {copy for copy, original in world.truth.items() if words[copy] == words[original]}
    others = set(range(len(pairs))) - set(world.truth) - set(world.truth.values())
    return {
        "exact": _share(found, exact),
        "near": _share(found, set(world.truth) - exact),
        "others": _share(gone, others),
    }


def _share(found: set[int], of: set[int]) -> float:
    return len(found & of) / max(1, len(of))


# ---------------------------------------------------------------- order


def order(folder: Path, num_rows: int) -> Iterator[Figure]:
    """The same rows on the embedded Hub in other orders, files, formats and commits.

    Near duplicates and copies of items are among them: which of them stay must not depend on either.
    """
    from ct_llm.config import DatasetConfig
    from ct_llm.sources.source import open_source

    some = max(1, num_rows // 100)
    world = planted_world(num_rows, 200, min(some, 100), min(some, 100), seed=2)
    rows = [*world.rows, *planted_copies(num_rows // 4, some, some, seed=3).rows]
    ways = [(1, 1, False), (7, 1, True), (23, 23, True), (60, 5, True)]
    digests = []
    with bench_hub(folder / "order") as hub:
        for number, (num_files, num_commits, shuffle) in enumerate(ways):
            say(f"order, {num_files} files in {num_commits} commits")
            repo = hub.make_dataset(f"order{number}")
            mixed = random.Random(number).sample(rows, len(rows)) if shuffle else rows
            names = [f"data/{index:03d}.parquet" for index in range(num_files)]
            random.Random(number).shuffle(names)
            files = {name: _parquet(mixed[index::num_files]) for index, name in enumerate(names)}
            for start in range(num_commits):
                hub.commit(repo, {name: files[name] for name in names[start::num_commits]})
            root = folder / "order" / str(number)
            source = open_source(DatasetConfig(repo=repo, name="rows"), hub.api, root / "cache")
            revision = source.head().revision
            result = prepared(
                source.files(revision) or [],
                lambda _, __, path, source=source, at=revision: source.open(path, at),
                root,
                cycle="cycle",
                eval_items=world.items,
            )
            digests.append(result.digest)
    name = f"{len(rows):,} rows in {len(ways)} orders, files and commits"
    yield Figure(f"{name}, different training sets", len(set(digests)), 1)
