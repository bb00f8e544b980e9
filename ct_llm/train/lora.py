"""LoRA adapters: made, continued, saved and checked.

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685; rsLoRA: Kalajdzievski 2023,
https://arxiv.org/abs/2312.03732.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ct_llm.config import LoraConfig
from ct_llm.digests import ADAPTER_FILES, adapter_digest
from ct_llm.errors import AdapterError, ConfigError, SecurityError

_COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIG_FILE, WEIGHTS_FILE = ADAPTER_FILES


def attach_fresh(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """A new adapter on the base model: A random, B zero. Raises ConfigError when nothing matches."""
    lora = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        use_rslora=config.use_rslora,
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        attached = get_peft_model(model, lora)
    except ValueError as error:
        raise ConfigError(f"train.lora: PEFT cannot put an adapter there: {error}") from error
    assert isinstance(attached, PeftModel)
    return attached


def attach_champion(
    model: PreTrainedModel, folder: Path, config: LoraConfig, base_repo: str, base_revision: str
) -> PeftModel:
    """The champion's adapter, ready to be trained further.

    Raises AdapterError when it is broken or sits on another base, ConfigError when train.lora
    describes another one, SecurityError when its weights are pickled.
    """
    check_champion(folder, config, base_repo, base_revision)
    try:
        attached = PeftModel.from_pretrained(model, folder, is_trainable=True, use_safetensors=True)
    # PEFT raises whatever torch and safetensors raise: shapes that differ, keys, cut files.
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise AdapterError(
            f"the champion's adapter in {folder} does not fit the base model {base_repo}: {error}"
        ) from error
    # Where PEFT looks for the vocabulary's size at each save; its Hub id would send it to the Hub.
    attached.peft_config["default"].base_model_name_or_path = model.name_or_path
    return attached


def check_champion(folder: Path, config: LoraConfig, base_repo: str, base_revision: str) -> None:
    if not (folder / WEIGHTS_FILE).is_file() and (folder / "adapter_model.bin").is_file():
        raise SecurityError(
            f"{folder} holds its weights as a pickle (adapter_model.bin), which can run code. Save "
            "it again with PEFT's save_pretrained, which writes safetensors."
        )
    adapter_digest(folder)  # raises AdapterError when a file is missing
    try:
        stored = json.loads((folder / CONFIG_FILE).read_bytes())
        name, revision = stored["base_model_name_or_path"], stored.get("revision")
        shape = {key: stored[key] for key in ("r", "lora_alpha", "lora_dropout")}
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"{folder / CONFIG_FILE} does not describe an adapter: {error}"
        ) from None
    if stored.get("peft_type") != "LORA":
        raise AdapterError(
            f"{folder} is a {stored.get('peft_type')} adapter; only LoRA can be continued."
        )
    same_revision = revision in (None, base_revision) or not _COMMIT.fullmatch(base_revision)
    if name != base_repo or not same_revision:
        raise AdapterError(
            f"the champion's adapter was made for base model {name} at {revision}, but base_model "
            f"is {base_repo} at {base_revision}. Pin base_model to the champion's, or start anew "
            "with train.start_from: fresh."
        )
    shape["use_rslora"] = stored.get("use_rslora", False)
    wanted = {
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.use_rslora,
    }
    if shape != wanted:
        raise ConfigError(
            f"train.start_from is champion, whose adapter has {_listed(shape)}, but train.lora says "
            f"{_listed(wanted)}. Make them equal, or start anew with train.start_from: fresh."
        )


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


# ---------------------------------------------------------------- saving


def write_adapter_config(saved: Path, target: Path, base_repo: str, base_revision: str) -> None:
    """PEFT's own file, with the base model named as everybody knows it and in one order.

    PEFT writes the path that the base was loaded from, `revision: null`, and the target modules in
    the order of a set, which differs from run to run and would change the digest.
    """
    stored = json.loads((saved / CONFIG_FILE).read_bytes())
    stored["base_model_name_or_path"] = base_repo
    stored["revision"] = base_revision if _COMMIT.fullmatch(base_revision) else None
    if isinstance(stored["target_modules"], list):
        stored["target_modules"].sort()
    text = json.dumps(stored, indent=2, sort_keys=True)
    (target / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def check_saved_adapter(folder: Path, model: PeftModel) -> None:
    """Raises AdapterError unless the saved weights are those of `model`: whole, finite, not empty.

    Under ZeRO-3 users got adapters of zeros or without tensors (trl 4416, peft 1402).
    """
    try:
        saved = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{folder / WEIGHTS_FILE} cannot be read: {error}") from error
    expected = {name: tensor.shape for name, tensor in get_peft_model_state_dict(model).items()}
    wrong = sorted(
        name
        for name in expected.keys() | saved.keys()
        if name not in saved or name not in expected or saved[name].shape != expected[name]
    )
    if wrong:
        raise AdapterError(
            f"the saved adapter is not the one that was trained: {len(wrong)} tensors are missing "
            f"or of another shape, among them {wrong[0]}."
        )
    broken = sorted(name for name, tensor in saved.items() if not torch.isfinite(tensor).all())
    if broken:
        raise AdapterError(
            f"training broke the adapter: {len(broken)} tensors hold NaN or infinity, among them "
            f"{broken[0]}. Lower train.learning_rate."
        )
    if not any(tensor.any() for name, tensor in saved.items() if "lora_B" in name):
        raise AdapterError(
            "the saved adapter is empty: every lora_B is zero, so it changes nothing. Nothing was "
            "learned, or the launcher's configuration does not gather the weights."
        )
