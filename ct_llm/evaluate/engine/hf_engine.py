"""One base model in memory with up to three adapters on it, answering lm-eval's requests."""

import functools
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ct_llm.config import BaseModelConfig
from ct_llm.errors import AdapterError, ConfigError, InputError, StepFailedError
from ct_llm.evaluate.engine.adapter_check import base_copies, check_adapter
from ct_llm.evaluate.engine.decoding import generate
from ct_llm.evaluate.engine.engine import Response, check_answers, check_task
from ct_llm.evaluate.engine.likelihoods import Likelihoods
from ct_llm.evaluate.engine.memory import out_of_memory, row_limit
from ct_llm.evaluate.engine.stacked_lora import StackedLora, close, probe_tokens
from ct_llm.evaluate.quiet import quiet
from ct_llm.evaluate.tasks.tasks import EvalTask
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import SIDES, Side

VERSION = "2"
"""Raised whenever this engine's answers to the same request may change."""
LIBRARIES = ("torch", "transformers", "peft", "lm_eval")
PROBE_TOKENS = 64


class HFEngine:
    """Every side's adapter on one transformers model, all sides in one forward pass where they can be."""

    def __init__(
        self,
        base: BaseModelFolder,
        base_config: BaseModelConfig,
        adapters: Mapping[Side, Path | None],
        *,
        device: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        """Use `open`, which explains a device without room."""
        folders: dict[Side, Path | None] = {s: adapters[s] for s in SIDES if s in adapters}
        if not folders:
            raise ValueError("an engine needs at least one side")
        for side, folder in folders.items():
            if folder is not None:
                check_adapter(side, folder, base)
        with quiet():
            self.device = _device(device)
            tokenizer = load_tokenizer(base, base_config)
            bare = _load_base(base, base_config, self.device)
            check_vocabulary(base, bare, tokenizer, folders)
            plain, repeatable = _base_logits(bare)
            # Before the adapters: HFLM ties weights, which would tie the base to an adapter's copy.
            self.lm = _lm_eval_model(bare, tokenizer)
            model = _with_adapters(bare, folders, self.device)
            self.stacked = StackedLora(model, folders)
            self.limit = row_limit(batch_size, self.stacked.model, self.device)
            self.lm._model = self.lm.pretrained = self.stacked.model
            self.lm.batch_size_per_gpu = self.limit.rows
            self._likelihoods = Likelihoods(self.stacked, self.lm, self.limit)
            self._check_effect(folders, plain, repeatable=repeatable)
        self.tokenizer: Any = self.lm.tokenizer

    @classmethod
    def open(
        cls,
        base: BaseModelFolder,
        base_config: BaseModelConfig,
        adapters: Mapping[Side, Path | None],
        *,
        device: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
    ) -> "HFEngine":
        """adapters: a folder for each side, None for the base itself; any non-empty set of sides.

        Raises AdapterError for adapters of another base, broken or without effect, InputError for a
        base that cannot be loaded or whose tokenizer does not fit, ConfigError for its template, and
        StepFailedError for a device without room.
        """
        try:
            return cls(base, base_config, adapters, device=device, batch_size=batch_size)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            raise StepFailedError(
                f"the device has no room for base model {base.repo}: {error}. Free it, take a larger "
                "one, or set base_model.dtype: bfloat16."
            ) from error

    @property
    def sides(self) -> tuple[Side, ...]:
        return self.stacked.sides

    @property
    def plain(self) -> bool:
        """Attention and cache allow a prefix to be computed once for many rows."""
        return self.stacked.plain_attention

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
            "engine": "hf",
            "version": VERSION,
            "dtype": str(self.stacked.model.dtype).removeprefix("torch."),
            "device": self.device.type,
            **{name: version(name) for name in LIBRARIES},
        }

    def respond(
        self, requests: Sequence[Instance], sides: Sequence[Side]
    ) -> dict[Side, list[Response]]:
        """Each side's answers, in the order of the requests; see `engines.Engine`."""
        answers: dict[Side, dict[int, Response]] = {side: {} for side in sides}
        with quiet(), _explained(requests):
            for kind in sorted({request.request_type for request in requests}):
                places = [i for i, r in enumerate(requests) if r.request_type == kind]
                part = self._of_kind(kind, [requests[i] for i in places], sides)
                for side in sides:
                    answers[side].update(zip(places, part[side], strict=True))
        whole: dict[Side, list[Response]] = {
            side: [answers[side][index] for index in range(len(requests))] for side in sides
        }
        check_answers(requests, whole)
        return whole

    def _of_kind(
        self, kind: str, requests: list[Instance], sides: Sequence[Side]
    ) -> Mapping[Side, Sequence[Response]]:
        if kind == "loglikelihood":
            return self._likelihoods.loglikelihood(requests, sides)
        if kind == "loglikelihood_rolling":
            return self._likelihoods.loglikelihood_rolling(requests, sides)
        if kind == "generate_until":
            return generate(self.stacked, self.lm, requests, sides, self.limit)
        raise InputError(
            f"lm-eval's request type {kind} is not for text models; the task cannot run."
        )

    def _check_effect(
        self, folders: Mapping[Side, Path | None], plain: torch.Tensor, *, repeatable: bool
    ) -> None:
        """A challenger without effect is a defect, not a tie; one that gives NaN cannot be scored.

        plain: the base's logits from before the adapters; repeatable: bit for bit.
        """
        probe = probe_tokens(self.stacked.model, 2, PROBE_TOKENS)
        with torch.inference_mode():
            now = self.stacked.bare_logits(probe)
            if not (torch.equal(now, plain) if repeatable else close(plain, now)):
                raise AdapterError(
                    f"{_named(folders)}: the base model gives other logits than before they were "
                    "loaded, so one of them changes the base under the other. Train it as plain "
                    "LoRA, or without what the adapters have beyond it (see adapter_config.json)."
                )
            for side, folder in folders.items():
                if folder is None:
                    continue
                with self.stacked.rows((side,), (2,)):
                    logits = self.stacked.model(probe).logits
                if not bool(torch.isfinite(logits).all()):
                    raise AdapterError(f"{side} {folder}: the model's logits are NaN with it.")
                if side == "challenger" and torch.equal(logits, plain):
                    raise AdapterError(
                        f"{side} {folder} changes nothing: the model's logits with it are those of "
                        "the base model. Its weights fit no module, or are too small to matter."
                    )


def _named(folders: Mapping[Side, Path | None]) -> str:
    return ", ".join(f"{side} {folder}" for side, folder in folders.items() if folder is not None)


def _base_logits(bare: Any) -> tuple[torch.Tensor, bool]:
    """Of the probe, and whether the device computes them the same twice. Raises InputError for NaN."""
    probe = probe_tokens(bare, 2, PROBE_TOKENS)
    with torch.inference_mode():
        first, second = (bare(probe, use_cache=False).logits for _ in range(2))
    if not bool(torch.isfinite(first).all()):
        raise InputError(
            "the base model's logits are NaN or infinite. Its weights are broken, or its numbers do "
            "not fit base_model.dtype."
        )
    return first, torch.equal(first, second)


def load_tokenizer(base: BaseModelFolder, config: BaseModelConfig) -> PreTrainedTokenizerBase:
    """With the config's chat template. Raises InputError or ConfigError."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"base model {base.repo}: its tokenizer cannot be loaded: {error}"
        ) from None
    if config.chat_template is not None:
        try:
            tokenizer.chat_template = config.chat_template.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"base_model.chat_template: {config.chat_template}: {error}"
            ) from None
    return tokenizer


def check_vocabulary(
    base: BaseModelFolder,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    adapters: Mapping[Side, Path | None],
) -> None:
    """lm-eval would resize the embeddings without a word, and compare two other models."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"base model {base.repo}: its tokenizer has {len(tokenizer)} tokens, its embeddings only "
            f"{rows}."
        )
    for side, folder in adapters.items():
        if folder is None or not (folder / "tokenizer_config.json").is_file():
            continue
        own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if own.get_vocab() != tokenizer.get_vocab():
            raise AdapterError(
                f"{side} {folder}: its tokenizer has another vocabulary ({len(own)} tokens) than the "
                f"base model's ({len(tokenizer)})."
            )


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_base(base: BaseModelFolder, config: BaseModelConfig, device: torch.device) -> Any:
    # Half precision is slow on CPU, and its rounding differs between batch shapes.
    dtype = "float32" if device.type == "cpu" else config.dtype
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise InputError(f"base model {base.repo} cannot be loaded: {error}") from None
    return model.to(device).eval()


def _with_adapters(
    model: Any, folders: Mapping[Side, Path | None], device: torch.device
) -> PeftModel | Any:
    """PEFT loads and validates each adapter under its side's name; bare where there is none."""
    peft_model: PeftModel | None = None
    # All before the first: PEFT renames the base's modules.
    copies = {s: base_copies(s, f, model) for s, f in folders.items() if f is not None}
    for side, folder in folders.items():
        if folder is None:
            continue
        before = _versions(model)
        # Weights go to the CPU first: PEFT would else take whatever accelerator it finds.
        try:
            if peft_model is None:
                config = LoraConfig.from_pretrained(str(folder), local_files_only=True)
                config.inference_mode = True
                peft_model = PeftModel(model, config, adapter_name=side)
            with _without(folder, copies[side]) as own:
                loaded = peft_model.load_adapter(str(own), side, torch_device="cpu")
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            if out_of_memory(error):
                raise
            said = str(error).strip() or type(error).__name__
            raise AdapterError(
                f"{side} {folder} does not fit the base model, or PEFT cannot load it beside the "
                f"other adapters: {said.splitlines()[-1]}"
            ) from error
        if loaded.unexpected_keys or loaded.missing_keys:
            keys = [*loaded.unexpected_keys, *loaded.missing_keys]
            raise AdapterError(
                f"{side} {folder} does not fit the base model: {len(keys)} weights have no place or "
                f"are missing, such as {keys[0]}.{_beside(peft_model, side)}"
            )
        if changed := [name for name, state in before.items() if _version(state[0]) != state]:
            raise AdapterError(
                f"{side} {folder} writes to {changed[0]}, which is the base model's or another "
                "adapter's. Save it anew with PEFT's save_pretrained."
            )
    return model if peft_model is None else peft_model.to(device).eval()


def _beside(peft_model: PeftModel, side: Side) -> str:
    """PEFT can load some adapters only as the first; ensure_weight_tying, for one."""
    others = [name for name in peft_model.peft_config if name != side]
    if not others:
        return ""
    return (
        f" Or PEFT cannot load it beside the {others[0]}'s adapter, as where both have "
        "ensure_weight_tying: train it without."
    )


def _versions(model: Any) -> dict[str, tuple[Any, ...]]:
    """Of every weight so far; PEFT keeps the tensors themselves, however it names them."""
    return {name: _version(parameter) for name, parameter in model.named_parameters()}


def _version(parameter: Any) -> tuple[Any, ...]:
    # Torch counts every write to a tensor.
    return parameter, parameter.data_ptr(), parameter._version


@contextmanager
def _without(folder: Path, keys: Sequence[str]) -> Iterator[Path]:
    """The adapter's folder without some of its weights: PEFT loads all that it finds a place for."""
    if not keys:
        yield folder
        return
    with tempfile.TemporaryDirectory() as name:
        own = Path(name)
        shutil.copy(folder / "adapter_config.json", own)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            kept = [key for key in file.keys() if key not in keys]  # noqa: SIM118 (no mapping)
            weights = {key: file.get_tensor(key) for key in kept}
        save_file(weights, own / "adapter_model.safetensors", metadata={"format": "pt"})
        yield own


def _lm_eval_model(model: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    hflm: Any = HFLM  # the registering decorator hides its signature from type checkers
    lm = hflm(pretrained=model, tokenizer=tokenizer, batch_size=1)
    # lm-eval encodes a context again for each of its continuations.
    encode = functools.lru_cache(maxsize=256)(lm.tok_encode)
    lm.tok_encode = lambda *args, **kwargs: list(encode(*args, **kwargs))
    return lm


@contextmanager
def _explained(requests: Sequence[Instance]) -> Iterator[None]:
    names = ", ".join(sorted({str(request.task_name) for request in requests}))
    try:
        yield
    except AssertionError as error:
        # How lm-eval refuses, for instance, a choice longer than the context.
        raise InputError(
            f"task {names}: lm-eval cannot run it on this model: {error or 'a request is too long'}"
        ) from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise StepFailedError(
            f"task {names}: the device ran out of memory. Set evaluate.batch_size lower. {error}"
        ) from error
