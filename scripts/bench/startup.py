"""How fast does the command answer when there is nothing to do? A scheduler asks that all day.

    python -m scripts.bench.startup [--json] [--runs 5]

Against what one would do otherwise in the same run: `load_dataset` to count the rows.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.bench.figures import Figure, run, show, timed
from scripts.bench.hub_world import ENVIRONMENT, BenchHub, bench_hub, counted, ct_llm, shard
from scripts.bench.watch_figures import NOTHING_TO_DO, REQUESTS, SECONDS, load_dataset

HELP_SECONDS = 0.3
NUM_ROWS = 20_000

HEAVY_MODULES = """
import json, sys
from ct_llm.cli.main import main
try:
    main(["watch", "--config", sys.argv[1]])
except SystemExit as end:
    assert end.code == 10, end.code
print(json.dumps(sorted({"torch", "datasets", "transformers", "pandas"} & set(sys.modules))))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one object a figure")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder, bench_hub(Path(folder)) as hub:
        show(figures(hub, arguments.runs), as_json=arguments.json)


def figures(hub: BenchHub, runs: int) -> Iterator[Figure]:
    yield Figure("ct-llm --help, seconds", timed(ct_llm("--help"), runs), HELP_SECONDS)

    dataset = hub.make_dataset("rows")
    rows = [{"instruction": f"Say {number}", "output": "x" * 200} for number in range(NUM_ROWS)]
    hub.commit(dataset, {"data/train.parquet": shard(rows)})
    config = hub.write_config(dataset, "bench/adapter")
    hub.promote(config, rows_per_file=NUM_ROWS)
    watch = ct_llm("watch", "--config", str(config))
    seconds = timed(watch, runs, code=NOTHING_TO_DO, env=hub.env)
    with counted() as traffic:
        output = run([sys.executable, "-c", HEAVY_MODULES, str(config)], env=hub.env)
    heavy = json.loads(output.splitlines()[-1])
    yield Figure("ct-llm watch, nothing new, seconds", seconds, SECONDS)
    yield Figure("ct-llm watch, nothing new, requests", traffic.num_requests, REQUESTS)
    yield Figure("ct-llm watch, torch or datasets imported", len(heavy), 0)

    loaded = timed(load_dataset(hub, dataset), min(3, runs), env=hub.env)
    yield Figure("load_dataset / ct-llm watch, seconds", loaded / seconds, 1, at_least=True)


if __name__ == "__main__":
    main()
