"""A verdict that stops when it is certain, beside two whole runs of the `lm_eval` command.

The population is made of real items and real outputs: both adapters answer a large pool, and of it
so many items are taken that the challenger wins and loses as often as asked for. Which ones is drawn
by a seed, so nothing tells the engine where they are.
"""

import random
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ct_llm.config import BaseModelConfig, EvaluateConfig, GateConfig, load_suite
from ct_llm.cycle_dir import read_record, write_record
from ct_llm.evaluation import EvaluationRequest, ScoresAt
from ct_llm.records import EvalResult, GateDecision, Side
from scripts.bench.figures import Figure, Spent, run, say, spent_by
from scripts.bench.hub_world import ct_llm
from scripts.bench.verdict_once import DECISION, RESULT
from scripts.bench.verdict_world import (
    Population,
    environment,
    lm_eval,
    pool_items,
    taught_rows,
    train_adapter,
    write_long_base,
    write_newest,
    write_population,
)

TOLERANCE = 0.01
WINS, LOSSES = 0.065, 0.035
"""A true gain of 3 points; the adapters disagree on 10 % of the items."""
TASK = "demo_reasoning"


class Pair:
    """Champion and challenger on one base, their held-out newest rows, and the environment.

    same_rows: they differ in the training seed alone. Else the challenger had
    more rows, and some of a new family.
    """

    def __init__(self, folder: Path, *, same_rows: bool = False) -> None:
        self.folder = folder
        self.base = write_long_base(folder / "base")
        say("training champion and challenger")
        # Few rows: good models answer every item of the demo, and there would be nothing to tell.
        rows = taught_rows(1, 8)
        more = rows if same_rows else taught_rows(1, 12, new=30)
        self.champion = train_adapter(self.base, folder / "champion", rows, seed=1, epochs=2)
        self.challenger = train_adapter(self.base, folder / "challenger", more, seed=2, epochs=2)
        self.newest = write_newest(folder / "newest.parquet", 60, seed=77)
        self.env = environment(None, folder)

    def scores(self, pool: Population) -> list[tuple[float, float]]:
        """(champion, challenger) on every item of a suite, in the items' order."""
        out = self.folder / "pool"
        command = ct_llm("compare", str(self.champion), str(self.challenger), "--slice")
        command += [str(pool.suite), "--base", str(self.base), "--out", str(out), "--json"]
        run(command, env=self.env)
        rows = pq.read_table(out / "comparison.parquet").to_pylist()
        found = {int(row["item_id"].rsplit("/", 2)[1]): row for row in rows}
        return [
            (found[number]["champion_score"], found[number]["challenger_score"])
            for number in range(pool.num_items)
        ]

    def request(
        self, population: Population, name: str, *, batch_items: int = 64, order_seed: int = 0
    ) -> tuple[Path, EvaluationRequest]:
        """Of one verdict: the population is a guard, the newest rows are the target."""
        folder = self.folder / name
        folder.mkdir()
        adapters: dict[Side, Path | None] = {
            "champion": self.champion,
            "challenger": self.challenger,
        }
        request = EvaluationRequest(
            config=EvaluateConfig(
                suites=[str(population.suite)], batch_items=batch_items, order_seed=order_seed
            ),
            gate=GateConfig(),
            suites=(load_suite(str(population.suite), self.folder),),
            base_folder=self.base,
            base_repo=str(self.base),
            base_revision="0" * 40,
            base_config=BaseModelConfig(repo=str(self.base)),
            adapters=adapters,
            revisions={"champion": None, "challenger": None},
            holdout=self.newest,
            folder=folder,
            scores=ScoresAt(cache=self.folder / "known" / name),
            cached_sides=("champion",),
        )
        path = folder / "request.json"
        write_record(path, request)
        return path, request


def verdict_command(request: Path) -> list[str]:
    return [sys.executable, "-m", "scripts.bench.verdict_once", str(request)]


def stopping(folder: Path, pool_size: int, num_items: int, runs: int) -> Iterator[Figure]:
    """Wall times of whole commands, in turns."""
    pair = Pair(folder)
    population = choose(pair, pool_size, num_items)
    theirs: list[Spent] = []
    ours: list[Spent] = []
    shares: list[float] = []
    for number in range(runs):
        say(f"round {number + 1} of {runs}")
        theirs.append(_two_lm_evals(pair, population))
        # The champion was scored when it was the challenger; those scores are kept.
        # Each round draws an order of its own: how soon it is certain depends on that.
        path, request = pair.request(population, f"verdict{number}", order_seed=number)
        _score_champion(path, request, pair.env)
        ours.append(spent_by(verdict_command(path), env=pair.env))
        decision = read_record(path.with_name(DECISION), GateDecision)
        result = read_record(path.with_name(RESULT), EvalResult)
        (part,) = [part for part in decision.slices if part.slice == "reasoning"]
        say(f"{decision.verdict}: {part.sentence}; {result.num_from_cache:,} scores were known")
        if decision.verdict != "promote":
            raise SystemExit(f"expected a promotion: {decision.sentence}")
        shares.append(part.num_used / part.num_items)
    both = list(zip(ours, theirs, strict=True))
    ratio = statistics.median(a.wall / b.wall for a, b in both)
    busy = statistics.median(a.processor / b.processor for a, b in both)
    seconds = statistics.median(taken.wall for taken in theirs)
    yield Figure("with stopping: seconds of two lm_eval commands", seconds, None)
    seconds = statistics.median(taken.wall for taken in ours)
    yield Figure("with stopping: seconds of the verdict", seconds, None)
    yield Figure("with stopping, champion known: ours / theirs", ratio, 0.25)
    yield Figure("… the same in processor seconds, whatever else runs", busy, None)
    yield Figure("… items used of N, median", statistics.median(shares), None)
    yield Figure("… items used of N, most", max(shares), None)
    yield Figure(
        "… ours / theirs in the longest of the rounds", max(a.wall / b.wall for a, b in both), None
    )


def choose(pair: Pair, pool_size: int, num_items: int) -> Population:
    """Of a pool that both adapters have answered, items with the wins and losses asked for."""
    items = pool_items(pool_size)
    pool = write_population(pair.folder / "pool_items", items, tolerance=TOLERANCE)
    scores = pair.scores(pool)
    wins = [n for n, (old, new) in enumerate(scores) if new > old]
    losses = [n for n, (old, new) in enumerate(scores) if new < old]
    ties = [n for n, (old, new) in enumerate(scores) if new == old]
    num_wins, num_losses = round(WINS * num_items), round(LOSSES * num_items)
    num_ties = num_items - num_wins - num_losses
    say(f"pool of {pool_size:,}: {len(wins)} wins, {len(losses)} losses, {len(ties)} ties")
    if len(wins) < num_wins or len(losses) < num_losses or len(ties) < num_ties:
        raise SystemExit("the pool is too small for this population; see --pool")
    rng = random.Random(0)
    chosen = [
        *rng.sample(wins, num_wins), *rng.sample(losses, num_losses), *rng.sample(ties, num_ties)
    ]  # fmt: skip
    return write_population(
        pair.folder / "population",
        [items[n] for n in sorted(chosen)],
        tolerance=TOLERANCE,
        wins=num_wins,
        losses=num_losses,
    )


def _score_champion(path: Path, request: EvaluationRequest, env: Mapping[str, str]) -> None:
    """As the cycle that made it champion left its scores."""
    folder = path.parent / "champion"
    folder.mkdir()
    alone: dict[Side, Path | None] = {"challenger": request.adapters["champion"]}
    update: dict[str, Any] = {"adapters": alone, "folder": folder, "cached_sides": ()}
    write_record(folder / "request.json", request.model_copy(update=update))
    run(verdict_command(folder / "request.json"), env=env)


def _two_lm_evals(pair: Pair, population: Population) -> Spent:
    spent = Spent()
    for name, adapter in (("champion", pair.champion), ("challenger", pair.challenger)):
        out = pair.folder / f"lm_eval_{name}"
        shutil.rmtree(out, ignore_errors=True)
        command = lm_eval(pair.base, adapter, [TASK], out, include=population.task_dir, chat=True)
        # It takes a task's data files relative to the current folder.
        there = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(population.task_dir), *command]
        spent += spent_by(there, env=pair.env)
    return spent


def equal_models(folder: Path, num_items: int) -> list[tuple[float, float]]:
    """Real scores of two adapters of the same rows and settings, trained with other seeds."""
    pair = Pair(folder, same_rows=True)
    pool = write_population(folder / "items", pool_items(num_items), tolerance=TOLERANCE)
    return pair.scores(pool)
