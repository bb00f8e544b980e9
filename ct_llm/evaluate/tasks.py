"""lm-eval's tasks: found, loaded with their documents, and each document named."""

import functools
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import handle_non_serializable, hash_string

from ct_llm.config import Suite, TaskConfig
from ct_llm.errors import (
    ConfigError,
    HubNotFoundError,
    HubUnavailableError,
    InputError,
    SecurityError,
)
from ct_llm.evaluate.quiet import quiet
from ct_llm.evaluate.samples import item_id

FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")


@dataclass(frozen=True)
class EvalTask:
    """One lm-eval task with its documents, ready to be run for one adapter after the other."""

    name: str
    task: Task
    config: TaskConfig
    apply_chat_template: bool
    limit: int | None

    def item_ids(self) -> list[str]:
        """Of every document that will be scored, in the task's order, before anything is scored."""
        with quiet():
            documents = self.task.doc_iterator(limit=self.limit)
            return [item_id(self.name, doc_id, _doc_hash(doc)) for doc_id, doc in documents]

    def max_new_tokens(self, default: int) -> int | None:
        """None for tasks that generate nothing."""
        if self.task.OUTPUT_TYPE != "generate_until":
            return None
        kwargs = dict(self.task.get_config("generation_kwargs") or {})
        with quiet():
            return normalize_gen_kwargs(kwargs, default).get("max_gen_toks", default)

    def seed(self) -> None:
        """The seeds that `lm_eval` sets before a run: the same few-shot examples each time."""
        import torch

        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        self.task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def load_tasks(suite: Suite, limit: int | None, cache_dir: Path) -> list[EvalTask]:
    """The suite's tasks with their documents; groups and tags are expanded to their tasks.

    `cache_dir`: an empty folder for what `datasets` makes of local data files. Its usual cache knows
    a file by name and time alone, and would go on using items that were changed meanwhile.

    Raises ConfigError for unknown tasks, InputError for tasks that cannot be gated,
    HubNotFoundError and HubUnavailableError for their datasets, SecurityError for tasks of lm-eval
    that would run generated code outside a sandbox.
    """
    found: dict[str, EvalTask] = {}
    for config in suite.tasks:
        limits = [n for n in (config.limit, limit) if n is not None]
        for name, task in _load(config.task, suite, cache_dir).items():
            if name in found:
                raise ConfigError(f"slice {suite.slice}: task {name} is in it more than once.")
            _set_fewshot(name, task, config)
            _check_before_scoring(name, task, config)
            found[name] = EvalTask(
                name, task, config, suite.apply_chat_template, min(limits, default=None)
            )
    return list(found.values())


def _load(name: str, suite: Suite, cache_dir: Path) -> dict[str, Task]:
    manager = _local_index(suite.task_dir) if suite.task_dir is not None else None
    if manager is None or name not in manager.task_index:
        manager = _builtin_index()
    if name not in manager.task_index:
        raise ConfigError(_unknown(name, suite, manager))
    spec: str | dict[str, Any] = name
    entry = manager.task_index[name]
    if entry.yaml_path is not None:
        _refuse_unsafe(name, load_yaml(entry.yaml_path, resolve_func=False))
        if suite.task_dir is not None and entry.yaml_path.is_relative_to(suite.task_dir):
            spec = _with_local_files(entry.yaml_path, cache_dir)
    with quiet(), _explained(name):
        loaded = manager.load([spec])
    groups: dict[str, Group] = loaded.get("groups", {})
    if not loaded["tasks"]:
        raise InputError(f"{'group' if groups else 'tag'} {name} has no tasks.")
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise SecurityError(_unsafe(task.task_name))
    return dict(loaded["tasks"])


@functools.lru_cache(maxsize=8)
def _local_index(folder: Path) -> TaskManager:
    with quiet():
        return TaskManager(include_path=str(folder), include_defaults=False)


@functools.cache
def _builtin_index() -> TaskManager:
    """11 to 16 seconds, so only when a suite names a task that is not local."""
    with quiet():
        return TaskManager()


def _with_local_files(path: Path, cache_dir: Path) -> dict[str, Any]:
    """A local task's YAML, its data files relative to that YAML and read anew.

    lm-eval takes them relative to wherever the command runs.
    """
    config = load_yaml(path)
    kwargs = config.get("dataset_kwargs")
    if config.get("dataset_path") not in FILE_FORMATS or not isinstance(kwargs, dict):
        return config

    def absolute(files: Any) -> Any:
        if isinstance(files, dict):
            return {key: absolute(value) for key, value in files.items()}
        if isinstance(files, list):
            return [absolute(value) for value in files]
        return files if "://" in files else str(path.parent / files)

    kwargs = {**kwargs, "cache_dir": str(cache_dir)}
    if "data_files" in kwargs:
        kwargs["data_files"] = absolute(kwargs["data_files"])
    return {**config, "dataset_kwargs": kwargs}


def _set_fewshot(name: str, task: Task, config: TaskConfig) -> None:
    """As lm-eval's own `simple_evaluate` does, except that a setting it would ignore is an error."""
    if config.num_fewshot is None:
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
    elif task.get_config("num_fewshot") == 0 and config.num_fewshot != 0:
        raise InputError(
            f"task {name}: num_fewshot: {config.num_fewshot} would be ignored, because its own YAML "
            "says num_fewshot: 0. Leave it out, or make a local task without that line."
        )
    else:
        task.set_config("num_fewshot", config.num_fewshot)


def _check_before_scoring(name: str, task: Task, config: TaskConfig) -> None:
    """What would fail after the first adapter's run fails now, as far as the task tells."""
    filters = [f.name for f in getattr(task, "_filters", [])]
    if filters and config.filter not in filters:
        raise InputError(f"task {name}: no filter {config.filter!r}. It has: {', '.join(filters)}.")
    if (task.higher_is_better() or {}).get(config.metric) is False:
        raise InputError(
            f"task {name}: metric {config.metric!r} is better when lower; the gate takes only scores "
            "that are better when higher."
        )


def _refuse_unsafe(name: str, config: dict[str, Any]) -> None:
    """Before the YAML's functions are imported: humaneval loads its grader from the Hub there."""
    if config.get("unsafe_code"):
        raise SecurityError(_unsafe(name))


def _unsafe(name: str) -> str:
    return (
        f"task {name} runs generated code on this machine, unprotected. Use a local task that grades "
        "with ct_llm.evaluate.sandbox.run_checks, such as ct_humaneval and ct_mbpp of the shipped "
        "coding suite."
    )


def _unknown(name: str, suite: Suite, manager: TaskManager) -> str:
    import difflib

    local = _local_index(suite.task_dir).all_tasks if suite.task_dir is not None else []
    near = difflib.get_close_matches(name, [*local, *manager.all_tasks], n=3, cutoff=0.6)
    hint = f" Near: {', '.join(near)}." if near else ""
    where = f"{suite.task_dir} or among lm-eval's" if suite.task_dir else "lm-eval's index"
    return f"slice {suite.slice}: no task {name!r} in {where}.{hint}"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What may go wrong while a task's documents are fetched, in our words."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except DatasetNotFoundError as error:
        raise HubNotFoundError(f"task {name}: its dataset is not on the Hub: {error}") from error
    except (ConnectionError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise HubUnavailableError(
            f"task {name}: its dataset could not be fetched: {error}. Check the network and "
            "HF_ENDPOINT, then run the same command again."
        ) from error
    except (IndexError, StopIteration) as error:  # lm-eval and datasets look at the first document
        raise InputError(f"task {name}: its dataset has no documents.") from error
    except (FileNotFoundError, DatasetsError, ImportError) as error:
        raise InputError(f"task {name} could not be loaded: {error}") from error


def _doc_hash(doc: Any) -> str:
    """As lm-eval hashes a document in its samples."""
    return hash_string(
        json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    )
