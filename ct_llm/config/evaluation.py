"""Suites, how adapters are compared on them, and what decides."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ct_llm.config.section import Section
from ct_llm.config_errors import nearest
from ct_llm.errors import ConfigError


class NewestGeneratedConfig(Section):
    """The slice `newest_generated`, a guard: held-out rows whose response a program can check (a final
    number, JSON, a short text) are answered by the models and graded right or wrong."""

    enabled: bool = True
    tolerance: float = Field(default=0.05, ge=0.0, le=1.0)
    min_items: int = Field(default=20, ge=1)
    """With fewer checkable rows there is no such slice."""
    max_gen_toks: int = Field(default=256, ge=1)


class NewestConfig(Section):
    """The slice made of held-out newest rows: exp(log-likelihood / bytes) of each response, in [0, 1]."""

    enabled: bool = True
    max_items: int = Field(default=500, ge=1)
    tolerance: float = Field(default=0.0, ge=0.0)
    """Used where `newest` is a guard, not the target."""
    weight: float = Field(default=1.0, ge=0.0)
    """Its part in a pooled or weighted target."""
    generated: NewestGeneratedConfig = NewestGeneratedConfig()


class EvaluateConfig(Section):
    suites: list[str] = ["coding", "reasoning", "chat"]
    """Names of shipped suites, or paths of suite files."""
    newest: NewestConfig = NewestConfig()
    limit: int | None = Field(default=None, ge=1)
    """At most this many items a task (the first ones), for a trial; the verdict is about those items."""
    engine: Literal["hf", "vllm"] = "hf"
    """hf: transformers, every adapter in one batch. vllm: multi-LoRA serving, needs `ct_llm[vllm]`."""
    batch_size: int | Literal["auto"] = "auto"
    """Rows per forward pass; auto: by memory, halved when it runs out."""
    batch_items: int = Field(default=64, ge=1)
    """Items of a slice between two looks at whether its answer is certain."""
    max_items: int | None = Field(default=None, ge=1)
    """Budget: items scored over all slices. What is then undecided is inconclusive."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Budget: time from the first score on."""
    num_processes: int = Field(default=1, ge=1)
    """Processes (one a GPU) that share every batch; the result is that of one."""
    cache_scores: bool = True
    """Keep item scores on the adapter repo's ledger, so that a champion is never evaluated twice."""
    dataset_revisions: dict[str, str] = {}
    """Hub dataset of a task to the revision used instead of the suite's, for mirrors: a commit pinned
    on huggingface.co does not exist on another Hub."""
    order_seed: int = 0
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")


class GateConfig(Section):
    target: str | None = None
    """What must improve: a slice, `pooled` (all items alike) or `weighted` (suites by their weight).
    Default: the suite that says `target: true`, else `newest`. The other slices are guards and may
    lose at most their tolerance."""
    min_gain: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The target must improve by more than this."""
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Risk of deciding otherwise than the full evaluation would."""
    mode: Literal["sequential", "full", "population"] = "sequential"
    """sequential: stop as soon as the full evaluation's verdict is certain up to alpha. full: score
    every item, no risk. population: about the distribution that the items came from; fresh items only,
    and may stay inconclusive."""
    anchor: str | None = "first"
    """Guard against slow loss over many promotions: the challenger is also compared with this earlier
    champion. `first`: the oldest version; `vN`: that one; null: no such guard. Moved only by a person."""
    anchor_tolerance_factor: float = Field(default=2.0, gt=0.0)
    """Against the anchor a slice may lose this many times its tolerance."""
    without_champion: Literal["base_model", "review"] = "base_model"
    """First cycle: compare with the base model itself, or hand the first adapter to a human."""
    num_damaged_items: int = Field(default=10, ge=0)
    """How many of the most damaging items the decision names."""


class TaskConfig(Section):
    task: str
    """lm-eval task name: built in, or local (see Suite.task_dir)."""
    metric: str
    """The metric's name in lm-eval's samples, e.g. exact_match, acc, pass."""
    filter: str = "none"
    """lm-eval's filter pipeline whose answer counts, e.g. strict-match."""
    num_fewshot: int | None = Field(default=None, ge=0)
    limit: int | None = Field(default=None, ge=1)
    """Only the first items of the task."""
    revision: str | None = None
    """Of the task's Hub dataset: a commit, so that the items stay what they are."""
    max_gen_toks: int | None = Field(default=None, ge=1)
    """Longest answer in tokens, instead of the task's own."""
    clusters: str | None = None
    """Field of the document that items with one passage share; for clustered errors."""


class Suite(Section):
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
    alpha: float | None = Field(default=None, gt=0.0, lt=0.5)
    """Risk of passing wrongly, instead of the gate's: 0.01 where harm is costly."""
    weight: float = Field(default=1.0, ge=0.0)
    """Its part in a `weighted` target."""
    target: bool = False
    """This slice must improve; `gate.target` in the config goes before."""
    floor: float | None = None
    """Lowest mean that the challenger may have."""
    score_step: float | None = Field(default=None, gt=0)
    """All scores are multiples of it (1.0 for right/wrong): sharpens the statistics when declared."""
    score_low: float = 0.0
    score_high: float = 1.0

    @model_validator(mode="after")
    def _floor_is_a_score(self) -> Self:
        if self.floor is not None and not self.score_low <= self.floor <= self.score_high:
            raise ValueError(
                f"floor {self.floor:g} is no score from {self.score_low:g} to {self.score_high:g}"
                " (30 % is 0.30)"
            )
        return self


OVERALL_TARGETS = ("pooled", "weighted")
"""Targets that are no slice: all items alike, or the suites by their weight."""


def resolve_target(
    gate: GateConfig,
    suites: Sequence[Suite],
    others: Collection[str] = ("newest", "newest_generated"),
) -> GateConfig:
    """The gate with its target named: `gate.target`, else the suite that says so, else `newest`.

    others: slices that can be there beside the suites'. Raises ConfigError for a target that is no
    slice, for two suites that say they are it, and for a suite that is called like an overall target.
    """
    names = [suite.slice for suite in suites]
    for overall in OVERALL_TARGETS:
        if overall in names:
            raise ConfigError(
                f"evaluate.suites: a suite's slice is called {overall}, which as gate.target means "
                "all slices together. Give it another name."
            )
    targets = [suite.slice for suite in suites if suite.target]
    if gate.target is None and len(targets) > 1:
        raise ConfigError(
            f"evaluate.suites: {' and '.join(targets)} all say target: true. Leave it at one, or "
            "name one (or pooled, weighted) as gate.target."
        )
    target = gate.target or (targets[0] if targets else "newest")
    known = [*names, *others, *OVERALL_TARGETS]
    if target not in known:
        raise ConfigError(
            f"gate.target: no slice {target!r}{nearest(target, known)}. There are: {', '.join(known)}."
        )
    return gate.model_copy(update={"target": target})
