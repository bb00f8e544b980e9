"""The same requests, answered by vLLM: one engine, an adapter for each side by multi-LoRA serving.

For GPUs and long generations. What is asked, cut and post-processed is lm-eval's `VLLM` model; this
engine says whose adapter a request is for. vLLM itself shares the prefixes of each adapter's requests.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lm_eval.api.instance import Instance

from ct_llm.config import BaseModelConfig
from ct_llm.errors import AdapterError, ConfigError, InputError, StepFailedError
from ct_llm.evaluate.engine.adapter_check import check_adapter
from ct_llm.evaluate.engine.engine import Response, check_answers, check_task
from ct_llm.evaluate.engine.memory import out_of_memory
from ct_llm.evaluate.engine.sampling import sample_names
from ct_llm.evaluate.quiet import quiet
from ct_llm.evaluate.tasks.tasks import EvalTask
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import SIDES, Side

VERSION = "1"
"""Raised whenever this engine's answers to the same request may change."""
LIBRARIES = ("vllm", "torch", "transformers", "lm_eval")
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the largest rank."""
NOT_SERVED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")
"""Settings of an adapter that vLLM's LoRA layers do not have."""
PROBE = "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9"


class VLLMEngine:
    """Every side's adapter on one vLLM engine."""

    def __init__(self, lm: Any, adapters: Mapping[Side, Any], base_dtype: str) -> None:
        """lm: lm-eval's VLLM; adapters: a LoRARequest for each side, None for the base itself.

        Use `open`.
        """
        self.lm = lm
        self.tokenizer: Any = lm.tokenizer
        self._adapters = dict(adapters)
        self._dtype = base_dtype

    @classmethod
    def open(
        cls,
        base: BaseModelFolder,
        base_config: BaseModelConfig,
        adapters: Mapping[Side, Path | None],
        *,
        batch_size: int | Literal["auto"] = "auto",
    ) -> "VLLMEngine":
        """Raises ConfigError where vLLM is not installed, AdapterError for adapters of another base,
        broken, without effect or of a kind that vLLM does not serve, InputError for a base that it
        cannot load, StepFailedError for a device without room."""
        if find_spec("vllm") is None:
            raise ConfigError(
                "evaluate.engine: vllm is not installed. Install it with `pip install ct_llm[vllm]`, "
                "or set evaluate.engine: hf."
            )
        folders: dict[Side, Path | None] = {s: adapters[s] for s in SIDES if s in adapters}
        ranks = [8]
        for side, folder in folders.items():
            if folder is not None:
                check_adapter(side, folder, base)
                ranks.append(_rank(side, folder))
        with quiet():
            engine = cls._load(base, base_config, folders, max(ranks), batch_size)
            engine._check_effect(folders)
        return engine

    @classmethod
    def _load(
        cls,
        base: BaseModelFolder,
        base_config: BaseModelConfig,
        folders: Mapping[Side, Path | None],
        rank: int,
        batch_size: int | Literal["auto"],
    ) -> "VLLMEngine":
        # Both import vllm, which is an extra.
        from lm_eval.models.vllm_causallms import VLLM
        from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

        named: list[tuple[Side, Path]] = [
            (side, folder) for side, folder in folders.items() if folder is not None
        ]
        lora: dict[str, Any] = {}
        if named:
            lora = {"enable_lora": True, "max_loras": len(named), "max_lora_rank": rank}
        vllm: Any = VLLM  # the registering decorator hides its signature from type checkers
        try:
            lm = vllm(
                pretrained=str(base.folder),
                dtype=base_config.dtype,
                batch_size=batch_size,
                trust_remote_code=False,
                **lora,
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"base model {base.repo} cannot be loaded by vLLM: {error}. Set evaluate.engine: hf."
            ) from error
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise StepFailedError(
                f"the device has no room for base model {base.repo}: {error}."
            ) from error
        if base_config.chat_template is not None:
            try:
                template = base_config.chat_template.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(
                    f"base_model.chat_template: {base_config.chat_template}: {error}"
                ) from None
            lm.tokenizer.chat_template = lm.hf_chat_template = template
        requests: dict[Side, Any] = dict.fromkeys(folders)
        for number, (side, folder) in enumerate(named, start=1):
            requests[side] = LoRARequest(side, number, str(folder))
        return cls(lm, requests, base_config.dtype)

    @property
    def sides(self) -> tuple[Side, ...]:
        return tuple(self._adapters)

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return self.lm.max_length

    def check(self, task: EvalTask) -> None:
        """Raises InputError for a task that this model cannot run, before anything is scored."""
        check_task(task, self.tokenizer, self.lm)

    def identity(self) -> dict[str, str]:
        """What, beside model, adapter and request, an answer may depend on."""
        return {
            "engine": "vllm",
            "version": VERSION,
            "dtype": self._dtype,
            **{name: version(name) for name in LIBRARIES},
        }

    def respond(
        self, requests: Sequence[Instance], sides: Sequence[Side]
    ) -> dict[Side, list[Response]]:
        """Each side's answers, in the order of the requests; see `engines.Engine`."""
        seeded = _with_seeds(requests)
        answers: dict[Side, list[Response]] = {}
        for side in sides:
            found: dict[int, Response] = {}
            for kind in sorted({request.request_type for request in requests}):
                if kind not in ("generate_until", "loglikelihood", "loglikelihood_rolling"):
                    raise InputError(
                        f"lm-eval's request type {kind} is not for text models; the task cannot run."
                    )
                places = [i for i, r in enumerate(requests) if r.request_type == kind]
                found.update(
                    zip(places, self._ask(kind, [seeded[i] for i in places], side), strict=True)
                )
            answers[side] = [found[index] for index in range(len(requests))]
        check_answers(requests, answers)
        return answers

    def _ask(self, kind: str, requests: Sequence[Instance], side: Side) -> list[Response]:
        names = ", ".join(sorted({str(request.task_name) for request in requests}))
        self.lm.lora_request = self._adapters[side]
        try:
            with quiet():
                return getattr(self.lm, kind)(list(requests), disable_tqdm=True)
        except (AssertionError, ValueError) as error:
            raise InputError(f"task {names}: vLLM cannot run it on this model: {error}") from error

    def _check_effect(self, folders: Mapping[Side, Path | None]) -> None:
        """A challenger without effect is a defect, not a tie; one that gives NaN cannot be scored."""
        tokens = self.lm.tok_encode(PROBE)
        probe = [(None, tokens[:index], [tokens[index]]) for index in range(1, len(tokens))]

        def values(adapter: Any) -> list[float]:
            self.lm.lora_request = adapter
            return [value for value, _ in self.lm._loglikelihood_tokens(probe, disable_tqdm=True)]

        plain = values(None)
        for side, folder in folders.items():
            if folder is None:
                continue
            try:
                own = values(self._adapters[side])
            except (RuntimeError, ValueError) as error:
                raise AdapterError(f"{side} {folder}: vLLM cannot load it: {error}") from error
            if not all(map(math.isfinite, own)):
                raise AdapterError(f"{side} {folder}: the model's logits are NaN with it.")
            if side == "challenger" and own == plain:
                raise AdapterError(
                    f"{side} {folder} changes nothing: the model's logits with it are those of the "
                    "base model. Its weights fit no module, or are too small to matter."
                )


def _rank(side: Side, folder: Path) -> int:
    """The smallest of vLLM's ranks that holds the adapter's. Raises AdapterError."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if kinds := [key for key in NOT_SERVED if config.get(key)]:
        raise AdapterError(
            f"{side} {folder} has {', '.join(kinds)}, which vLLM does not serve. Set "
            "evaluate.engine: hf."
        )
    rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    for allowed in RANKS:
        if rank <= allowed:
            return allowed
    raise AdapterError(
        f"{side} {folder} has rank {rank}; vLLM serves at most {RANKS[-1]}. Set evaluate.engine: hf."
    )


def _with_seeds(requests: Sequence[Instance]) -> list[Instance]:
    """Sampled texts draw by item and repeat, the same for each side, whatever else is in the batch."""
    seeded = list(requests)
    for index, name in enumerate(sample_names(requests)):
        request = requests[index]
        if request.request_type != "generate_until":
            continue
        pair: tuple[Any, ...] = request.args
        text, settings = pair
        if settings.get("do_sample") or settings.get("temperature"):
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
            arguments = (text, {**settings, "seed": seed})
            seeded[index] = dataclasses.replace(request, arguments=arguments)
    return seeded
