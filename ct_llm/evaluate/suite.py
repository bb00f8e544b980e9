"""Suites: which tasks make a slice, and what identifies them."""

from collections import Counter
from pathlib import Path
from typing import Any

from ct_llm.config import EvaluateConfig, Suite, load_suite
from ct_llm.digests import file_sha256
from ct_llm.errors import ConfigError

NEWEST = "newest"
"""The slice of held-out newest rows; made in code (see `holdout_task`), never by a suite."""


def load_suites(config: EvaluateConfig, folder: Path | None = None) -> list[Suite]:
    """Every suite that the config names; relative paths are relative to `folder` (default: here).

    Raises ConfigError for an unknown or invalid suite, for two suites of one slice and for one that
    takes the name `newest`.
    """
    suites = [load_suite(name, folder or Path()) for name in config.suites]
    for suite, name in zip(suites, config.suites, strict=True):
        if suite.slice == NEWEST:
            raise ConfigError(
                f"suite {name}: slice: {NEWEST!r} is the name of the held-out newest rows. Choose another."
            )
        names = [task.task for task in suite.tasks]
        twice = [task for task, count in Counter(names).items() if count > 1]
        if twice:
            raise ConfigError(f"suite {name}: tasks: {', '.join(twice)} named more than once.")
    slices = Counter(suite.slice for suite in suites)
    if twice := [name for name, count in slices.items() if count > 1]:
        raise ConfigError(
            f"evaluate.suites: slice {', '.join(twice)} comes from more than one suite; name each once."
        )
    return suites


def suite_identity(suite: Suite) -> dict[str, Any]:
    """What a step's inputs hold of a suite: its content and that of its local tasks, no paths."""
    return {
        **suite.model_dump(mode="json", exclude={"task_dir"}),
        "task_files": task_files(suite),
    }


def task_files(suite: Suite) -> dict[str, str]:
    """sha256 of every file below `task_dir`: a task's YAML may name any file there."""
    files: dict[str, str] = {}
    if suite.task_dir is not None:
        for path in sorted(suite.task_dir.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[path.relative_to(suite.task_dir).as_posix()] = file_sha256(path)
    return files
