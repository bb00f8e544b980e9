"""Identities: of bytes, of records, of adapters. Never of paths, hosts, tokens or executors."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ct_llm.errors import AdapterError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """sha256 of the canonical JSON (sorted keys, no spaces) of records, dicts, lists and scalars."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no fingerprint")


def adapter_digest(folder: Path) -> str:
    """The identity of an adapter: over the bytes of its configuration and its weights.

    The same digest is asked of the folder that was evaluated, of what is uploaded and of what the
    Hub gives back.
    """
    missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
    if missing:
        raise AdapterError(
            f"{folder} is not a PEFT adapter: {' and '.join(missing)} missing. "
            "Point at a folder written by PeftModel.save_pretrained with safetensors."
        )
    return fingerprint({name: file_sha256(folder / name) for name in ADAPTER_FILES})
