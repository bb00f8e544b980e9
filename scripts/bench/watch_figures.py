"""What a look at the data costs when there is no news, and what the count of a large shard reads."""

import base64
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from scripts.bench.figures import Figure, run, say, timed, timed_in_turns
from scripts.bench.hub_world import BenchHub, counted, ct_llm, tiny_shards

NOTHING_TO_DO = 10
SECONDS, REQUESTS, KILOBYTES = 1.0, 4, 64
FLAT = 1.5
"""The largest repo's seconds by the smallest one's: what is left of it on a busy machine."""
TIMES_LESS = 1_000
LARGE_ROWS = 20_000

LOAD_DATASET = """
import sys, tempfile
from datasets import load_dataset
repo, revision = sys.argv[1:]
with tempfile.TemporaryDirectory() as cache:
    print(len(load_dataset(repo, revision=revision, split="train", cache_dir=cache)))
"""


class Look(NamedTuple):
    seconds: float
    num_requests: int
    num_bytes: int


def no_news(
    hub: BenchHub, shards: Sequence[int], runs: int, obvious_up_to: int
) -> Iterator[Figure]:
    """After a promotion, and with a few new rows that were looked at before."""
    for number in shards:
        say(f"a repo of {number:,} shards and its champion")
        dataset = hub.make_dataset(f"rows{number}")
        hub.commit(dataset, tiny_shards(0, number))
        hub.promote(hub.write_config(dataset, f"bench/adapter{number}"), rows_per_file=2)
    looks = _looks(hub, shards, runs)
    yield from _judged("watch, nothing new", looks)
    yield from _obvious(hub, looks, obvious_up_to)
    for number in shards:
        hub.commit(f"bench/rows{number}", tiny_shards(number, number + 1))
    yield from _judged("watch, a few new rows", _looks(hub, shards, runs))


def _looks(hub: BenchHub, shards: Sequence[int], runs: int) -> dict[int, Look]:
    """By number of shards. The first look of each is not counted: what it finds is kept."""
    commands = {
        number: ct_llm("watch", "--config", str(hub.folder / f"adapter{number}.yaml"))
        for number in shards
    }
    say("watch")
    seconds = timed_in_turns(commands, runs, code=NOTHING_TO_DO, env=hub.env)
    looks = {}
    for number, command in commands.items():
        with counted() as traffic:
            run(command, code=NOTHING_TO_DO, env=hub.env)
        looks[number] = Look(seconds[number], traffic.num_requests, traffic.num_bytes)
    return looks


def _judged(name: str, looks: dict[int, Look]) -> Iterator[Figure]:
    for number, look in looks.items():
        yield Figure(f"{name}, {number:,} shards, seconds", look.seconds, SECONDS)
        yield Figure(f"{name}, {number:,} shards, requests", look.num_requests, REQUESTS)
        yield Figure(f"{name}, {number:,} shards, KB", look.num_bytes / 1024, KILOBYTES)
    if len(looks) > 1:
        small, large = min(looks), max(looks)
        name = f"{name}, {large:,} by {small:,} shards"
        little, big = looks[small], looks[large]
        yield Figure(f"{name}, ratio of seconds", big.seconds / little.seconds, FLAT)
        yield Figure(f"{name}, ratio of bytes", big.num_bytes / little.num_bytes, FLAT)


def _obvious(hub: BenchHub, looks: dict[int, Look], up_to: int) -> Iterator[Figure]:
    """Against load_dataset to count the rows, its cache empty."""
    for number, (seconds, num_requests, num_bytes) in looks.items():
        if number > up_to:
            continue
        say(f"load_dataset, {number:,} shards")
        with counted() as traffic:
            taken = timed(load_dataset(hub, f"bench/rows{number}"), 1, warm=False, env=hub.env)
        name = f"load_dataset, {number:,} shards"
        yield Figure(f"{name}, seconds", taken, None)
        yield Figure(f"{name}, requests", traffic.num_requests, None)
        yield Figure(f"{name} / watch, seconds", taken / seconds, 1, at_least=True)
        yield Figure(
            f"{name} / watch, requests", traffic.num_requests / num_requests, 1, at_least=True
        )
        yield Figure(f"{name} / watch, bytes", traffic.num_bytes / num_bytes, 1, at_least=True)


def large_shard(hub: BenchHub, megabytes: int, runs: int) -> Iterator[Figure]:
    """The first look at a new shard of so many megabytes, against load_dataset of the same repo."""
    dataset, path = hub.make_dataset("large"), "data/train-large.parquet"
    hub.commit(dataset, tiny_shards(0, 1))
    config = hub.write_config(dataset, "bench/adapter_large", threshold_samples=10**9)
    hub.promote(config, rows_per_file=2)
    say(f"a shard of {megabytes} MB")
    content = _parquet_of(megabytes)
    hub.api.upload_file(
        path_or_fileobj=content, path_in_repo=path, repo_id=dataset, repo_type="dataset"
    )

    def forget() -> None:
        shutil.rmtree(hub.folder / "adapter_large", ignore_errors=True)

    watch = ct_llm("watch", "--json", "--config", str(config))
    seconds = timed(watch, runs, code=NOTHING_TO_DO, env=hub.env, before=forget)
    forget()
    with counted() as watched:
        output = run(watch, code=NOTHING_TO_DO, env=hub.env)
    (counts,) = json.loads(output)["decision"]["datasets"]
    if counts["num_new_rows"] != LARGE_ROWS:
        raise SystemExit(f"{LARGE_ROWS} rows are new, but the watch says {counts}")
    with counted() as loaded:
        taken = timed(load_dataset(hub, dataset), 1, warm=False, env=hub.env)

    read = watched.bytes_of(path)
    name = f"new rows of a shard of {len(content) / 1e6:.0f} MB"
    yield Figure(f"{name}, KB of it read", read / 1024, KILOBYTES)
    yield Figure(f"{name}, KB of all answers", watched.num_bytes / 1024, None)
    yield Figure(f"{name}, seconds", seconds, None)
    yield Figure(f"{name}, load_dataset, seconds", taken, None)
    yield Figure(f"{name}, load_dataset / watch, seconds", taken / seconds, 1, at_least=True)
    ratio = loaded.bytes_of(path) / read
    yield Figure(f"{name}, load_dataset / watch, bytes", ratio, TIMES_LESS, at_least=True)


def load_dataset(hub: BenchHub, repo: str) -> list[str]:
    """The command that counts a repo's rows the obvious way, its cache empty."""
    revision = hub.api.dataset_info(repo).sha
    return [sys.executable, "-c", LOAD_DATASET, repo, str(revision)]


def _parquet_of(megabytes: int) -> bytes:
    """Text that does not compress, so that the file is as large as its rows."""
    generator = np.random.default_rng(0)
    size = megabytes * 1_000_000 // LARGE_ROWS
    rows = [base64.b64encode(generator.bytes(size * 3 // 4)).decode() for _ in range(LARGE_ROWS)]
    sink = io.BytesIO()
    table = pa.table({"instruction": ["Go on."] * LARGE_ROWS, "output": rows})
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    return sink.getvalue()
