"""From files and overrides to a checked configuration."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ValidationError,
)

from ct_llm.config.evaluation import Suite
from ct_llm.config.whole import CTConfig
from ct_llm.config_errors import explain, kind, nearest
from ct_llm.errors import ConfigError

PACKAGE = Path(__file__).parent.parent
Model = TypeVar("Model", bound=BaseModel)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> CTConfig:
    """Read `ct.yaml`, apply `a.b=c` overrides, check everything.

    Raises ConfigError with the file, the dotted path, what was expected and the nearest valid key.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. `ct-llm init` writes one to start from.")
    data = _read_mapping(path)
    for override in overrides:
        apply_override(data, override)
    config = validate(CTConfig, data, str(path))
    return _with_absolute_paths(config, path.resolve().parent)


def load_suite(name: str, folder: Path) -> Suite:
    """A suite by the name of a shipped one (`coding`) or by path, relative to `folder`."""
    path = (
        folder / name if name.endswith((".yaml", ".yml")) else shipped(f"eval_suites/{name}.yaml")
    )
    if not path.is_file():
        names = sorted(p.stem for p in shipped("eval_suites").glob("*.yaml"))
        hint = nearest(name, names)
        raise ConfigError(
            f"evaluate.suites: no suite {name!r}{hint}. Shipped: {', '.join(names)}; "
            "or give the path of a .yaml file, relative to the config."
        )
    suite = validate(Suite, _read_mapping(path), str(path))
    if suite.task_dir is None:
        return suite
    task_dir = path.parent / suite.task_dir
    if not task_dir.is_dir():
        raise ConfigError(f"{path}: task_dir: {task_dir} is not a folder.")
    return suite.model_copy(update={"task_dir": task_dir.resolve()})


def shipped(name: str) -> Path:
    """A file that comes with ct_llm: inside an installed wheel, or beside the package in a checkout."""
    inside = PACKAGE / "shipped" / name
    return inside if inside.exists() else PACKAGE.parent / name


def validate(model: type[Model], data: dict[str, Any], where: str) -> Model:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [f"  {explain(model, data, problem)}" for problem in error.errors()]
        raise ConfigError(f"{where} is not valid:\n" + "\n".join(lines)) from None


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {kind(data)}.")
    return data


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set the key of `a.b=c` in nested dicts. Raises ConfigError."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected a.b=value, for instance train.lora.r=32.")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from None
    place: Any = data
    for key in keys[:-1]:
        place = _child(place, key, override) if isinstance(place, list) else _section(place, key)
        if not isinstance(place, (dict, list)):
            raise ConfigError(f"--set {override}: {key} is a value, nothing can be set below it.")
    if isinstance(place, list):
        _child(place, keys[-1], override)
        place[int(keys[-1])] = value
    else:
        place[keys[-1]] = value


def _section(place: dict[str, Any], key: str) -> Any:
    if place.get(key) is None:
        place[key] = {}
    return place[key]


def _child(place: list[Any], key: str, override: str) -> Any:
    if not key.isdecimal() or int(key) >= len(place):
        raise ConfigError(
            f"--set {override}: {key!r} does not name one of the {len(place)} entries "
            f"(0 to {len(place) - 1})."
        )
    return place[int(key)]


def _with_absolute_paths(config: CTConfig, folder: Path) -> CTConfig:
    """Relative paths of a config file are relative to that file, wherever the command runs."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (folder / path.expanduser())

    base = config.base_model
    local_repo = folder / Path(base.repo).expanduser()
    suites = [
        str(folder / name) if name.endswith((".yaml", ".yml")) else name
        for name in config.evaluate.suites
    ]
    datasets = [
        # It goes on by the name that it was written with: the folder may lie elsewhere on the next
        # machine, and where it lies is nobody's business.
        data.model_copy(update={"path": str(absolute(Path(data.path))), "name": data.key})
        if data.path is not None and "://" not in data.path
        else data
        for data in config.datasets
    ]
    update = {
        "work_dir": absolute(config.work_dir),
        "datasets": datasets,
        "base_model": base.model_copy(
            update={
                "repo": str(local_repo) if local_repo.is_dir() else base.repo,
                "chat_template": absolute(base.chat_template),
            }
        ),
        "evaluate": config.evaluate.model_copy(update={"suites": suites}),
        "launch": config.launch.model_copy(
            update={"accelerate_config": absolute(config.launch.accelerate_config)}
        ),
    }
    return config.model_copy(update=update)
