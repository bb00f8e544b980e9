"""What an honest verdict costs, and whether it is one.

    python -m scripts.bench.verdict [--only full stopping ...] [--json]

    full      every item of seven real tasks, beside two runs of the lm_eval command; scores compared
    stopping  a known champion, a true gain of 3 points, N = 1,319: stop when certain
    share     the share of the items that a gate looks at (simulated)
    equal     gates between two equally good models, on their real scores: false promotions
    kills     a verdict killed at random moments and resumed

Ratios are of whole commands, start-up included, measured in turns in the same run; say how many
processors there are and what else runs. `--real-data` is the folder of real benchmarks that the
tests use too. Smaller sizes show within minutes that everything works:

    python -m scripts.bench.verdict --runs 1 --limit 4 --pool 2000 --items 200 --gates 50 --kills 2
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripts.bench.figures import Figure, say, show
from scripts.bench.hub_world import ENVIRONMENT

GROUPS = ("full", "stopping", "share", "equal", "kills")
REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


def main() -> None:
    arguments = parse()
    os.environ.update(ENVIRONMENT)
    say(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="ct_llm_bench_") as folder:
        show(figures(arguments, Path(folder)), as_json=arguments.json)
    say(f"load {os.getloadavg()[0]:.1f} at the end")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one object a figure")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, metavar="NAME")
    parser.add_argument("--runs", type=int, default=5, help="stopping: rounds of timed commands")
    parser.add_argument(
        "--full-runs", type=int, default=1, help="full: rounds, some 20 minutes each"
    )
    parser.add_argument("--limit", type=int, default=100, help="full: items of each task")
    parser.add_argument("--pool", type=int, default=4_000, help="items to choose from")
    parser.add_argument("--items", type=int, default=1_319)
    parser.add_argument("--gates", type=int, default=1_000)
    parser.add_argument("--kills", type=int, default=20)
    default = Path(os.environ.get("CT_LLM_REAL_DATA", REAL_DATA))
    parser.add_argument("--real-data", type=Path, default=default)
    return parser.parse_args()


def figures(arguments: argparse.Namespace, folder: Path) -> Iterator[Figure]:
    from scripts.bench import verdict_full, verdict_gates, verdict_kills, verdict_stopping

    folders = {name: folder / name for name in GROUPS}
    for path in folders.values():
        path.mkdir()
    if "full" in arguments.only:
        yield from verdict_full.full_verdict(
            folders["full"], arguments.real_data, arguments.limit, arguments.full_runs
        )
    if "stopping" in arguments.only:
        yield from verdict_stopping.stopping(
            folders["stopping"], arguments.pool, arguments.items, arguments.runs
        )
    if "share" in arguments.only:
        yield from verdict_gates.share_of_items(arguments.gates)
    if "equal" in arguments.only:
        scores = verdict_stopping.equal_models(folders["equal"], arguments.items)
        yield from verdict_gates.false_promotions(scores, arguments.gates)
    if "kills" in arguments.only:
        yield from verdict_kills.kills(
            folders["kills"], arguments.pool, arguments.items, arguments.kills
        )


if __name__ == "__main__":
    main()
