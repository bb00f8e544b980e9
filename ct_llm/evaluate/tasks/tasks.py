"""lm-eval's tasks: found, loaded with their documents, and each document named."""

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import handle_non_serializable, hash_string

from ct_llm.config import Suite, TaskConfig
from ct_llm.errors import (
    ConfigError,
    CtError,
    HubNotFoundError,
    HubUnavailableError,
    InputError,
    SecurityError,
)
from ct_llm.evaluate.quiet import quiet
from ct_llm.evaluate.tasks import task_index
from ct_llm.evaluate.tasks.downloads import no_downloads
from ct_llm.evaluate.tasks.samples import item_id

FILE_FORMATS = ("json", "csv", "parquet", "text", "arrow")


@dataclass(frozen=True)
class EvalTask:
    """One lm-eval task with its documents, ready to be run for one adapter after the other."""

    name: str
    task: Task
    config: TaskConfig
    apply_chat_template: bool
    limit: int | None

    def documents(self) -> list[Any]:
        """Every document that may be scored, in the task's order."""
        with quiet():
            return [document for _, document in self.task.doc_iterator(limit=self.limit)]

    def item_ids(self) -> list[str]:
        """Of every document, before anything is scored."""
        documents = enumerate(self.documents())
        return [item_id(self.name, number, doc_hash(document)) for number, document in documents]

    def num_fewshot(self) -> int:
        return self.task.get_config("num_fewshot") or 0

    def max_new_tokens(self, default: int) -> int | None:
        """None for tasks that generate nothing."""
        if self.task.OUTPUT_TYPE != "generate_until":
            return None
        kwargs = dict(self.task.get_config("generation_kwargs") or {})
        with quiet():
            return normalize_gen_kwargs(kwargs, default).get("max_gen_toks", default)

    def seed(self) -> None:
        """The seeds that `lm_eval` sets before a run: the same few-shot examples each time."""
        _seed_everything()
        self.task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)


def _seed_everything() -> None:
    import torch

    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)
    torch.manual_seed(DEFAULT_OTHER_SEED)


def load_tasks(
    suite: Suite,
    limit: int | None,
    cache_dir: Path,
    dataset_revisions: Mapping[str, str] = MappingProxyType({}),
) -> list[EvalTask]:
    """The suite's tasks with their documents; groups and tags are expanded to their tasks.

    cache_dir: an empty folder for what `datasets` makes of local data files. Its usual cache knows
    a file by name and time alone, and would go on using items that were changed meanwhile.
    dataset_revisions: Hub dataset to the revision that is used instead of the suite's.

    Raises ConfigError for unknown tasks, InputError for tasks that cannot be gated,
    HubNotFoundError and HubUnavailableError for their datasets, SecurityError for tasks of lm-eval
    that would run generated code outside a sandbox.
    """
    found: dict[str, EvalTask] = {}
    for config in suite.tasks:
        limits = [n for n in (config.limit, limit) if n is not None]
        loaded = _load(config, suite, cache_dir, dataset_revisions)
        _set_longest_answer(loaded, config)
        for name, task in loaded.items():
            if name in found:
                raise ConfigError(f"slice {suite.slice}: task {name} is in it more than once.")
            _set_fewshot(name, task, config)
            _check_before_scoring(name, task, config)
            found[name] = EvalTask(
                name, task, config, suite.apply_chat_template, min(limits, default=None)
            )
    return list(found.values())


def _load(
    config: TaskConfig, suite: Suite, cache_dir: Path, dataset_revisions: Mapping[str, str]
) -> dict[str, Task]:
    name = config.task
    index = task_index.find(name, suite.task_dir)
    if index is None:
        raise ConfigError(_unknown(name, suite))
    for entry in index.values():
        _refuse_unsafe(entry.name, entry.cfg or {})
    source = _DatasetSource(suite.task_dir, cache_dir, config.revision, dataset_revisions)
    with quiet(), _explained(name), no_downloads() as refused:
        _seed_everything()  # documents may be shuffled while they are loaded
        index = {known: _prepared(entry, source) for known, entry in index.items()}
        loaded = task_index.manager_of(index).load([name])
    groups: dict[str, Group] = loaded.get("groups", {})
    if not loaded["tasks"]:
        raise InputError(f"{'group' if groups else 'tag'} {name} has no tasks.")
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise SecurityError(_unsafe(task.task_name))
        _check_metrics(task, refused)
        _check_revision(task, source)
    return dict(loaded["tasks"])


class _DatasetSource(NamedTuple):
    """Where a task's documents come from, as far as its YAML leaves it open."""

    task_dir: Path | None
    cache_dir: Path
    revision: str | None
    revisions: Mapping[str, str]

    def revision_of(self, dataset: Any) -> str | None:
        return self.revisions.get(dataset, self.revision) if _on_hub(dataset) else None


def _on_hub(dataset: Any) -> bool:
    return (
        isinstance(dataset, str)
        and bool(dataset)
        and dataset not in FILE_FORMATS
        and not Path(dataset).is_absolute()
    )


def _prepared(entry: Entry, source: _DatasetSource) -> Entry:
    """A task's entry with its data files relative to its YAML and read anew, and its dataset pinned.

    lm-eval takes files relative to wherever the command runs, and `datasets` a folder there that has
    the name of a Hub dataset; the first is mended here, the second is an InputError.
    """
    if entry.yaml_path is None or entry.kind not in (Kind.TASK, Kind.PY_TASK):
        return entry
    dataset = (entry.cfg or {}).get("dataset_path")
    if source.task_dir is not None and entry.yaml_path.is_relative_to(source.task_dir):
        config = _with_local_files(entry.yaml_path, source.cache_dir)
    elif source.revision_of(dataset) is not None:
        config = load_yaml(entry.yaml_path)
    else:
        config = None
    dataset = (config or entry.cfg or {}).get("dataset_path")
    if _on_hub(dataset) and Path(str(dataset)).exists():
        raise InputError(
            f"task {entry.name}: the current folder holds {dataset}, which would be read instead of "
            "the Hub dataset of that name. Run the command elsewhere, or rename it."
        )
    if config is None:
        return entry
    if (revision := source.revision_of(dataset)) is not None:
        config["dataset_kwargs"] = {**(config.get("dataset_kwargs") or {}), "revision": revision}
    return dataclasses.replace(entry, yaml_path=None, cfg=config)


def _with_local_files(path: Path, cache_dir: Path) -> dict[str, Any]:
    config = load_yaml(path)
    dataset, kwargs = config.get("dataset_path"), config.get("dataset_kwargs")
    if _on_hub(dataset) and (path.parent / str(dataset)).is_dir():
        return {**config, "dataset_path": str(path.parent / str(dataset))}
    if dataset not in FILE_FORMATS or not isinstance(kwargs, dict):
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


def _check_revision(task: Task, source: _DatasetSource) -> None:
    """A group's own settings and tasks that are Python classes may leave the revision out."""
    dataset = task.DATASET_PATH if task.get_config("custom_dataset") is None else None
    used = (task.get_config("dataset_kwargs") or {}).get("revision")
    if not _on_hub(dataset):
        if source.revision is not None:
            raise InputError(
                f"task {task.task_name}: revision: it reads no dataset of the Hub. Leave it out."
            )
    elif (wanted := source.revision_of(dataset)) not in (None, used):
        raise InputError(
            f"task {task.task_name}: its code loads dataset {dataset} itself, so it cannot be held at "
            f"revision {wanted}. Leave revision out, or use another task."
        )


def _check_metrics(task: Task, refused: Sequence[CtError]) -> None:
    """lm-eval goes on without a metric that it could not get, and fails while it grades."""
    if task.OUTPUT_TYPE != "generate_until" or task.get_config("process_results") is not None:
        return
    functions: dict[str, Any] = getattr(task, "_metric_fn_list", {})
    if missing := [name for name, function in functions.items() if function is None]:
        why = f" {refused[0]}" if refused else ""
        raise InputError(f"task {task.task_name}: no metric {missing[0]!r}.{why}")


def _set_longest_answer(tasks: Mapping[str, Task], config: TaskConfig) -> None:
    if config.max_gen_toks is None:
        return
    answering = [task for task in tasks.values() if task.OUTPUT_TYPE == "generate_until"]
    if not answering:
        raise InputError(f"task {config.task}: max_gen_toks: it generates nothing. Leave it out.")
    for task in answering:
        given = task.get_config("generation_kwargs") or {}
        kwargs = {key: value for key, value in given.items() if key not in _OTHER_NAMES}
        task.set_config("generation_kwargs", {**kwargs, "max_gen_toks": config.max_gen_toks})


_OTHER_NAMES = ("max_new_tokens", "max_tokens", "max_completion_tokens")
"""Of max_gen_toks, as `normalize_gen_kwargs` knows them."""


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
    if getattr(task, "MULTIMODAL", False):
        raise InputError(f"task {name}: it shows images or plays sound; only text is evaluated.")
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


def _unknown(name: str, suite: Suite) -> str:
    alike = task_index.near(name, suite.task_dir)
    hint = f" Near: {', '.join(alike)}." if alike else ""
    where = f"{suite.task_dir} or among lm-eval's" if suite.task_dir else "lm-eval's index"
    return f"slice {suite.slice}: no task {name!r} in {where}.{hint}"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What may go wrong while a task's documents are fetched, in our words."""
    import jinja2
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        yield
    except DatasetNotFoundError as error:
        hint = (
            " A commit that is pinned on huggingface.co does not exist on another Hub: name one that "
            "does under evaluate.dataset_revisions."
        )
        raise HubNotFoundError(
            f"task {name}: its dataset is not on the Hub: {error}"
            f"{hint if 'evision' in str(error) else ''}"
        ) from error
    except (ConnectionError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        raise HubUnavailableError(
            f"task {name}: its dataset could not be fetched: {error}. Check the network and "
            "HF_ENDPOINT, then run the same command again."
        ) from error
    except (IndexError, StopIteration) as error:  # lm-eval and datasets look at the first document
        raise InputError(f"task {name}: its dataset has no documents.") from error
    except (FileNotFoundError, DatasetsError, ImportError) as error:
        raise InputError(f"task {name} could not be loaded: {error}") from error
    except (jinja2.TemplateError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"task {name} could not be loaded: {type(error).__name__}: {error}. Its YAML and its dataset "
            "do not fit together."
        ) from error


def doc_hash(doc: Any) -> str:
    """As lm-eval hashes a document in its samples."""
    return hash_string(
        json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
    )
