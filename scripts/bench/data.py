"""What it costs to know when to train, and on what.

    python -m scripts.bench.data [--only watch shard ...] [--json]

    watch    a look at the data when there is no news, whatever the number of shards
    shard    counting the new rows of one large shard
    dedup    near duplicates and decontamination of many rows
    history  preparing new rows beside a long history
    planted  copies of evaluation items, planted among clean rows
    order    the same rows in other files and commits

Ratios are against the obvious way, measured in the same run. The sizes that the options stand for
are those of docs/FIGURES.md; smaller ones show within a minute that everything works:

    python -m scripts.bench.data --shards 10,100 --shard-mb 20 --rows 5000 --items 1000 \\
        --history 20000 --new-rows 2000 --planted-rows 5000 --planted 100 --order-rows 2000 --runs 1
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.bench.figures import Figure, show, sizes
from scripts.bench.hub_world import ENVIRONMENT, bench_hub

GROUPS = ("watch", "shard", "dedup", "history", "planted", "order")


def main() -> None:
    arguments = parse()
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="ct_llm_bench_") as folder:
        show(figures(arguments, Path(folder)), as_json=arguments.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one object a figure")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="NAME")
    parser.add_argument("--runs", type=int, default=5, help="medians are over so many")
    parser.add_argument("--shards", type=sizes, default=[10, 1_000, 10_000])
    parser.add_argument(
        "--obvious-shards", type=int, default=1_000, help="load_dataset up to so many shards"
    )
    parser.add_argument("--shard-mb", type=int, default=140)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--history", type=int, default=1_000_000)
    parser.add_argument("--new-rows", type=int, default=20_000)
    parser.add_argument("--planted-rows", type=int, default=100_000)
    parser.add_argument("--planted", type=int, default=1_000, help="of each kind")
    parser.add_argument("--order-rows", type=int, default=20_000)
    return parser.parse_args()


def figures(arguments: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    from scripts.bench import prepare_figures, watch_figures

    if {"watch", "shard"} & set(arguments.only):
        with bench_hub(folder) as hub:
            if "watch" in arguments.only:
                yield from watch_figures.no_news(
                    hub, arguments.shards, arguments.runs, arguments.obvious_shards
                )
            if "shard" in arguments.only:
                yield from watch_figures.large_shard(hub, arguments.shard_mb, arguments.runs)
    if "dedup" in arguments.only:
        yield from prepare_figures.dedup(arguments.rows, arguments.items)
    if "history" in arguments.only:
        yield from prepare_figures.history(
            folder,
            arguments.history,
            arguments.new_rows,
            arguments.items,
            min(3, arguments.runs),
        )
    if "planted" in arguments.only:
        yield from prepare_figures.planted(
            arguments.planted_rows, arguments.items, arguments.planted
        )
    if "order" in arguments.only:
        yield from prepare_figures.order(folder, arguments.order_rows)


if __name__ == "__main__":
    main()
