"""What asks models: every engine answers the same requests of lm-eval for one to three adapters."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ct_llm.config import BaseModelConfig, EvaluateConfig
from ct_llm.errors import AdapterError, ConfigError, InputError
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import Side

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from ct_llm.evaluate.tasks.tasks import EvalTask

Response = str | float | tuple[float, bool]
"""generate_until: the text; loglikelihood: (log-likelihood in nats, whether greedy decoding gives it);
loglikelihood_rolling: log-likelihood in nats. As lm-eval's models return them."""


class Engine(Protocol):
    """One base model with adapters on it, by side. A side without an adapter is the base itself."""

    lm: Any
    """An `lm_eval.api.model.LM`, for chat template, tokenizer and lengths; `respond` gives answers."""
    tokenizer: Any

    @property
    def sides(self) -> tuple[Side, ...]:
        """In the order of `records.SIDES`."""
        ...

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        ...

    def check(self, task: "EvalTask") -> None:
        """Raises InputError for a task that this model cannot run, before anything is scored."""
        ...

    def respond(
        self, requests: Sequence["Instance"], sides: Sequence[Side]
    ) -> dict[Side, list[Response]]:
        """Each side's answers, in the order of the requests, which may be of any mix of types.

        Raises InputError for what lm-eval refuses, StepFailedError when the device's memory is too
        small for a single row.
        """
        ...

    def identity(self) -> dict[str, str]:
        """What, beside model, adapter and request, an answer may depend on: part of a cache's key."""
        ...


def open_engine(
    config: EvaluateConfig,
    base: BaseModelFolder,
    base_config: BaseModelConfig,
    adapters: Mapping[Side, Path | None],
) -> Engine:
    """The engine that `evaluate.engine` names, loaded; adapters: folders, None for the base itself.

    Raises AdapterError for adapters of another base, broken or without effect, InputError for a base
    that cannot be loaded, ConfigError for an engine that is not installed, StepFailedError for a
    device without room.
    """
    _check_device(config.device)
    if config.engine == "vllm":
        from ct_llm.evaluate.engine.vllm_engine import VLLMEngine

        return VLLMEngine.open(base, base_config, adapters, batch_size=config.batch_size)
    from ct_llm.evaluate.engine.hf_engine import HFEngine

    return HFEngine.open(
        base, base_config, adapters, device=config.device, batch_size=config.batch_size
    )


def _check_device(name: str) -> None:
    """Raises ConfigError for a device that this machine has not."""
    import torch

    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(
            f"evaluate.device: {name} is not here: torch {torch.__version__} finds {found} CUDA "
            f"device{'s' * (found != 1)}. Take auto or cpu, or install a torch for this GPU."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("evaluate.device: mps is not available here. Take auto or cpu.")


def check_task(task: "EvalTask", tokenizer: Any, lm: Any) -> None:
    """Raises InputError for a task that needs a template or a context that the model lacks."""
    if task.apply_chat_template and not tokenizer.chat_template:
        raise InputError(
            f"task {task.name}: the base model's tokenizer has no chat template. Set "
            "base_model.chat_template, or apply_chat_template: false in the suite."
        )
    room = task.max_new_tokens(lm.max_gen_toks)
    if room is not None and room >= lm.max_length:
        raise InputError(
            f"task {task.name} generates up to {room} tokens, but the model's context holds "
            f"{lm.max_length}. Lower max_gen_toks in the task's generation_kwargs."
        )


def check_answers(
    requests: Sequence["Instance"], answers: Mapping[Side, Sequence[Response]]
) -> None:
    """Raises AdapterError for a log-likelihood that is NaN: no score could be made of it."""
    for side, found in answers.items():
        for request, answer in zip(requests, found, strict=True):
            value = answer[0] if isinstance(answer, tuple) else answer
            if isinstance(value, float) and math.isnan(value):
                raise AdapterError(
                    f"{side}: the log-likelihood of task {request.task_name}, document "
                    f"{request.doc_id} is NaN. Its weights are too large for the model's precision; "
                    "set base_model.dtype: float32, or look at the training's loss."
                )
