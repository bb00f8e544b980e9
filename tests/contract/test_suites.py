"""Every shipped suite parses, and lm-eval finds every task that it names."""

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ct_llm.config import EvaluateConfig, Suite, shipped
from ct_llm.evaluate.suite import load_suites

FOLDER = shipped("eval_suites")
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def _suite(name: str) -> Suite:
    return load_suites(EvaluateConfig(suites=[name]))[0]


def _tasks(name: str, *, local: bool) -> list[str]:
    suite = _suite(name)
    own = _local_names(suite.task_dir) if suite.task_dir else set()
    return [task.task for task in suite.tasks if (task.task in own) == local]


@functools.cache
def _local_names(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.yaml")}


def test_the_shipped_suites() -> None:
    assert NAMES == ["chat", "coding", "reasoning", "smoke"]
    suites = load_suites(EvaluateConfig(suites=NAMES))
    assert [suite.slice for suite in suites] == NAMES
    assert all(suite.score_step == 1.0 and suite.tolerance > 0 for suite in suites)


def test_every_local_task_is_named_by_a_suite_and_executes_no_code_unsaid() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    named = {task for name in NAMES for task in _tasks(name, local=True)}
    assert named == _local_names(FOLDER / "tasks")
    for path in (FOLDER / "tasks").glob("*.yaml"):
        task: dict[str, Any] = yaml.load(path.read_text(), Loader)
        assert task["task"] == path.stem
        graded_by_code = str(task.get("process_results", "")).startswith("code_grading.")
        executes = {n for n in NAMES if _suite(n).executes_code}
        assert graded_by_code == any(path.stem in _tasks(n, local=True) for n in executes)


@pytest.mark.parametrize("name", NAMES)
def test_lm_eval_finds_local_tasks(name: str) -> None:
    from lm_eval.tasks import TaskManager

    found = TaskManager(include_path=str(FOLDER / "tasks"), include_defaults=False)
    assert set(_tasks(name, local=True)) <= set(found.all_subtasks)


def test_lm_evals_own_tasks_exist() -> None:
    from ct_llm.evaluate.tasks import task_index

    own = {task for name in NAMES for task in _tasks(name, local=False)}
    assert own
    assert all(task_index.find(task) for task in own)


def test_every_hub_dataset_is_pinned_to_one_commit() -> None:
    """The same items whenever and wherever it runs; the shipped files say of which dataset."""
    from ct_llm.evaluate.tasks import task_index

    pinned: dict[str, set[str | None]] = {}
    for name in NAMES:
        suite = _suite(name)
        for task in suite.tasks:
            found = task_index.find(task.task, suite.task_dir)
            assert found is not None
            dataset = (found[task.task].cfg or {})["dataset_path"]
            assert (task.revision is None) == (dataset == "json"), task.task
            if dataset != "json":
                pinned.setdefault(dataset, set()).add(task.revision)
                assert f"# {dataset}" in (FOLDER / f"{name}.yaml").read_text()
    assert len(pinned) == 6
    for revisions in pinned.values():
        (revision,) = revisions
        assert revision is not None and re.fullmatch("[0-9a-f]{40}", revision)
