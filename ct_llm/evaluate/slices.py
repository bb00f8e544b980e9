"""The slices of one evaluation, loaded and checked before the first score."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ct_llm.config import EvaluateConfig, NewestConfig, Suite
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluate.sandbox import sandbox_problem
from ct_llm.evaluate.tasks.holdout_task import HeldOutRow, newest_suite
from ct_llm.records import OrderedItem, Side, SliceScores

if TYPE_CHECKING:
    from ct_llm.evaluate.engine.engine import Engine
    from ct_llm.evaluate.tasks.requests import TaskRequests
    from ct_llm.evaluate.tasks.tasks import EvalTask

Tell = Callable[[EvaluateProgress], None]


class EvalSlice(NamedTuple):
    """A slice, ready to be scored, or with the reason why it is not."""

    suite: Suite
    tasks: Mapping[str, "TaskRequests"]
    """By name."""
    sides: tuple[Side, ...]
    """Whose scores it needs, in the order of `records.SIDES`."""
    not_evaluated: str | None = None

    def items(self) -> list[OrderedItem]:
        return [
            OrderedItem(self.suite.slice, item_id, name, task.cluster(item_id))
            for name, task in self.tasks.items()
            for item_id in task.item_ids
        ]

    def scores(self) -> SliceScores:
        """Before the first score."""
        suite = self.suite
        return SliceScores(
            slice=suite.slice,
            tasks=tuple(self.tasks) or tuple(task.task for task in suite.tasks),
            num_items=sum(len(task.item_ids) for task in self.tasks.values()),
            num_scored=0,
            tolerance=suite.tolerance,
            weight=suite.weight,
            floor=suite.floor,
            alpha=suite.alpha,
            score_step=suite.score_step,
            score_low=suite.score_low,
            score_high=suite.score_high,
            against_anchor="anchor" in self.sides and self.not_evaluated is None,
            not_evaluated=self.not_evaluated,
        )


@contextmanager
def loaded_tasks(
    config: EvaluateConfig, suites: Sequence[Suite]
) -> Iterator[list[tuple[Suite, "list[EvalTask]", str | None]]]:
    """Each suite with its tasks, or with the reason why it is not evaluated.

    The tasks' documents are to be had inside of it. Raises as `tasks.load_tasks`.
    """
    from ct_llm.evaluate.tasks.tasks import load_tasks

    with tempfile.TemporaryDirectory(prefix="ct_llm_items_") as cache:
        ready: list[tuple[Suite, list[EvalTask], str | None]] = []
        for suite in suites:
            problem = sandbox_problem() if suite.executes_code else None
            if problem is not None:
                ready.append((suite, [], f"it runs generated code, and {problem}"))
            else:
                tasks = load_tasks(suite, config.limit, Path(cache), config.dataset_revisions)
                ready.append((suite, tasks, None))
        yield ready


@contextmanager
def ready_slices(
    config: EvaluateConfig,
    suites: Sequence[Suite],
    rows: Sequence[HeldOutRow],
    engine: "Engine",
    tell: Tell,
) -> Iterator[dict[str, EvalSlice]]:
    """By name: the suites' slices, then those of the held-out rows, which the anchor has no part in.

    Everything is loaded and checked here: a wrong name costs seconds, not hours.
    """
    from ct_llm.evaluate.tasks.requests import TaskRequests

    with loaded_tasks(config, suites) as ready:
        without_anchor: tuple[Side, ...] = tuple(side for side in engine.sides if side != "anchor")
        parts = [(engine.sides, *part) for part in ready]
        parts += [(without_anchor, *part) for part in _newest_parts(config, rows, engine)]
        slices: dict[str, EvalSlice] = {}
        for sides, suite, tasks, reason in parts:
            for task in tasks:
                engine.check(task)
            requests = {task.name: TaskRequests(task, suite, engine.lm) for task in tasks}
            slices[suite.slice] = EvalSlice(suite, requests, sides, reason)
            tell(EvaluateProgress(f"{suite.slice}: {_described(slices[suite.slice])}"))
        yield slices


def _described(part: EvalSlice) -> str:
    if part.not_evaluated is not None:
        return f"not evaluated: {part.not_evaluated}"
    return f"{part.scores().num_items:,} items of {', '.join(part.tasks)}"


def _newest_parts(
    config: EvaluateConfig, rows: Sequence[HeldOutRow], engine: "Engine"
) -> Iterator[tuple[Suite, "list[EvalTask]", str | None]]:
    from ct_llm.evaluate.tasks.holdout_task import newest_task
    from ct_llm.evaluate.tasks.newest_checks import checkable_rows, newest_generated_task

    newest = config.newest
    if not newest.enabled:
        return
    reason = None if rows else "no held-out rows: nothing new was kept out of training"
    yield newest_suite(newest), [newest_task(rows, engine)] if rows else [], reason
    checkable = checkable_rows(rows) if newest.generated.enabled else []
    if len(checkable) >= newest.generated.min_items:
        task = newest_generated_task(
            rows, engine.lm, newest.generated, max_length=engine.max_length
        )
        yield _newest_generated_suite(newest, task), [task], None


def _newest_generated_suite(newest: NewestConfig, task: "EvalTask") -> Suite:
    return Suite(
        slice="newest_generated",
        tasks=[task.config],
        tolerance=newest.generated.tolerance,
        apply_chat_template=task.apply_chat_template,
        score_step=1.0,
    )
