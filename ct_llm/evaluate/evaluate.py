"""The step `evaluate`: two adapters to one score for each item and adapter.

Nothing is decided here. What the gate needs to be right is prepared: every item has a score for
both adapters, made from the same prompt, and the items stand in an order that was drawn before the
first score, without which the gate's statistics would not hold.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm.config import BaseModelConfig, EvaluateConfig, Suite
from ct_llm.digests import adapter_digest, file_sha256, fingerprint
from ct_llm.errors import InputError
from ct_llm.evaluate.holdout_task import HeldOutRow, newest_suite, read_holdout
from ct_llm.evaluate.sandbox import sandbox_problem
from ct_llm.evaluate.scores import random_order, write_scores
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import EvalResult, ItemScore, SliceScores

if TYPE_CHECKING:
    from ct_llm.evaluate.engine import PairEngine
    from ct_llm.evaluate.tasks import EvalTask

SCORES = "scores.parquet"
LIBRARIES = ("lm_eval", "torch", "transformers", "peft", "datasets")
Say = Callable[[str], None]


def evaluate(
    config: EvaluateConfig,
    suites: Sequence[Suite],
    *,
    base: BaseModelFolder,
    base_config: BaseModelConfig,
    challenger: Path,
    champion: Path | None,
    champion_revision: str | None,
    holdout: Path | None,
    folder: Path,
    on_progress: Say | None = None,
) -> EvalResult:
    """Score champion and challenger on every suite and on the held-out newest rows.

    challenger, champion: adapter folders; champion=None: the base model itself. holdout: parquet
    with `row_id` and `messages` (JSON). Writes `folder/scores.parquet` whole at the end (read it
    with `scores.read_scores`) and returns what the gate must know beside it. The scores are
    lm-eval's own, item for item.

    Raises AdapterError (broken, without effect, of another base), InputError (suite, task, metric,
    template), HubNotFoundError and HubUnavailableError (a task's dataset), SecurityError (a task
    that would run generated code unprotected), StepFailedError (out of memory), StorageError.
    """
    clock, say = time.monotonic(), on_progress or (lambda _: None)
    challenger_digest = adapter_digest(challenger)
    champion_digest = None if champion is None else adapter_digest(champion)
    rows = _newest_rows(config, holdout)

    # Read by OpenMP when torch is loaded: threads that spin while they wait make a busy machine crawl.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ct_llm.evaluate.engine import PairEngine
    from ct_llm.evaluate.holdout_task import newest_task

    engine = PairEngine.load(
        base,
        base_config,
        challenger=challenger,
        champion=champion,
        device=config.device,
        batch_size=config.batch_size,
    )
    slices: list[SliceScores] = []
    scores: list[ItemScore] = []
    # Everything is loaded and checked before the first score: a wrong name costs seconds, not hours.
    with _loaded(config, suites, engine, say) as ready:
        if config.newest.enabled:
            newest = newest_suite(config.newest.tolerance)
            reason = None if rows else "no held-out rows: nothing new was kept out of training"
            ready.append((newest, [newest_task(rows, engine)] if rows else [], reason))
        for suite, tasks, reason in ready:
            part, part_scores = _score_slice(
                suite, tasks, reason, engine=engine, order_seed=config.order_seed, say=say
            )
            slices.append(part)
            scores.extend(part_scores)

    write_scores(folder / SCORES, scores)
    return EvalResult(
        slices=tuple(slices),
        scores_path=SCORES,
        scores_digest=file_sha256(folder / SCORES),
        challenger_digest=challenger_digest,
        champion_digest=champion_digest,
        champion_revision=champion_revision,
        base_model=base.repo,
        base_revision=base.revision,
        seconds=round(time.monotonic() - clock, 3),
        library_versions={name: version(name) for name in LIBRARIES},
    )


def check_before_training(
    config: EvaluateConfig,
    suites: Sequence[Suite],
    *,
    base: BaseModelFolder,
    champion: Path | None,
    on_progress: Say | None = None,
) -> None:
    """Load every task with its documents, and look at the champion: what is wrong is said now.

    A misspelt task or a champion of another base costs seconds here, and would cost the training
    if `evaluate` found it. Raises as `evaluate` does.
    """
    from ct_llm.evaluate.adapter_check import check_adapter

    if champion is not None:
        check_adapter("champion", champion, base)
    with _loaded(config, suites, None, on_progress or (lambda _: None)):
        pass


def _newest_rows(config: EvaluateConfig, holdout: Path | None) -> list[HeldOutRow]:
    if not config.newest.enabled or holdout is None:
        return []
    limits = [n for n in (config.newest.max_items, config.limit) if n is not None]
    return read_holdout(holdout, min(limits))


@contextmanager
def _loaded(
    config: EvaluateConfig, suites: Sequence[Suite], engine: "PairEngine | None", say: Say
) -> Iterator[list[tuple[Suite, list["EvalTask"], str | None]]]:
    """Each suite with its tasks, or with the reason why it is not evaluated.

    engine: None where only the tasks themselves are to be checked.
    """
    from ct_llm.evaluate.tasks import load_tasks

    with tempfile.TemporaryDirectory(prefix="ct_llm_items_") as cache:
        ready: list[tuple[Suite, list[EvalTask], str | None]] = []
        for suite in suites:
            problem = sandbox_problem() if suite.executes_code else None
            if problem is not None:
                ready.append((suite, [], f"it runs generated code, and {problem}"))
                continue
            tasks = load_tasks(suite, config.limit, Path(cache))
            if engine is not None:
                for task in tasks:
                    engine.check(task)
            say(f"{suite.slice}: {', '.join(task.name for task in tasks)}")
            ready.append((suite, tasks, None))
        yield ready


def _score_slice(
    suite: Suite,
    tasks: Sequence["EvalTask"],
    not_evaluated: str | None,
    *,
    engine: "PairEngine",
    order_seed: int,
    say: Say,
) -> tuple[SliceScores, list[ItemScore]]:
    from ct_llm.evaluate.engine import SIDES
    from ct_llm.evaluate.samples import Scored, check_same_prompts, read_samples

    item_ids = {task.name: task.item_ids() for task in tasks}
    all_ids = [item for ids in item_ids.values() for item in ids]
    order = random_order(all_ids, order_seed=order_seed, slice_name=suite.slice)
    if not_evaluated is not None:
        say(f"{suite.slice}: not evaluated: {not_evaluated}")

    scored: dict[tuple[str, str], Scored] = {}
    for task in tasks:
        by_side: dict[str, dict[str, Scored]] = {}
        for side in SIDES:
            by_side[side] = read_samples(task.name, engine.score(task, side), task.config, suite)
            if by_side[side].keys() != set(item_ids[task.name]):
                raise InputError(
                    f"task {task.name}: lm-eval scored other items than the task holds. Its documents "
                    "must not depend on chance."
                )
            scored.update({(side, item): outcome for item, outcome in by_side[side].items()})
            done = sum(1 for key in scored if key[0] == side)
            say(f"{suite.slice}: {side} {done}/{len(order)} items")
        check_same_prompts(task.name, by_side["champion"], by_side["challenger"])

    task_of = {item: name for name, ids in item_ids.items() for item in ids}
    scores = [
        ItemScore(
            slice=suite.slice,
            task=task_of[item],
            item_id=item,
            adapter=side,
            score=scored[side, item].score,
            prompt=scored[side, item].prompt,
            output=scored[side, item].output,
        )
        for item in order
        for side in SIDES
    ]
    part = SliceScores(
        slice=suite.slice,
        tasks=tuple(task.name for task in tasks) or tuple(task.task for task in suite.tasks),
        num_items=len(order),
        tolerance=suite.tolerance,
        floor=suite.floor,
        score_step=suite.score_step,
        score_low=suite.score_low,
        score_high=suite.score_high,
        order_seed=order_seed,
        order_digest=fingerprint(order),
        not_evaluated=not_evaluated,
    )
    return part, scores
