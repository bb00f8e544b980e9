"""From what people type to an adapter on this disk and the base model under it.

An adapter is named by a local folder, or by `owner/name` or `owner/name@revision` on the Hub;
`base` names the base model itself. What begins with `./`, `../`, `/` or `~`, or has more than one
slash, is no Hub repo, so a folder must be meant.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ct_llm.config import BaseModelConfig, HubConfig, validate
from ct_llm.digests import adapter_digest
from ct_llm.errors import AdapterError, InputError
from ct_llm.hub.client import hub_api
from ct_llm.records import Lineage

BASE = "base"
"""Names the base model itself; a folder of that name is `./base`."""
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class NamedAdapter:
    label: str
    """As it was named."""
    folder: Path | None = None
    """None: the base model itself. Likewise the digest."""
    digest: str | None = None
    repo: str | None = None
    """Set for an adapter on the Hub, with the commit's sha as its revision."""
    revision: str | None = None


@dataclass(frozen=True)
class _MadeFor:
    """The base model that an adapter names."""

    repo: str
    revision: str | None
    """None: it does not say."""

    def __str__(self) -> str:
        return f"{self.repo} at {self.revision}" if self.revision else self.repo


def find_adapter(name: Path | str | None, hub: HubConfig) -> NamedAdapter:
    """The adapter of that name, downloaded if it is on the Hub; None and `base`: the base itself.

    Raises InputError where the name is neither folder nor Hub repo, AdapterError where no adapter is
    there, HubNotFoundError, HubAccessError, HubUnavailableError.
    """
    if name is None or name == BASE:
        return NamedAdapter(BASE)
    label = str(name)
    path = _folder(label, is_path=isinstance(name, Path))
    if path is not None:
        return NamedAdapter(label, path, adapter_digest(path))
    repo, at, revision = label.partition("@")
    if repo.count("/") != 1 or not all(repo.split("/")) or (at and not revision):
        raise InputError(
            f"{label or 'an empty name'}: neither a folder here nor a Hub repo. Give a folder, owner/name, "
            f"owner/name@revision, or {BASE!r} for the base model itself."
        )
    from ct_llm.hub.adapter_repo import download_adapter
    from ct_llm.hub.client import resolve_revision

    api = hub_api(hub)
    sha = resolve_revision(api, repo, revision or "main", "model")
    folder = download_adapter(api, repo, sha)
    try:
        digest = adapter_digest(folder)
    except AdapterError:
        raise AdapterError(
            f"{label} holds no PEFT adapter (adapter_config.json, adapter_model.safetensors) at "
            f"{sha[:12]}. Check the name and the revision."
        ) from None
    return NamedAdapter(label, folder, digest, repo, sha)


def _folder(name: str, what: str = "", *, is_path: bool = False) -> Path | None:
    """The folder of that name; None: there is none, and the name may be a Hub repo's.

    Raises InputError where only a folder can be meant and there is none.
    """
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~somebody, whom this machine does not know
        path = Path(name)
    if name and path.is_dir():
        return path
    if name and (is_path or _can_only_be_a_folder(name)):
        found = "it is a file, not a folder" if path.exists() else "no such folder"
        raise InputError(
            f"{what}{name}: {found} (looked from {Path.cwd()}). Check the path; on the Hub, a repo is "
            "named owner/name or owner/name@revision."
        )
    return None


def _can_only_be_a_folder(name: str) -> bool:
    # A revision may hold slashes of its own: owner/name@refs/pr/1.
    repo = name.partition("@")[0]
    return name.startswith(("./", "../", "/", "~")) or repo.count("/") > 1


def base_of(
    adapters: Sequence[NamedAdapter],
    base_model: BaseModelConfig | str | None = None,
    chat_template: Path | None = None,
) -> BaseModelConfig:
    """The one base model under all of them, with the chat template that they are asked with.

    base_model: a Hub id, `id@revision`, a folder or a config, and goes before what the adapters say;
    chat_template likewise. Raises AdapterError where an adapter does not name its base, InputError
    where two name different bases or bring different templates, and where nothing names one.
    """
    loras = [adapter for adapter in adapters if adapter.folder is not None]
    config = base_model if isinstance(base_model, BaseModelConfig) else None
    if isinstance(base_model, str):
        config = _named_base(base_model)
    template = chat_template or (config.chat_template if config else None)
    if template is not None and not template.is_file():
        raise InputError(f"chat template {template}: no such file.")
    if config is None:
        config = _common_base(loras)
    return config.model_copy(update={"chat_template": template or _common_template(loras)})


def _named_base(name: str) -> BaseModelConfig:
    folder = _folder(name, "base model ")
    if folder is not None:
        return BaseModelConfig(repo=str(folder))
    repo, at, revision = name.partition("@")
    if not repo or (at and not revision):
        raise InputError(
            f"base model {name}: neither a folder here nor a Hub repo. Give a folder, owner/name or "
            "owner/name@revision."
        )
    return validate(BaseModelConfig, {"repo": repo, "revision": revision or "main"}, "base model")


def _common_base(adapters: Sequence[NamedAdapter]) -> BaseModelConfig:
    if not adapters:
        raise InputError(
            "no adapter names the base model, so it must be named: --base owner/name or a folder "
            "(base_model= in Python)."
        )
    named = [(adapter, _made_for(adapter)) for adapter in adapters]
    first, made_for = named[0]
    for adapter, other in named[1:]:
        revisions = {base.revision for base in (made_for, other) if base.revision}
        if other.repo != made_for.repo or len(revisions) > 1:
            raise InputError(
                f"{first.label} was trained on base model {made_for}, {adapter.label} on {other}. "
                f"Adapters are only compared on one base: {_what_to_do(made_for, other)}."
            )
        made_for = _MadeFor(made_for.repo, made_for.revision or other.revision)
    # A local base has no revision to be had: its files are what they are.
    return BaseModelConfig(repo=made_for.repo, revision=made_for.revision or "main")


def _what_to_do(first: _MadeFor, second: _MadeFor) -> str:
    """Naming the base helps only where the engine takes it for both, see `check_adapter`."""
    if first.repo == second.repo:
        return "to take one revision for both, name it with --base (base_model= in Python)"
    paths = any(_can_only_be_a_folder(base.repo) for base in (first, second))
    if paths and Path(first.repo).name == Path(second.repo).name:
        return "if these are the same model, name it with --base (base_model= in Python)"
    return "compare adapters that were trained on the same one"


def _made_for(adapter: NamedAdapter) -> _MadeFor:
    assert adapter.folder is not None
    lineage = adapter.folder / "ct" / "lineage.json"
    if lineage.is_file():
        try:
            known = Lineage.model_validate_json(lineage.read_bytes())
            return _MadeFor(known.base_model, known.base_revision)
        except ValidationError:
            pass  # written by another version; what PEFT has written says the same
    try:
        named = json.loads((adapter.folder / "adapter_config.json").read_text(encoding="utf-8"))
        repo, revision = named["base_model_name_or_path"], named.get("revision")
        if not isinstance(repo, str) or not repo or not isinstance(revision, str | None):
            raise TypeError(f"base_model_name_or_path is {repo!r}, revision {revision!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(
            f"{adapter.label}: adapter_config.json does not name the base model ({error}). Name it "
            "with --base (base_model= in Python)."
        ) from None
    return _MadeFor(repo, revision)


def _common_template(adapters: Sequence[NamedAdapter]) -> Path | None:
    """An adapter whose training replaced the base model's template brings its own along."""
    brought = [
        (adapter, path)
        for adapter in adapters
        if adapter.folder is not None and (path := adapter.folder / CHAT_TEMPLATE).is_file()
    ]
    if len({path.read_bytes() for _, path in brought}) > 1:
        labels = " and ".join(adapter.label for adapter, _ in brought)
        raise InputError(
            f"{labels} bring different chat templates, so the same item would be another question "
            "to each. Name the one to use with --chat-template (chat_template= in Python)."
        )
    return brought[-1][1] if brought else None
