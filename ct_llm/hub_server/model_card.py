"""The YAML front matter of a README.md: checked before a commit, read for listings."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

import yaml

_FRONT_MATTER = re.compile(
    r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*$", re.DOTALL | re.MULTILINE
)


class CardError(Exception):
    """The front matter is not a YAML mapping."""


class _CardLoader(yaml.SafeLoader):
    """Refuses aliases: a few hundred bytes of nested ones become gigabytes of JSON."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


@lru_cache(maxsize=256)
def parse_card(readme: str) -> dict[str, Any]:
    """The metadata of a README, as JSON can hold it; empty when it has no front matter.

    The result is shared between calls: do not change it.

    Raises:
        CardError: there is front matter, but it cannot be read.
    """
    match = _FRONT_MATTER.search(readme)
    if match is None:
        return {}
    try:
        data = yaml.load(match[1], _CardLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: something that looks like a date but is none, such as 2026-13-45.
        raise CardError(f"Front matter is not valid YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise CardError(f"Front matter must be a mapping, not a {type(data).__name__}.")
    try:
        # YAML has dates, sets and numbers as keys; the Hub answers in JSON.
        return json.loads(json.dumps(data, default=str))
    except (TypeError, RecursionError) as error:
        raise CardError(f"Front matter cannot be written as JSON: {error}") from error


def card_tags(card: dict[str, Any]) -> list[str]:
    """The tags that the Hub derives from a card, such as `license:mit` or `base_model:org/name`."""
    tags = [*_strings(card.get("tags"))]
    for key in ("library_name", "pipeline_tag"):
        tags += _strings(card.get(key))
    tags += _strings(card.get("language"))
    tags += [f"license:{value}" for value in _strings(card.get("license"))]
    tags += [f"dataset:{value}" for value in _strings(card.get("datasets"))]
    relation = card.get("base_model_relation")
    for base in _strings(card.get("base_model")):
        tags.append(f"base_model:{base}")
        if isinstance(relation, str):
            tags.append(f"base_model:{relation}:{base}")
    return list(dict.fromkeys(tags))


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str)]
    return []
