"""The adapter repo on the Hub: `main` is the champion, tags `vN` are the versions.

main    adapter_config.json, adapter_model.safetensors, README.md [, tokenizer, chat template]
        ct/lineage.json   where the adapter comes from and what data it has seen
        ct/scores.json    the gate's decision
vN      the commit of version N
ledger  a branch with every cycle (see ledger.py)
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ct_llm.config_errors import first_problem
from ct_llm.digests import ADAPTER_FILES, adapter_digest
from ct_llm.errors import AdapterError, HubAccessError, HubNotFoundError, InputError
from ct_llm.hub.client import explained, read_file
from ct_llm.hub.ledger import read_ledger_head
from ct_llm.records import ChampionRef, CycleSummary, LedgerHead, Lineage

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LINEAGE = "ct/lineage.json"
SCORES = "ct/scores.json"
# What belongs to an adapter, and nothing that could run: no pickles, no Python.
OWN_FILES = (
    *ADAPTER_FILES,
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    LINEAGE,
    SCORES,
)


@dataclass(frozen=True)
class Tip:
    """One commit of the repo and the paths it holds."""

    revision: str
    files: frozenset[str]

    @property
    def holds_adapter(self) -> bool:
        return all(name in self.files for name in ADAPTER_FILES)


@dataclass(frozen=True)
class AdapterHead:
    """The repo as it is now."""

    repo: str
    revision: str | None
    """Of `main`; none when the repo does not exist yet."""
    champion: ChampionRef | None
    ledger: LedgerHead
    """What it says of the past; empty where there is none."""

    @property
    def last_attempt(self) -> CycleSummary | None:
        """The newest entry of the ledger, whatever came of it."""
        return self.ledger.last_attempt


def read_head(api: "HfApi", repo: str) -> AdapterHead:
    """Head, champion and the ledger's head in at most three requests.

    Raises HubAccessError when the repo cannot be told from a private one for want of a token, or
    the token is refused; AdapterError when `main` holds half an adapter; InputError for a lineage
    or ledger file that is none; HubUnavailableError.
    """
    tip = read_tip(api, repo)
    if tip is None:
        return AdapterHead(repo, None, None, LedgerHead())
    champion = None
    if tip.holds_adapter:
        lineage = read_lineage(api, repo, tip.revision) if LINEAGE in tip.files else None
        version = lineage.version if lineage else 0
        champion = ChampionRef(repo=repo, revision=tip.revision, version=version, lineage=lineage)
    elif half := [f for f in tip.files if f.startswith(("adapter_config.", "adapter_model."))]:
        raise AdapterError(
            f"{repo}: main holds {' and '.join(sorted(half))}, but an adapter is "
            f"{' and '.join(ADAPTER_FILES)} (other formats are not loaded: pickles can run code). "
            "Convert it with PeftModel.save_pretrained, or delete these files."
        )
    return AdapterHead(repo, tip.revision, champion, read_ledger_head(api, repo))


def read_tip(api: "HfApi", repo: str, revision: str | None = None) -> Tip | None:
    """The newest commit of `main` (or `revision`); None when there is no such repo. One request.

    To a token without access the Hub says that a private repo does not exist. Without any token
    the two cannot be told apart: HubAccessError. Raises HubNotFoundError for another revision that
    is not there, HubUnavailableError.
    """
    from huggingface_hub import errors, get_token

    with explained("read the adapter repo", repo):
        try:
            info = api.model_info(repo, revision=revision)
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            if api.token or (api.token is None and get_token()):
                return None
            raise HubAccessError(
                f"adapter_repo: {repo} does not exist, or is private and no token is set. Export "
                "HF_TOKEN (with write access) or run `hf auth login`."
            ) from None
    if info.sha is None:
        raise InputError(f"adapter_repo: {repo} has no commit. Delete the repo, or commit a file.")
    return Tip(info.sha, frozenset(file.rfilename for file in info.siblings or ()))


def ensure_writable(api: "HfApi", head: AdapterHead, *, private: bool) -> str:
    """The head's revision, once it is sure that a promotion may be committed; makes a missing repo.

    Asked before training, so that a token without the right costs a second and not a night. Raises
    HubAccessError, HubNotFoundError, HubUnavailableError.
    """
    if head.revision is not None:
        with explained("get write access to the adapter repo", head.repo):
            api.auth_check(head.repo, repo_type="model", write=True)
        return head.revision
    with explained("create the adapter repo", head.repo):
        api.create_repo(head.repo, repo_type="model", private=private, exist_ok=True)
    tip = read_tip(api, head.repo)
    if tip is None:
        raise HubNotFoundError(f"adapter_repo: {head.repo} was made, but cannot be seen.")
    return tip.revision


def read_lineage(api: "HfApi", repo: str, revision: str) -> Lineage:
    """Raises HubNotFoundError when there is none at this revision, InputError when it is broken."""
    content = read_file(api, repo, LINEAGE, revision, "model")
    if content is None:
        raise HubNotFoundError(f"{repo} at {revision[:12]} has no {LINEAGE}.")
    try:
        return Lineage.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{repo} at {revision[:12]}: {LINEAGE} is not a lineage ({first_problem(error)}). It "
            "was changed by hand or by another version. Restore the file from the newest tag vN, "
            "or delete it: the adapter then counts as one of unknown data (version 0)."
        ) from None


def download_adapter(api: "HfApi", repo: str, revision: str) -> Path:
    """The adapter's own files on this disk: weights, configuration, tokenizer, `ct/`.

    Raises HubNotFoundError, and AdapterError when the weights are not those that the lineage
    beside them speaks of.
    """
    with explained("download the adapter", repo):
        folder = api.snapshot_download(
            repo, repo_type="model", revision=revision, allow_patterns=list(OWN_FILES)
        )
    # Only with dry_run=True does the client answer with a list.
    assert isinstance(folder, str)
    path = Path(folder)
    if (path / LINEAGE).is_file():
        check_lineage_digest(
            repo, revision, read_lineage(api, repo, revision), adapter_digest(path)
        )
    return path


def check_lineage_digest(repo: str, revision: str, lineage: Lineage, digest: str) -> None:
    """Raises AdapterError when weights and lineage do not belong together."""
    if digest != lineage.adapter_digest:
        raise AdapterError(
            f"{repo} at {revision[:12]} holds adapter {digest[:12]}, but {LINEAGE} speaks of "
            f"{lineage.adapter_digest[:12]}: the weights were replaced by hand. Delete {LINEAGE} to "
            "go on with them as an adapter of unknown data, or `ct-llm rollback` to a version."
        )


# ---------------------------------------------------------------- versions


def read_versions(api: "HfApi", repo: str) -> dict[int, str]:
    """Version numbers and the commits of their tags `vN`. One request."""
    with explained("list the versions", repo):
        refs = api.list_repo_refs(repo, repo_type="model")
    matches = ((re.fullmatch(r"v([1-9]\d*)", tag.name), tag.target_commit) for tag in refs.tags)
    return {int(match[1]): commit for match, commit in matches if match}


def next_version(api: "HfApi", repo: str, after: int) -> int:
    """The first number above `after` whose tag is free. One request."""
    taken = read_versions(api, repo)
    number = after + 1
    while number in taken:
        number += 1
    return number


def tag_version(api: "HfApi", repo: str, lineage: Lineage, revision: str) -> str:
    """Set `vN` on the commit of this lineage; already set is fine.

    Raises InputError when the tag stands on another adapter.
    """
    tag = f"v{lineage.version}"
    if lineage.version not in read_versions(api, repo):
        with explained(f"set tag {tag}", repo):
            api.create_tag(repo, tag=tag, revision=revision, repo_type="model", exist_ok=True)
    there = read_versions(api, repo).get(lineage.version)
    # A later commit of the same adapter (an edited README) may carry the tag: see `settle`.
    if there != revision and (there is None or read_lineage(api, repo, there) != lineage):
        raise InputError(
            f"{repo}: {revision} is version {tag}, but the tag {tag} stands on {there}. Delete that "
            "tag, then run the same command again."
        )
    return tag
