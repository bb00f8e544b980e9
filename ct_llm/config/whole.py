"""The whole of `ct.yaml`: one section for each step."""

import re
from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    field_validator,
)

from ct_llm.config.data import DatasetConfig, PrepareConfig
from ct_llm.config.evaluation import EvaluateConfig, GateConfig
from ct_llm.config.section import HubId, Section
from ct_llm.config.watch import WatchConfig


class BaseModelConfig(Section):
    """The frozen weights that every adapter sits on."""

    repo: str
    """Hub id (owner/name) or a local folder."""
    revision: str = "main"
    """Branch, tag or commit; resolved to a commit and recorded."""
    chat_template: Path | None = None
    """A .jinja file that replaces the tokenizer's template; needed where it has none, or one that
    neither marks the assistant's words with {% generation %} nor is known to TRL."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


class HubConfig(Section):
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


class LoraConfig(Section):
    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False


class TrainConfig(Section):
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


class PromoteConfig(Section):
    license: str | None = None
    """For the model card, e.g. apache-2.0; default: the base model's."""
    include_samples: bool = True
    """Show prompts and outputs of damaged items in a review's description."""


class LaunchConfig(Section):
    target: Literal["local"] = "local"
    accelerate_config: Path | None = None
    """For `accelerate launch --config_file`; default: the shipped one (one process)."""


class CTConfig(Section):
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
