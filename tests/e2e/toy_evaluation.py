"""A tiny evaluation with a real model: its tasks and adapters, and processes to kill."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ct_llm.config import (
    BaseModelConfig,
    EvaluateConfig,
    NewestConfig,
    NewestGeneratedConfig,
    Suite,
    TaskConfig,
)
from ct_llm.evaluate.evaluate import evaluate
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluate.ranks import Ranks
from ct_llm.evaluate.score_store import LocalScores
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import SIDES, EvalResult, Side, SlicePrefix

BASE = BaseModelFolder(
    Path(__file__).parents[2] / "scripts" / "demo_world" / "base", "demo/base", "0" * 40
)
TASKS = {
    "toy_write": """
        output_type: generate_until
        doc_to_text: question
        doc_to_target: answer
        generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
        metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
    """,
    "toy_choose": """
        output_type: multiple_choice
        doc_to_text: question
        doc_to_choice: choices
        doc_to_target: label
        metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
    """,
    "toy_likely": """
        output_type: loglikelihood
        doc_to_text: question
        doc_to_target: answer
        process_results: !function grading.likelihood
        metric_list: [{metric: likelihood, aggregation: mean, higher_is_better: true}]
    """,
    "toy_code": """
        output_type: generate_until
        unsafe_code: true
        doc_to_text: question
        doc_to_target: answer
    """,
}
METRICS = {"toy_write": "exact_match", "toy_choose": "acc", "toy_likely": "likelihood"}
NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ian", "Jo", "Kim", "Leo"]


def save_adapter(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(BASE.folder, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj", "down_proj"],
        task_type="CAUSAL_LM",
        base_model_name_or_path=BASE.repo,
    )
    peft_model = get_peft_model(model, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    peft_model.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    named = {**json.loads(path.read_text()), "base_model_name_or_path": BASE.repo}
    path.write_text(json.dumps(named))
    return folder


def write_task_dir(folder: Path, names: Sequence[str] = NAMES) -> Path:
    write_items(folder / "items.jsonl", "Say hello to", names)
    (folder / "grading.py").write_text(
        "import math\n\n\ndef likelihood(doc, results):\n"
        "    return {'likelihood': math.exp(results[0][0] / len(doc['answer']))}\n"
    )
    for name, text in TASKS.items():
        lines = [
            f"task: {name}",
            "dataset_path: json",
            "dataset_kwargs: {data_files: {test: items.jsonl}}",
            "test_split: test",
            *(line.strip() for line in text.strip().splitlines()),
        ]
        (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return folder


def write_items(path: Path, verb: str, names: Sequence[str] = NAMES) -> None:
    rows = [
        {
            "question": f"{verb} {name}.",
            "answer": f"Hello {name}!",
            "choices": [f"Hello {other}!" for other in sorted({name, *NAMES[:3]})],
            "label": sorted({name, *NAMES[:3]}).index(name),
        }
        for name in names
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def suite_of(
    task_dir: Path, slice_name: str = "toy", tasks: Collection[str] = tuple(METRICS)
) -> Suite:
    named = [TaskConfig(task=task, metric=METRICS[task]) for task in tasks]
    return Suite(slice=slice_name, tasks=named, task_dir=task_dir, tolerance=0.1)


# ---------------------------------------------------------------- in a process of its own


class World:
    """A folder with tasks, held-out rows, three adapters, and the champion's scores of one slice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tasks = folder / "tasks"
        self.holdout = folder / "holdout.parquet"
        self.adapters: dict[Side, Path | None] = {side: folder / side for side in SIDES}
        self.scores = folder / "scores"

    @classmethod
    def make(cls, folder: Path) -> "World":
        world = cls(folder)
        world.tasks.mkdir()
        write_task_dir(world.tasks, [f"{name} {n}" for name in NAMES for n in range(8)])
        for seed, side in enumerate(SIDES):
            save_adapter(folder / side, seed)
        rows = [
            [
                {"role": "user", "content": f"Add {n} and {n}."},
                {"role": "assistant", "content": f"{n + n}"},
            ]
            for n in range(40)
        ]
        table = {
            "row_id": [f"row{n}" for n in range(40)],
            "messages": [json.dumps(r) for r in rows],
        }
        pq.write_table(pa.table(table), world.holdout)
        return world

    def know_some_champion_scores(self) -> None:
        """As an earlier evaluation leaves them: those of one slice of three."""
        evaluate(
            EvaluateConfig(suites=[], newest=NewestConfig(enabled=False)),
            [suite_of(self.tasks, "choosing", ["toy_choose"])],
            base=BASE,
            base_config=BaseModelConfig(repo=BASE.repo),
            adapters={"champion": self.adapters["champion"]},
            folder=self.folder / "earlier",
            store=LocalScores(self.scores),
        )

    def evaluate(
        self, folder: Path, on_progress: Callable[[EvaluateProgress], None] | None = None
    ) -> EvalResult:
        """Into an empty or half-finished folder, with a score store of its own."""
        if _is_first_rank() and not (folder / "known").exists():
            shutil.copytree(self.scores, folder / "known.new", dirs_exist_ok=True)
            (folder / "known.new").replace(folder / "known")
        return evaluate(
            EvaluateConfig(
                suites=[],
                batch_items=80,  # two shares, so that a second process has something to do
                newest=NewestConfig(generated=NewestGeneratedConfig(max_gen_toks=8)),
            ),
            [
                suite_of(self.tasks, "choosing", ["toy_choose"]),
                suite_of(self.tasks, "other", ["toy_write", "toy_likely"]),
            ],
            base=BASE,
            base_config=BaseModelConfig(repo=BASE.repo),
            adapters=self.adapters,
            holdout=self.holdout,
            folder=folder,
            stopping=enough_of_each,
            store=LocalScores(folder / "known"),
            cached_sides=("champion", "anchor"),
            on_progress=on_progress,
        )


def enough_of_each(order: Sequence[str], prefixes: Sequence[SlicePrefix]) -> list[str]:
    """Half of `other` is enough, and all of the rest."""
    return [
        prefix.scores.slice
        for prefix in prefixes
        if prefix.scores.slice != "other" or 2 * prefix.scores.num_scored < prefix.scores.num_items
    ]


def outcome(folder: Path) -> dict[str, str]:
    """What must not depend on how often it was killed: both files, and the result but its seconds."""
    result = json.loads((folder / "result.json").read_text())
    result.pop("seconds")
    files = {
        name: (folder / name).read_bytes().hex() for name in ("items.parquet", "scores.parquet")
    }
    return {**files, "result": json.dumps(result, sort_keys=True)}


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _run(world: World, folder: Path, die: Callable[[], None] = lambda: None) -> None:
    torch.set_num_threads(1)
    die()
    result = world.evaluate(folder)
    if _is_first_rank():
        (folder / "result.json").write_text(result.model_dump_json())


def _die_at_write(number: int, after: bool) -> None:
    """From now on this process is killed by its own write of that number, before or after it shows."""
    replace, count = Path.replace, iter(range(1, sys.maxsize))

    def deadly(self: Path, target: Any) -> Path:
        last = next(count) == number
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = replace(self, target)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Path.replace = deadly


def _child(run: Callable[[], None], seconds: float | None = None) -> int:
    """Exit code of a forked process, which costs no imports; killed after so many seconds."""
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode or 0


def _num_saved(folder: Path) -> int:
    return len(list((folder / "journal").glob("0*.json")))


def kill_at_random(world: World, folder: Path, num_kills: int) -> dict[str, Any]:
    """Killed so many times and then finished; gives the batches that were saved at each kill."""
    clock = time.monotonic()
    assert _child(partial(_run, world, folder / "whole")) == 0
    whole, chance = time.monotonic() - clock, random.Random(0)
    saved: list[int] = []
    killed = folder / "killed"
    while len(saved) < num_kills:
        code = _child(partial(_run, world, killed), chance.uniform(0.05, whole))
        if code == -signal.SIGKILL:
            saved.append(_num_saved(killed))
        else:  # it was through before: another one is killed then
            assert code == 0
            shutil.rmtree(killed)
    assert _child(partial(_run, world, killed)) == 0
    return {"saved": saved}


def kill_at_writes(world: World, folder: Path) -> dict[str, Any]:
    """Every run is killed by a later write than the one before, alternately before and after it."""
    codes: list[int] = []
    while not codes or codes[-1] != 0:
        number = len(codes) + 1
        die = partial(_die_at_write, number, number % 2 == 0)
        codes.append(_child(partial(_run, world, folder / "killed", die)))
        assert codes[-1] in (0, -signal.SIGKILL)
    return {"codes": codes}


def main(what: str, world_folder: str, folder: str, *more: str) -> None:
    world, out = World(Path(world_folder)), Path(folder)
    told: Mapping[str, Any] = {}
    if what == "once":
        _run(world, out)
        ranks = Ranks.here()
        told = {"ranks": ranks.gather(lambda: ranks.rank)}
    elif what == "random":
        told = kill_at_random(world, out, int(more[0]))
    else:
        told = kill_at_writes(world, out)
    if _is_first_rank():
        (out / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
