"""`ct.yaml`: one sub-model per step, `--set a.b=c` on top, and errors that name the dotted path.

Relative paths are relative to the file that names them. Every field's comment below is also what
`ct-llm init` and the reference say.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_validator,
)

from ct_llm.config_errors import explain, kind, nearest
from ct_llm.durations import format_duration, parse_duration
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


RowFormat = Literal[
    "messages",
    "prompt_completion",
    "alpaca",
    "sharegpt",
    "preference",
    "oasst",
    "dialogue",
    "text",
]
Format = Literal["auto"] | RowFormat

Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
]
"""`30m`, `12h`, `14d`, `2w`; a bare number is seconds."""


COLUMNS = (
    "messages",
    "role",
    "content",
    "prompt",
    "completion",
    "instruction",
    "input",
    "output",
    "system",
    "conversations",
    "from",
    "value",
    "chosen",
    "tools",
    "text",
    "source",
)


class DatasetConfig(_Section):
    """A dataset whose rows pile up: a repo on the Hub, or files under a folder or a bucket."""

    repo: HubId | None = None
    """Hub id (owner/name). Either this or `path`."""
    path: str | None = None
    """A folder (relative to this file) or an fsspec URL of one: s3://bucket/rows (extra `s3`),
    hf://datasets/owner/name/folder, file:///data/rows."""
    name: str | None = None
    """How records and reports call it, and the source of its rows where they name none. Default:
    `repo`, with `:config` where one is set, or `path`. Keep it when the place changes: the rows are
    then known again."""
    revision: str = "main"
    """Of a repo: branch, tag or commit to follow."""
    config: str | None = None
    """Of a repo with several configs in its README: which."""
    split: str = "train"
    """Which split holds the rows to train on: by the README's configs, else by a word such as train,
    test or validation in the name of the file or of a folder; files that name no split count as
    train. "all" takes every file."""
    files: str = "**"
    """Glob of the files that hold rows: .parquet, .jsonl, .ndjson, .json, .csv, .tsv, .txt; all but
    parquet also as .gz or .zst. Other endings are not read, and .txt only where the glob, or the
    README's configs, name it ("**/*.txt"), since licences and notes are .txt as well."""
    format: Format = "auto"
    """auto: found by the columns."""
    columns: dict[str, str] = {}
    """Where a file calls a column differently, its name by ours, e.g. {messages: utterances, role:
    speaker, content: text}. Ours: messages, role, content, prompt, completion, instruction, input,
    output, system, conversations, from, value, chosen, tools, text, source."""
    weight: float = Field(default=1.0, gt=0, le=100)
    """How much a row of it counts, towards the trigger and in the training set: 0.5 takes a seeded
    half of its rows, 2 takes each twice."""

    @field_validator("path")
    @classmethod
    def _without_secrets(cls, value: str | None) -> str | None:
        # It is written into records, and from there into cards and reports.
        if value is not None and re.search(r"://[^/\s]*:[^/\s]*@", value):
            raise ValueError("must not hold a password: put credentials into the environment")
        if value is not None and "::" in value:
            raise ValueError("must be one folder or URL, not a chain of them (::)")
        return value

    @field_validator("columns")
    @classmethod
    def _our_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if name not in COLUMNS:
                hint = nearest(name, COLUMNS)
                raise ValueError(f"{name!r} is no column of ours{hint}. Ours: {', '.join(COLUMNS)}")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> "DatasetConfig":
        if (self.repo is None) == (self.path is None):
            raise ValueError("give exactly one of repo (on the Hub) and path (a folder or URL)")
        if self.path is not None and (self.config is not None or self.revision != "main"):
            raise ValueError("revision and config are for a repo; a path has neither")
        return self

    @property
    def place(self) -> str:
        """The repo or the path."""
        return self.repo or self.path or ""

    @property
    def key(self) -> str:
        """`name`, or what stands in for it."""
        return self.name or (f"{self.place}:{self.config}" if self.config else self.place)


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


class DriftConfig(_Section):
    """Do the new rows differ from those that the champion was trained on? Reads rows, no model."""

    enabled: bool = False
    min_auc: float = Field(default=0.65, gt=0.5, lt=1.0)
    """A classifier must tell new rows from old ones at least this well (0.5: not at all) ..."""
    alpha: float = Field(default=0.01, ge=0.001, lt=0.5)
    """... and a permutation of the labels do as well with at most this probability."""
    sample_rows: int = Field(default=2_000, ge=100, le=20_000)
    """Rows taken of each side, from at most eight files."""
    min_new_rows: int = Field(default=200, ge=20)
    """Fewer distinct rows than this, on either side, are not judged."""
    seed: int = Field(default=0, ge=0, lt=2**32)


class WebhookConfig(_Section):
    """`ct-llm watch --serve`: what the Hub's webhook starts."""

    secret_env: str = "CT_LLM_WEBHOOK_SECRET"
    """The environment variable with the secret that X-Webhook-Secret must equal."""
    start: Literal["run", "github"] = "run"
    """run: `ct-llm run` on this machine. github: a repository_dispatch, which a workflow waits for."""
    github_repo: HubId | None = None
    """owner/name on GitHub; the token comes from GITHUB_TOKEN."""
    github_event: str = Field(default="ct-llm", min_length=1, max_length=100)
    """event_type of the repository_dispatch."""

    @model_validator(mode="after")
    def _github_repo_named(self) -> "WebhookConfig":
        if self.start == "github" and self.github_repo is None:
            raise ValueError("start: github needs github_repo")
        return self


class WatchConfig(_Section):
    """A cycle starts when any (or all) of the rules that are set is met and no brake holds.

    Where there is no champion yet, volume and schedule alone decide (one new row is enough where
    neither is set), and the schedule counts as overdue.
    """

    threshold_samples: int | None = Field(default=10_000, ge=1)
    """volume: train when at least this many new rows are there; null: no such rule."""
    max_data_age: Duration | None = None
    """freshness: train when there are new rows and the champion's data is older than this, e.g. 14d."""
    max_holdout_age: Duration | None = None
    """holdout_age: the same for the newest rows that the champion was compared on: those of the cycle
    that made it, or of a later one whose challenger lost against it."""
    drift: DriftConfig = DriftConfig()
    schedule: str | None = None
    """cron text (UTC), e.g. "0 3 * * 0": train when it came due since the last cycle and there is at
    least one new row."""
    train_when: Literal["any", "all"] = "any"
    """Of the rules that are set, how many must be met."""
    debounce: Duration = timedelta(0)
    """Wait until the dataset was left alone for this long: somebody may still be pushing."""
    cooldown: Duration = timedelta(0)
    """Wait this long after a cycle that was not promoted. Rollbacks are no cycles, here and below."""
    max_cycles_per_day: int | None = Field(default=None, ge=1, le=100)
    """Of cycles that ended within the last 24 hours, whatever came of them."""
    max_cycles_per_week: int | None = Field(default=None, ge=1, le=100)
    """The same within the last seven days."""
    webhook: WebhookConfig = WebhookConfig()

    @field_validator("schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None:
            from cronsim import CronSim, CronSimError

            try:
                if len(value.split()) != 5:
                    raise CronSimError("wrong number of fields")
                CronSim(value, datetime(2026, 1, 1))
            except CronSimError as error:
                raise ValueError(f"is not a cron expression of five fields ({error})") from None
        return value

    @model_validator(mode="after")
    def _some_rule(self) -> "WatchConfig":
        rules = (self.threshold_samples, self.max_data_age, self.max_holdout_age, self.schedule)
        if all(rule is None for rule in rules) and not self.drift.enabled:
            raise ValueError("no rule is set, so nothing would ever start a cycle but --force")
        return self


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


class NearDuplicateConfig(_Section):
    """Rows that say the same in nearly the same words: one of them stays."""

    enabled: bool = True
    min_similarity: float = Field(default=0.75, ge=0.6, le=1.0)
    """Two rows count as one when prompt and response each have at least this Jaccard similarity, over
    pairs of neighbouring words, and the same numbers. Below 0.7 more and more pairs are overlooked."""


class DecontaminationConfig(_Section):
    """Rows that repeat an item of the suites, or of the holdout, are taken out."""

    enabled: bool = True
    min_containment: float = Field(default=0.6, ge=0.3, le=1.0)
    """Share of an item's distinctive n-grams (three words) that makes a row a copy of it. Rows with
    the whole question, or a whole message of the item, are taken out in any case."""


class PrepareConfig(_Section):
    holdout_fraction: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the new rows kept out of training; a row's side follows from a hash of its prompt and
    never changes. Leave it and the salt as they are while a champion lives: with others, rows that it
    was trained on count as held out."""
    holdout_salt: str = "ct_llm"
    max_historic_holdout: int = Field(default=1_000, ge=0)
    """How many rows held out in earlier cycles are kept beside the newest ones."""
    max_quarantine_fraction: float = Field(default=0.2, ge=0.0, le=1.0)
    """More bad rows than this share of the rows read stop the cycle (exit 30)."""
    max_chars: int = Field(default=200_000, ge=1)
    """A row with more characters than this is quarantined."""
    template_tokens: Literal["quarantine", "neutralise"] = "quarantine"
    """Text that a tokenizer would read as the edge of a turn (<|im_start|>, [INST], ...): take the
    row out, or break the token with a zero-width space so that it stays text."""
    secrets: Literal["ignore", "quarantine"] = "ignore"
    """Rows that hold what looks like a key or a token (AWS, GitHub, Hugging Face, private keys, ...)."""
    tool_calls: Literal["auto", "keep", "quarantine"] = "auto"
    """auto: rows with tool calls are kept where the chat template can render them."""
    near_duplicates: NearDuplicateConfig = NearDuplicateConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
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

    @field_validator("datasets")
    @classmethod
    def _named_once(cls, value: list[DatasetConfig]) -> list[DatasetConfig]:
        # Lineage and ledger know a dataset by its name: two would be taken for each other.
        keys = [dataset.key for dataset in value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise ValueError(f"{key} is there twice; give each entry a `name` of its own")
        return value


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
