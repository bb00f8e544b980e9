"""`ct.yaml`: one sub-model per step, `--set a.b=c` on top, and errors that name the dotted path.

Relative paths are relative to the file that names them. Every field's comment below is also what
`ct-llm init` and the reference say.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ct_llm.config_errors import explain, kind, nearest
from ct_llm.errors import ConfigError

PACKAGE = Path(__file__).parent
Model = TypeVar("Model", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


HubId = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$", description="owner/name on the Hub"),
]


class BaseModelConfig(_Section):
    """The frozen weights that every adapter sits on."""

    repo: str
    """Hub id (owner/name) or a local folder."""
    revision: str = "main"
    """Branch, tag or commit; resolved to a commit and recorded."""
    chat_template: Path | None = None
    """A .jinja file that replaces the tokenizer's template; needed where it has none, or one that
    neither marks the assistant's words with {% generation %} nor is known to TRL."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class DatasetConfig(_Section):
    """A dataset repo whose rows pile up."""

    repo: HubId
    revision: str = "main"
    files: str = "**"
    """Glob of the files that hold rows; .parquet, .jsonl and .json are read, other endings are not."""
    format: Literal["auto", "messages", "prompt_completion", "alpaca", "sharegpt"] = "auto"
    """auto: found by the columns."""


class HubConfig(_Section):
    endpoint: str | None = None
    """URL of another Hub, such as the one of `ct-llm hub serve`. Default: HF_ENDPOINT, else
    huggingface.co. The token comes from HF_TOKEN or `hf auth login`, never from this file."""
    private: bool = True
    """An adapter repo that ct_llm creates is private."""

    @field_validator("endpoint")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/@\s]+(/[^@\s]*)?", value):
            raise ValueError("must be http(s)://host[:port], without user or password")
        return value and value.rstrip("/")


class WatchConfig(_Section):
    threshold_samples: int = Field(default=10_000, ge=1)
    """Train when at least this many new rows are there."""


class ReplayConfig(_Section):
    rows_per_new_row: float | Literal["all"] = 1.0
    """Earlier rows mixed in per new row, against forgetting; "all" takes every earlier row, 0 none."""
    seed: int = 0

    @field_validator("rows_per_new_row")
    @classmethod
    def _not_negative(cls, value: float | Literal["all"]) -> float | Literal["all"]:
        if value != "all" and value < 0:
            raise ValueError("must be 0 or more, or all")
        return value


class PrepareConfig(_Section):
    holdout_fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the new rows kept out of training; a row's side follows from a hash of its prompt and
    never changes."""
    holdout_salt: str = "ct_llm"
    max_quarantine_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """More bad rows than this share of the rows read stop the cycle (exit 30)."""
    max_chars: int = Field(default=200_000, ge=1)
    """A row with more characters than this is quarantined."""
    replay: ReplayConfig = ReplayConfig()


class LoraConfig(_Section):
    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False


class TrainConfig(_Section):
    start_from: Literal["fresh", "champion"] = "fresh"
    """A fresh adapter on new and replayed rows, or the champion's adapter trained further."""
    lora: LoraConfig = LoraConfig()
    learning_rate: float = Field(default=2e-4, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimizer step over all processes."""
    micro_batch_size: int = Field(default=16, ge=1)
    """Rows per forward pass of one process; the rest is gradient accumulation."""
    max_length: int = Field(default=2048, ge=8)
    """Tokens per row; longer rows are cut."""
    warmup_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on GPUs that have it, float32 elsewhere."""
    gradient_checkpointing: bool = False
    save_every_steps: int = Field(default=200, ge=1)
    """Checkpoints to resume from after a kill."""


class NewestConfig(_Section):
    """The slice made of held-out newest rows: exp(log-likelihood / bytes) of each response, in [0, 1]."""

    enabled: bool = True
    max_items: int = Field(default=500, ge=1)
    tolerance: float = Field(default=0.0, ge=0.0)
    """Used where `newest` is a guard, not the target."""


class EvaluateConfig(_Section):
    suites: list[str] = ["coding", "reasoning", "chat"]
    """Names of shipped suites, or paths of suite files."""
    newest: NewestConfig = NewestConfig()
    limit: int | None = Field(default=None, ge=1)
    """At most this many items a task (the first ones), for a trial; the verdict is about those items."""
    batch_size: int | Literal["auto"] = "auto"
    order_seed: int = 0
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")


class GateConfig(_Section):
    target: str = "newest"
    """The slice that must improve; the others are guards and may lose at most their tolerance."""
    min_gain: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The target must improve by more than this."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    without_champion: Literal["base_model", "review"] = "base_model"
    """First cycle: compare with the base model itself, or hand the first adapter to a human."""
    num_damaged_items: int = Field(default=10, ge=0)
    """How many of the most damaging items the decision names."""


class PromoteConfig(_Section):
    license: str | None = None
    """For the model card, e.g. apache-2.0; default: the base model's."""
    include_samples: bool = True
    """Show prompts and outputs of damaged items in a review's description."""


class LaunchConfig(_Section):
    target: Literal["local"] = "local"
    accelerate_config: Path | None = None
    """For `accelerate launch --config_file`; default: the shipped one (one process)."""


class CTConfig(_Section):
    """The whole of `ct.yaml`."""

    base_model: BaseModelConfig
    datasets: list[DatasetConfig] = Field(min_length=1)
    adapter_repo: HubId
    """Model repo of the adapter: `main` is the champion. Made when it is missing."""
    work_dir: Path = Path(".ct_llm")
    """Where cycles keep their files on this machine."""
    hub: HubConfig = HubConfig()
    watch: WatchConfig = WatchConfig()
    prepare: PrepareConfig = PrepareConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    gate: GateConfig = GateConfig()
    promote: PromoteConfig = PromoteConfig()
    launch: LaunchConfig = LaunchConfig()


# ---------------------------------------------------------------- suites


class TaskConfig(_Section):
    task: str
    """lm-eval task name: built in, or local (see Suite.task_dir)."""
    metric: str
    """The metric's name in lm-eval's samples, e.g. exact_match, acc, pass."""
    filter: str = "none"
    """lm-eval's filter pipeline whose answer counts, e.g. strict-match."""
    num_fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)
    """Only the first items of the task."""


class Suite(_Section):
    """A slice: tasks that are gated together. One YAML file."""

    slice: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    description: str = ""
    tasks: list[TaskConfig] = Field(min_length=1)
    task_dir: Path | None = None
    """Folder of local lm-eval task YAML files."""
    apply_chat_template: bool = True
    executes_code: bool = False
    """Its grader runs generated code: evaluated in the sandbox, or not at all."""
    tolerance: float = Field(ge=0.0, le=1.0)
    """Largest loss of the slice's mean that is allowed (non-inferiority margin)."""
    floor: float | None = None
    """Lowest mean that the challenger may have."""
    score_step: float | None = Field(default=None, gt=0)
    """All scores are multiples of it (1.0 for right/wrong): sharpens the statistics when declared."""
    score_low: float = 0.0
    score_high: float = 1.0


# ---------------------------------------------------------------- loading


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> CTConfig:
    """Read `ct.yaml`, apply `a.b=c` overrides, check everything.

    Raises ConfigError with the file, the dotted path, what was expected and the nearest valid key.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such file. `ct-llm init` writes one to start from.")
    data = _read_mapping(path)
    for override in overrides:
        _apply_override(data, override)
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


def _apply_override(data: dict[str, Any], override: str) -> None:
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
    update = {
        "work_dir": absolute(config.work_dir),
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
