"""Adapters that cannot be what they claim are refused before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ct_llm.errors import AdapterError
from ct_llm.hub.client import BaseModelFolder

CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations by which PEFT alters the base weights while loading, under the other adapter too."""


def check_adapter(role: str, folder: Path, base: BaseModelFolder) -> None:
    """Raises AdapterError unless `folder` holds a LoRA adapter of `base` with finite, nonzero weights."""
    config = _read_config(role, folder)
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise AdapterError(
            f"{role} {folder}: peft_type is {kind or 'missing'}; only LORA is taken."
        )
    made_for = config.get("base_model_name_or_path")
    if made_for and not _same_base(str(made_for), base):
        raise AdapterError(
            f"{role} {folder} was made for base model {made_for!r}, not for {base.repo!r}. Adapters "
            "are only compared on the base they were trained on."
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(CHANGES_THE_BASE):
        raise AdapterError(
            f"{role} {folder}: init_lora_weights is {start!r}, which changes the base model while "
            "loading. Save it as plain LoRA (save_pretrained with path_initial_model_for_weight_"
            "conversion) first."
        )
    for key in ("bias", "layer_replication"):
        value = config.get(key)
        if value not in (None, "none", []):
            raise AdapterError(
                f"{role} {folder}: {key} is {value!r}, which changes the base model itself, under the "
                "other adapter too. Train it without."
            )
    _check_weights(role, folder)


def _read_config(role: str, folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(
            f"{role} {folder} is not a PEFT adapter: no adapter_config.json."
        ) from None
    except ValueError as error:
        raise AdapterError(f"{role} {path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{role} {path}: expected keys and values at the top.")
    return config


def _same_base(name: str, base: BaseModelFolder) -> bool:
    """A Hub id must be equal; of a path, trained elsewhere perhaps, the last part counts."""
    if name in (base.repo, str(base.folder)):
        return True
    looks_like_path = name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).is_dir()
    return looks_like_path and Path(name).name in (base.folder.name, base.repo.split("/")[-1])


def _check_weights(role: str, folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    changes_something = False
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(name)
                if not bool(torch.isfinite(tensor).all()):
                    raise AdapterError(
                        f"{role} {folder}: {name} holds NaN or infinite values; its training "
                        "diverged. Lower train.learning_rate or look at the loss curve."
                    )
                # A LoRA's effect is B times A, and A alone is random from the start.
                if "lora_A" not in name and "lora_embedding_A" not in name:
                    changes_something |= bool(tensor.any())
    except (SafetensorError, FileNotFoundError) as error:
        raise AdapterError(f"{role} {path} cannot be read: {error}") from None
    if not changes_something:
        raise AdapterError(
            f"{role} {folder}: every weight is zero, so it is the base model unchanged. Nothing was "
            "trained."
        )
