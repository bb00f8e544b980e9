"""The frozen anchor: an earlier champion that slow loss over many promotions is measured against."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ct_llm.digests import adapter_digest
from ct_llm.errors import ConfigError, InputError
from ct_llm.hub.adapter_repo import download_adapter, read_lineage, read_versions
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import ChampionRef

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class Anchor(NamedTuple):
    version: int
    revision: str
    folder: Path


def find_anchor(
    api: "HfApi", name: str | None, champion: ChampionRef | None, base: BaseModelFolder
) -> Anchor | None:
    """The version that `gate.anchor` names: `first` (the oldest), `vN`, or none.

    None too where there is no champion, where there is one version, and where the champion is that
    very adapter, by its digest: after a rollback it may be under another number. Raises ConfigError
    for a version that is not there, InputError for one of another base model, HubAccessError,
    HubUnavailableError.
    """
    if name is None or champion is None:
        return None
    versions = read_versions(api, champion.repo)
    if name != "first" and not _is_version(name, versions):
        listed = ", ".join(f"v{number}" for number in sorted(versions)) or "none"
        raise ConfigError(
            f"gate.anchor: {name!r} is no version of {champion.repo}. Versions: {listed}; or "
            "`first`, or null for no such guard."
        )
    # With one version, that is the champion.
    if len(versions) < 2:
        return None
    number = min(versions) if name == "first" else int(name[1:])
    revision = versions[number]
    lineage = read_lineage(api, champion.repo, revision)
    current = champion.lineage.adapter_digest if champion.lineage else None
    if revision == champion.revision or lineage.adapter_digest == current:
        return None
    if lineage.base_revision != base.revision:
        raise InputError(
            f"gate.anchor: v{number} sits on base model {lineage.base_model} at "
            f"{lineage.base_revision}, and cannot be compared on {base.revision}. Name a version "
            "of this base, or null for no such guard."
        )
    folder = download_adapter(api, champion.repo, revision)
    if current is None:
        # Somebody put it there by other means, so only its bytes say what it is.
        current = adapter_digest(download_adapter(api, champion.repo, champion.revision))
    return None if lineage.adapter_digest == current else Anchor(number, revision, folder)


def _is_version(name: str, versions: Mapping[int, str]) -> bool:
    return name[:1] == "v" and name[1:].isdecimal() and int(name[1:]) in versions
