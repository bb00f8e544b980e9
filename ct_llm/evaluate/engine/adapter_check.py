"""Adapters that cannot be what they claim are refused before a model is loaded."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ct_llm.errors import AdapterError
from ct_llm.hub.client import BaseModelFolder

CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations by which PEFT alters the base weights while loading, under the other adapter too."""
LORA_KEY = re.compile(r"\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\.weight|\.bias)?$")
"""PEFT gives these a place of the adapter's own, whatever stands before."""
TOKENS_KEY = ".token_adapter.trainable_tokens_delta"
INSIDE_PEFT = {"base_layer", "original_module", "modules_to_save", "token_adapter"}
"""Parts of a module as PEFT wraps it; a key with one would reach the base or the other adapters."""
EMBEDDINGS = re.compile(r"(^|\.)([^.]*embed[^.]*|lm_head|wte)(\.base_layer)?\.(weight|bias)$")
"""What PEFT saves of the base besides the adapter, when embeddings or output layer have a LoRA."""


def check_adapter(role: str, folder: Path, base: BaseModelFolder) -> None:
    """Raises AdapterError unless `folder` holds a LoRA adapter of `base` with finite, nonzero weights.

    Where the file holds weights of the base as well, `base_copies` compares them with the model.
    """
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
    _check_weights(role, folder, config)


def base_copies(role: str, folder: Path, model: Any) -> list[str]:
    """Keys of the adapter's file that are copies of the base's embeddings; not to be loaded.

    model: the base. Raises AdapterError for one that differs: PEFT would load it into the base that
    all adapters share, and a copy left out would be another adapter than was trained.
    """
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = {id(p) for layer in layers if layer is not None for p in layer.parameters()}
    # Under every name: tied weights have two.
    known = {n: p for n, p in model.named_parameters(remove_duplicate=False) if id(p) in own}
    config = _read_config(role, folder)
    copies: list[str] = []
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (no mapping)
            if _is_own(key, config):
                continue
            name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
            if name not in known or not _equal(file.get_tensor(key), known[name]):
                raise AdapterError(_changes_the_base(role, folder, key))
            copies.append(key)
    return copies


def _equal(saved: Any, own: Any) -> bool:
    """Bit for bit, in the precision of either: training may have had another than this run."""
    own = own.detach().cpu()
    if saved.shape != own.shape or not (saved.is_floating_point() and own.is_floating_point()):
        return False
    return torch.equal(saved.to(own.dtype), own) or torch.equal(saved, own.to(saved.dtype))


def _is_own(key: str, config: dict[str, Any]) -> bool:
    """Whether PEFT saves this key as a part of the adapter, and loads it as one."""
    if LORA_KEY.search(key):
        return True
    if key.endswith(TOKENS_KEY):
        return bool(config.get("trainable_token_indices"))
    parts = key.split(".")
    if INSIDE_PEFT & set(parts) or any(part.startswith("lora_") for part in parts):
        return False
    # PEFT takes a module whose name ends so, as a whole.
    whole = [str(name) for name in config.get("modules_to_save") or [] if name]
    if any(f"{name}." in key for name in whole):
        return True
    # And, if asked to, the other one of tied embeddings and output layer with it.
    tied = bool(config.get("ensure_weight_tying")) and bool(EMBEDDINGS.search(key))
    return tied and any(EMBEDDINGS.search(f"{name}.weight") for name in whole)


def _changes_the_base(role: str, folder: Path, key: str) -> str:
    return (
        f"{role} {folder}: {key} is a weight of the base model, with other values than the base's or "
        "not of its embeddings. It would change the base under every adapter. Save the adapter with "
        "PEFT's save_pretrained(..., save_embedding_layers=False), or train the module by "
        "modules_to_save."
    )


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


def _check_weights(role: str, folder: Path, config: dict[str, Any]) -> None:
    path = folder / "adapter_model.safetensors"
    changes_something = False
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                own = _is_own(name, config)
                if not own and not EMBEDDINGS.search(name):
                    raise AdapterError(_changes_the_base(role, folder, name))
                tensor = file.get_tensor(name)
                if not bool(torch.isfinite(tensor).all()):
                    raise AdapterError(
                        f"{role} {folder}: {name} holds NaN or infinite values; its training "
                        "diverged. Lower train.learning_rate or look at the loss curve."
                    )
                # A LoRA's effect is B times A, and A alone is random from the start.
                if own and "lora_A" not in name and "lora_embedding_A" not in name:
                    changes_something |= bool(tensor.any())
    except (SafetensorError, FileNotFoundError) as error:
        raise AdapterError(f"{role} {path} cannot be read: {error}") from None
    if not changes_something:
        raise AdapterError(
            f"{role} {folder}: every weight is zero, so it is the base model unchanged. Nothing was "
            "trained."
        )
