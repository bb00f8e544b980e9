"""The `configs` in a dataset's README.md, which say what its files are.

https://huggingface.co/docs/datasets/repository_structure. A README is written by whoever may push
to the dataset, so it is read with care: bounded, no aliases (a few hundred bytes of nested ones
become gigabytes), and its patterns only ever select among the files that were listed.
"""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ct_llm.cycle_dir import write_atomically
from ct_llm.digests import fingerprint
from ct_llm.errors import DataError, StorageError

README = "README.md"
README_BYTES = 1 << 20
"""No more of a README is read: its YAML stands at the beginning."""

_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)

_NOTHING = ("", "~", "null")


class ReadmeConfig(NamedTuple):
    name: str
    is_default: bool
    folder: str
    """`data_dir`; "" for the root."""
    splits: dict[str, list[str]]
    """Split to globs below `folder`; empty where the README leaves it to the files' names."""


def readme_configs(
    place: str, cache: Path, content_id: str, read: Callable[[], bytes]
) -> list[ReadmeConfig]:
    """The README's configs, in its order; none where it has none.

    Read and parsed once for each content. Raises DataError when the YAML is damaged, and what
    `read` raises.
    """
    known = cache / "readme" / f"{fingerprint(content_id)}.json"
    # A cache that is damaged or not there is no more than one reading more.
    with suppress(OSError, ValueError, TypeError):
        return [ReadmeConfig(*values) for values in json.loads(known.read_text("utf-8"))]
    try:
        configs = parse_configs(read().decode("utf-8", "replace"))
    except ValueError as error:
        raise DataError(
            f"{place}: the YAML at the top of {README} cannot be read ({error}), so it is not known "
            "which files are for training. Mend it, or set this dataset's `split: all`."
        ) from error
    with suppress(StorageError):
        write_atomically(known, json.dumps(configs).encode())
    return configs


def parse_configs(readme: str) -> list[ReadmeConfig]:
    """Raises ValueError when there is YAML, but not as it should be."""
    front = _FRONT_MATTER.search(readme)
    if front is None:
        if len(readme) >= README_BYTES and re.match(r"\ufeff?---\s", readme):
            raise ValueError(f"it does not end within {README_BYTES:,} bytes")
        return []
    try:
        card = yaml.load(front[1], _ReadmeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    configs = card.get("configs") if isinstance(card, dict) else None
    if configs is None:
        return []
    if not isinstance(configs, list):
        raise ValueError("`configs` is no list")
    return [_config(config) for config in configs]


class _ReadmeLoader(yaml.BaseLoader):
    # Everything stays text: a number of a million digits is not computed.

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


def _config(config: Any) -> ReadmeConfig:
    if not isinstance(config, dict) or "config_name" not in config:
        raise ValueError("an entry of `configs` has no `config_name`")
    name = _text(config["config_name"])
    return ReadmeConfig(
        name,
        is_default=name == "default" or _text(config.get("default")).lower() == "true",
        folder=_text(config.get("data_dir")),
        splits=_splits(name, config.get("data_files")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) and value not in _NOTHING else ""


def _splits(config: str, data_files: Any) -> dict[str, list[str]]:
    """A glob, a list of them, or a list of {split, path}, where `path` is again one or many."""
    if data_files is None or data_files in _NOTHING:
        return {}
    entries = data_files if isinstance(data_files, list) else [data_files]
    splits: dict[str, list[str]] = {}
    for entry in entries:
        if isinstance(entry, dict):
            split, path = entry.get("split"), entry.get("path")
        else:
            split, path = "train", entry
        paths: list[Any] = path if isinstance(path, list) else [path]
        if not isinstance(split, str) or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"`data_files` of the config {config!r} has an entry that is no file")
        splits.setdefault(split, []).extend(paths)
    return splits
