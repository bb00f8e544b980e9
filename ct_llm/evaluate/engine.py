"""Champion and challenger on one base model in memory, scored by lm-eval item for item."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lm_eval.evaluator
import torch
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from ct_llm.config import BaseModelConfig
from ct_llm.errors import AdapterError, ConfigError, InputError, StepFailedError
from ct_llm.evaluate.adapter_check import check_adapter
from ct_llm.evaluate.quiet import quiet
from ct_llm.evaluate.samples import Sample
from ct_llm.evaluate.tasks import EvalTask
from ct_llm.hub.client import BaseModelFolder

Side = Literal["champion", "challenger"]
SIDES: tuple[Side, Side] = ("champion", "challenger")
PROBE_TOKENS = 64


class PairEngine:
    """The base model loaded once, with both adapters on it by name.

    `champion=None`: the base model itself is the champion. Raises AdapterError for adapters of
    another base, broken or without effect, and InputError for a base whose tokenizer does not fit.
    """

    def __init__(
        self,
        base: BaseModelFolder,
        base_config: BaseModelConfig,
        *,
        challenger: Path,
        champion: Path | None,
        device: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        self.folders: dict[Side, Path] = {"challenger": challenger}
        if champion is not None:
            self.folders["champion"] = champion
        for role, folder in self.folders.items():
            check_adapter(role, folder, base)
        with quiet():
            self.device = _device(device)
            self.tokenizer = _load_tokenizer(base, base_config)
            bare = _load_base(base, base_config, self.device)
            _check_vocabulary(base, bare, self.tokenizer, self.folders)
            self.model = _with_adapters(bare, self.folders, self.device)
            self._check_effect()
            self.lm = _lm_eval_model(self.model, self.tokenizer, batch_size)

    @classmethod
    def load(
        cls, base: BaseModelFolder, base_config: BaseModelConfig, **settings: Any
    ) -> "PairEngine":
        """As the constructor; a device without room for the model is a StepFailedError."""
        try:
            return cls(base, base_config, **settings)
        except torch.OutOfMemoryError as error:
            raise StepFailedError(
                f"the device has no room for base model {base.repo}: {error}. Free it, take a larger "
                "one, or set base_model.dtype: bfloat16."
            ) from error

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return self.lm.max_length

    def check(self, task: EvalTask) -> None:
        """Raises InputError for a task that this model cannot run, before anything is scored."""
        if task.apply_chat_template and not self.tokenizer.chat_template:
            raise InputError(
                f"task {task.name}: the base model's tokenizer has no chat template. Set "
                "base_model.chat_template, or apply_chat_template: false in the suite."
            )
        room = task.max_new_tokens(self.lm.max_gen_toks)
        if room is not None and room >= self.max_length:
            raise InputError(
                f"task {task.name} generates up to {room} tokens, but the model's context holds "
                f"{self.max_length}. Lower max_gen_toks in the task's generation_kwargs."
            )

    def score(self, task: EvalTask, side: Side) -> list[Sample]:
        """lm-eval's samples of one task for one adapter, one for each item and filter."""
        task.seed()
        with quiet(), self._active(side), _explained(task):
            results = lm_eval.evaluator.evaluate(
                self.lm,
                {"tasks": {task.name: task.task}},
                limit=task.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=task.apply_chat_template,
                fewshot_as_multiturn=task.apply_chat_template,
            )
        assert results is not None and "samples" in results  # one process: always rank 0
        return results["samples"][task.name]

    @contextmanager
    def _active(self, side: Side) -> Iterator[None]:
        if side not in self.folders:
            with self.model.disable_adapter():
                yield
        else:
            self.model.set_adapter(side, inference_mode=True)
            yield

    def _check_effect(self) -> None:
        """A challenger without effect is a defect, not a tie; one that gives NaN cannot be scored."""
        vocabulary = len(self.tokenizer)
        probe = torch.arange(2 * PROBE_TOKENS, device=self.device).reshape(2, PROBE_TOKENS)
        probe = probe * 7919 % vocabulary
        with torch.inference_mode():
            with self.model.disable_adapter():
                plain = self.model(probe).logits
            for side, folder in self.folders.items():
                with self._active(side):
                    logits = self.model(probe).logits
                if not bool(torch.isfinite(logits).all()):
                    raise AdapterError(f"{side} {folder}: the model's logits are NaN with it.")
                if side == "challenger" and torch.equal(logits, plain):
                    raise AdapterError(
                        f"{side} {folder} changes nothing: the model's logits with it are those of "
                        "the base model. Its weights fit no module, or are too small to matter."
                    )


def _device(name: str) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load_tokenizer(base: BaseModelFolder, config: BaseModelConfig) -> PreTrainedTokenizerBase:
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


def _lm_eval_model(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, batch_size: int | Literal["auto"]
) -> Any:
    hflm: Any = HFLM  # the registering decorator hides its signature from type checkers
    return hflm(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=_batch_size(batch_size, model, model.device),
    )


def _check_vocabulary(
    base: BaseModelFolder,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    adapters: dict[Side, Path],
) -> None:
    """lm-eval would resize the embeddings without a word, and compare two other models."""
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise InputError(
            f"base model {base.repo}: its tokenizer has {len(tokenizer)} tokens, its embeddings only "
            f"{rows}."
        )
    for side, folder in adapters.items():
        if not (folder / "tokenizer_config.json").is_file():
            continue
        own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if own.get_vocab() != tokenizer.get_vocab():
            raise AdapterError(
                f"{side} {folder}: its tokenizer has another vocabulary ({len(own)} tokens) than the "
                f"base model's ({len(tokenizer)})."
            )


def _with_adapters(model: Any, folders: dict[Side, Path], device: torch.device) -> PeftModel:
    peft_model: PeftModel | None = None
    for side, folder in folders.items():
        # Weights go to the CPU first: PEFT would else take whatever accelerator it finds.
        try:
            if peft_model is None:
                config = LoraConfig.from_pretrained(str(folder), local_files_only=True)
                config.inference_mode = True
                peft_model = PeftModel(model, config, adapter_name=side)
            loaded = peft_model.load_adapter(str(folder), side, torch_device="cpu")
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise AdapterError(
                f"{side} {folder} does not fit the base model: {str(error).strip().splitlines()[-1]}"
            ) from error
        if loaded.unexpected_keys or loaded.missing_keys:
            keys = [*loaded.unexpected_keys, *loaded.missing_keys]
            raise AdapterError(
                f"{side} {folder} does not fit the base model: {len(keys)} weights have no place or "
                f"are missing, such as {keys[0]}."
            )
    assert peft_model is not None
    return peft_model.to(device).eval()


def _batch_size(
    wanted: int | Literal["auto"], model: torch.nn.Module, device: torch.device
) -> int | str:
    """lm-eval's own search on accelerators; on CPU, where it would try full contexts, by size.

    Measured on two cores: 64 is 4.5 times as fast as 8 for a model of 0.85 M parameters, while
    large models gain nothing and need memory.
    """
    if wanted != "auto":
        return wanted
    if device.type != "cpu":
        return "auto"
    parameters = sum(p.numel() for p in model.parameters())
    return 64 if parameters < 50e6 else 16 if parameters < 500e6 else 4


@contextmanager
def _explained(task: EvalTask) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise StepFailedError(
            f"task {task.name}: the device ran out of memory. Set evaluate.batch_size lower. {error}"
        ) from error
    except (
        AssertionError
    ) as error:  # how lm-eval refuses, for instance, a choice longer than the context
        raise InputError(
            f"task {task.name}: lm-eval cannot run it on this model: {error}"
        ) from error
