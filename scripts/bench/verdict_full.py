"""Every item of seven real tasks, both adapters: our verdict beside two runs of the `lm_eval` command."""

import json
import shutil
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from ct_llm.hub_server import running_hub
from scripts.bench.figures import Figure, Spent, say, spent_by
from scripts.bench.hub_world import ct_llm
from scripts.bench.real_tasks import benchmarks, publish
from scripts.bench.verdict_world import (
    environment,
    lm_eval,
    lm_eval_scores,
    taught_rows,
    train_adapter,
    write_long_base,
)

TASKS = {
    # Generation after five examples, and after none; choices; the likelihood of a last word.
    "gsm8k": ("exact_match", "flexible-extract"),
    "bbh_zeroshot_boolean_expressions": ("exact_match", "flexible-extract"),
    "bbh_zeroshot_date_understanding": ("exact_match", "flexible-extract"),
    "bbh_fewshot_object_counting": ("exact_match", "none"),
    "arc_easy": ("acc", "none"),
    "arc_challenge": ("acc_norm", "none"),
    "lambada_openai": ("acc", "none"),
}
"""Task to metric and filter."""


def full_verdict(folder: Path, real_data: Path, limit: int, runs: int) -> Iterator[Figure]:
    """Wall times of whole commands, in turns, and both sides' scores item by item."""
    base = write_long_base(folder / "base")
    say("training two adapters")
    adapters = {
        name: train_adapter(base, folder / name, taught_rows(seed, 40), seed=seed, epochs=3)
        for seed, name in enumerate(("champion", "challenger"), start=1)
    }
    suite = _write_suite(folder / "real.yaml")
    with running_hub(folder / "hub") as hub:
        publish(benchmarks(real_data, limit), hub.endpoint, hub.token)
        env = environment(hub, folder)
        cold = _seconds(folder, base, adapters, suite, env, limit=1)  # fills the datasets' cache
        start_up = _seconds(folder, base, adapters, suite, env, limit=1)
        rounds = []
        for number in range(runs):
            say(f"round {number + 1} of {runs}: {limit} items of each of {len(TASKS)} tasks")
            rounds.append(_seconds(folder, base, adapters, suite, env, limit=limit))
    ours = statistics.median(taken["ours"].wall for taken in rounds)
    theirs = statistics.median(taken["theirs"].wall for taken in rounds)
    ratio = statistics.median(taken["ours"].wall / taken["theirs"].wall for taken in rounds)
    busy = statistics.median(t["ours"].processor / t["theirs"].processor for t in rounds)
    yield Figure("full verdict: seconds of two lm_eval commands", theirs, None)
    yield Figure("full verdict: seconds of ct-llm compare", ours, None)
    yield Figure("full verdict: ours / theirs, start-up included", ratio, 0.5)
    yield Figure("… the same in processor seconds, whatever else runs", busy, None)
    yield Figure(
        "… share of start-up in theirs (one item a task)", start_up["theirs"].wall / theirs, None
    )
    yield Figure("… share of start-up in ours", start_up["ours"].wall / ours, None)
    without = (ours - start_up["ours"].wall) / (theirs - start_up["theirs"].wall)
    yield Figure("… ours / theirs without either's start-up", without, None)
    yield Figure(
        "… first run of all, empty caches: ours / theirs",
        cold["ours"].wall / cold["theirs"].wall,
        None,
    )
    yield from _equal_scores(folder)


def _seconds(
    folder: Path,
    base: Path,
    adapters: Mapping[str, Path],
    suite: Path,
    env: Mapping[str, str],
    *,
    limit: int,
) -> dict[str, Spent]:
    """Nothing of an earlier run is used: no scores are kept, and the folders are new."""
    theirs = Spent()
    for name, adapter in adapters.items():
        out = folder / f"lm_eval_{name}"
        shutil.rmtree(out, ignore_errors=True)
        theirs += spent_by(lm_eval(base, adapter, list(TASKS), out, limit=limit), env=env)
    out = folder / "compared"
    shutil.rmtree(out, ignore_errors=True)
    command = ct_llm("compare", str(adapters["champion"]), str(adapters["challenger"]))
    command += [
        "--slice",
        str(suite),
        "--base",
        str(base),
        "--limit",
        str(limit),
        "--out",
        str(out),
    ]
    command += ["--set", "evaluate.cache_scores=false", "--json"]
    return {"ours": spent_by(command, env=env), "theirs": theirs}


def _equal_scores(folder: Path) -> Iterator[Figure]:
    """Of the last round."""
    same = total = 0
    by_task = dict.fromkeys(TASKS, 0)
    for side in ("champion", "challenger"):
        theirs = lm_eval_scores(folder / f"lm_eval_{side}", TASKS)
        ours = _our_scores(folder / "compared" / "comparison.parquet", side)
        if ours.keys() != theirs.keys():
            raise SystemExit(f"{side}: other items: {sorted(ours.keys() ^ theirs.keys())[:4]}")
        for item, score in theirs.items():
            total += 1
            by_task[item[0]] += ours[item] != score
            same += ours[item] == score
    say(f"items with another score, by task: {json.dumps(by_task)}")
    yield Figure("item scores compared with lm_eval's", total, None)
    yield Figure("item scores equal to lm_eval's, share", same / total, 1.0, at_least=True)
    yield Figure("tasks with every score equal", list(by_task.values()).count(0), 6, at_least=True)


def _our_scores(path: Path, side: str) -> dict[tuple[str, int, str], float]:
    found: dict[tuple[str, int, str], float] = {}
    for row in pq.read_table(path).to_pylist():
        task, number, doc_hash = row["item_id"].rsplit("/", 2)
        found[task, int(number), doc_hash] = row[f"{side}_score"]
    return found


def _write_suite(path: Path) -> Path:
    tasks: list[dict[str, Any]] = [
        {"task": task, "metric": metric, "filter": chosen}
        for task, (metric, chosen) in TASKS.items()
    ]
    suite = {"slice": "real", "tasks": tasks, "apply_chat_template": False, "tolerance": 0.01}
    path.write_text(yaml.safe_dump(suite), encoding="utf-8")
    return path
