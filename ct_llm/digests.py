"""Identities: of bytes, of records, of adapters. Never of paths, hosts, tokens or executors."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ct_llm.errors import AdapterError
from ct_llm.records import OrderedItem

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


def random_order(items: Sequence[OrderedItem], *, order_seed: int) -> list[OrderedItem]:
    """One random permutation of all items of all slices, from their identities alone.

    Items are sorted by sha256 of the seed, the whole set of items and the item, so the order is the
    same on every machine and with every version of every library, whatever order they came in. No
    score has been seen by then, which the gate's statistics rest on.
    """
    named = [f"{item.slice}\0{item.item_id}" for item in items]
    whole = hashlib.sha256("\0".join(sorted(named)).encode()).hexdigest()

    def key(position: int) -> bytes:
        return hashlib.sha256(f"{order_seed}\0{whole}\0{named[position]}".encode()).digest()

    return [items[position] for position in sorted(range(len(items)), key=key)]
