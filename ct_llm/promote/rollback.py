"""Make an earlier champion the head again: one commit, the same bytes, a new version number."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ct_llm import __version__
from ct_llm.cycle_dir import now
from ct_llm.digests import ADAPTER_FILES, fingerprint
from ct_llm.errors import AdapterError, ChampionMovedError, HubNotFoundError, InputError
from ct_llm.hub.adapter_repo import (
    LINEAGE,
    OWN_FILES,
    AdapterHead,
    Tip,
    check_lineage_digest,
    next_version,
    read_head,
    read_lineage,
    read_tip,
    read_versions,
    tag_version,
)
from ct_llm.hub.client import explained, read_file
from ct_llm.hub.commit import commit_once
from ct_llm.hub.ledger import append_to_ledger, read_entry
from ct_llm.promote.champion import find_on_main, stale_files
from ct_llm.promote.model_card import rolled_back_card
from ct_llm.promote.settle import settle
from ct_llm.records import ChampionRef, CycleSummary, Lineage, SeenDataset

if TYPE_CHECKING:
    from huggingface_hub import HfApi


@dataclass(frozen=True)
class Target:
    """The champion to go back to."""

    tag: str
    revision: str
    lineage: Lineage


def rollback(api: "HfApi", repo: str, *, to: str | None, reason: str) -> CycleSummary:
    """Go back to version `to` ("v3"), by default to the one before the head's adapter.

    The adapter's files are those of that version, byte for byte. The lineage is that version's too,
    under a new number: the next cycle compares with this adapter and counts as seen what it has
    seen. A rollback that was killed after its commit is completed by asking for it again.

    Raises HubNotFoundError naming the versions there are, InputError when that version is the head
    already, ChampionMovedError, HubAccessError, HubUnavailableError.
    """
    head = read_head(api, repo)
    # The head's cycle may be missing in the ledger: its data is what was attempted last.
    if settle(api, head):
        head = read_head(api, repo)
    champion = _champion(head)
    started = _started_before(api, head)
    if started is not None:
        summary = _complete(api, head, started, champion.revision)
        if (
            to is None
            or read_target(api, repo, to).lineage.adapter_digest == started.adapter_digest
        ):
            return summary
    target = find_target(api, repo, to)
    if _holds(champion, target.lineage):
        raise InputError(
            f"{repo}: {target.tag} is the head already; there is nothing to roll back."
        )
    revision = _commit(api, repo, champion, target, reason)
    return _complete(api, head, read_lineage(api, repo, revision), revision)


def find_target(api: "HfApi", repo: str, to: str | None) -> Target:
    """Where a rollback would go. Raises HubNotFoundError naming the versions that exist."""
    if to is not None:
        return read_target(api, repo, to)
    champion = _champion(read_head(api, repo))
    # After a rollback the version before is the one before the adapter's first version: not the
    # one that was just found to be bad.
    came_first = champion.lineage.rolled_back_to if champion.lineage else None
    versions = read_versions(api, repo)
    for number in sorted(versions, reverse=True):
        if number < (came_first or champion.version):
            lineage = read_lineage(api, repo, versions[number])
            if not _holds(champion, lineage):
                return Target(f"v{number}", versions[number], lineage)
    raise HubNotFoundError(
        f"{repo}: there is no version before v{champion.version} to go back to. {_list(versions)}"
    )


def read_target(api: "HfApi", repo: str, tag: str) -> Target:
    """Raises HubNotFoundError naming the versions that exist."""
    versions = read_versions(api, repo)
    number = int(tag[1:]) if tag[:1] == "v" and tag[1:].isdecimal() else None
    if number is None or number not in versions:
        raise HubNotFoundError(f"{repo} has no version {tag!r}. {_list(versions)}")
    return Target(f"v{number}", versions[number], read_lineage(api, repo, versions[number]))


def _list(versions: dict[int, str]) -> str:
    return f"Versions: {', '.join(f'v{number}' for number in sorted(versions)) or 'none'}."


def _champion(head: AdapterHead) -> ChampionRef:
    if head.champion is None:
        raise InputError(f"{head.repo} has no champion yet; there is nothing to roll back.")
    return head.champion


def _holds(champion: ChampionRef, lineage: Lineage) -> bool:
    return (
        champion.lineage is not None and champion.lineage.adapter_digest == lineage.adapter_digest
    )


# ---------------------------------------------------------------- the one commit


def _commit(api: "HfApi", repo: str, champion: ChampionRef, target: Target, reason: str) -> str:
    parent = _tip(api, repo, champion.revision)
    source = _tip(api, repo, target.revision)
    digest = _digest_on_hub(api, repo, target.revision)
    check_lineage_digest(repo, target.revision, target.lineage, digest)
    newest = max(champion.version, *read_versions(api, repo))
    lineage = target.lineage.model_copy(
        update={
            "version": next_version(api, repo, newest),
            "created_at": now(),
            "ct_llm_version": __version__,
            "rolled_back_from": champion.revision,
            "rolled_back_to": target.lineage.rolled_back_to or target.lineage.version,
            "reason": reason,
        }
    )
    card = read_file(api, repo, "README.md", target.revision, "model") or b""
    new = {
        LINEAGE: lineage.model_dump_json(indent=2).encode() + b"\n",
        "README.md": rolled_back_card(card.decode("utf-8", "replace"), lineage).encode(),
    }
    copied = sorted(source.files.intersection(OWN_FILES).difference(new))

    def make() -> str:
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy

        return api.create_commit(
            repo,
            [
                # The weights are copied on the Hub and never travel.
                *(CommitOperationCopy(p, p, src_revision=target.revision) for p in copied),
                *(CommitOperationAdd(path, content) for path, content in new.items()),
                *stale_files(parent, (*copied, *new)),
            ],
            commit_message=f"Roll back to {target.tag}, as v{lineage.version}",
            commit_description=reason,
            parent_commit=parent.revision,
            repo_type="model",
        ).oid

    def find() -> str | None:
        return find_on_main(
            api,
            repo,
            after=parent.revision,
            is_ours=lambda found: (
                found.rolled_back_from == parent.revision and found.adapter_digest == digest
            ),
        )

    revision = commit_once(make, find, doing="commit the rollback", repo=repo)
    if revision is None:
        raise ChampionMovedError(
            f"{repo}: main moved during the rollback and was left as it is. Look at it with "
            "`ct-llm status`, then run the same command again."
        )
    return revision


def _tip(api: "HfApi", repo: str, revision: str) -> Tip:
    tip = read_tip(api, repo, revision)
    if tip is None:
        raise HubNotFoundError(f"{repo} is gone, or this token may no longer see it.")
    return tip


def _digest_on_hub(api: "HfApi", repo: str, revision: str) -> str:
    """`adapter_digest` of a commit, without downloading the weights."""
    sha256: dict[str, str] = {}
    with explained("read the adapter's digest", repo):
        for file in api.get_paths_info(repo, list(ADAPTER_FILES), revision=revision):
            lfs = getattr(file, "lfs", None)
            if lfs is not None:
                sha256[file.path] = lfs.sha256
    for path in ADAPTER_FILES:
        if path not in sha256:
            content = read_file(api, repo, path, revision, "model")
            if content is None:
                raise AdapterError(f"{repo} at {revision[:12]} has no {path}: it is no adapter.")
            sha256[path] = hashlib.sha256(content).hexdigest()
    return fingerprint(sha256)


# ---------------------------------------------------------------- tag and ledger


def _started_before(api: "HfApi", head: AdapterHead) -> Lineage | None:
    """The head's lineage when it is a rollback that was killed before its entry in the ledger."""
    lineage = head.champion.lineage if head.champion else None
    if lineage is None or lineage.rolled_back_from is None:
        return None
    entry = read_entry(api, head.repo, _rollback_id(head.repo, lineage))
    return lineage if entry is None else None


def _complete(api: "HfApi", head: AdapterHead, lineage: Lineage, revision: str) -> CycleSummary:
    """Tag and ledger of a rollback whose commit is on `main`."""
    tag = tag_version(api, head.repo, lineage, revision)
    datasets, data_of = _attempted(api, head, lineage)
    summary = CycleSummary(
        cycle_id=_rollback_id(head.repo, lineage),
        kind="rollback",
        outcome="rolled_back",
        sentence=f"{tag} is v{lineage.rolled_back_to} again: {lineage.reason}",
        version=lineage.version,
        revision=revision,
        parent_revision=lineage.rolled_back_from,
        challenger_digest=lineage.adapter_digest,
        datasets=datasets,
        data_of=data_of,
        finished_at=now(),
    )
    append_to_ledger(api, head.repo, summary)
    return summary


def _attempted(
    api: "HfApi", head: AdapterHead, lineage: Lineage
) -> tuple[tuple[SeenDataset, ...], str]:
    """The data of the last attempt, not of this adapter, and the cycle that used it.

    The rows that made the champion that was rolled back are unseen again, but they alone must not
    start a cycle: it would only make the same adapter once more.
    """
    last = head.last_attempt
    if last is not None:
        return last.datasets, last.data_of or last.cycle_id
    if lineage.rolled_back_from is not None:
        try:
            rolled_back = read_lineage(api, head.repo, lineage.rolled_back_from)
            return rolled_back.datasets, rolled_back.cycle_id
        except HubNotFoundError:
            pass  # put there by other means: nobody knows what it was made from
    return lineage.datasets, lineage.cycle_id


def _rollback_id(repo: str, lineage: Lineage) -> str:
    return "r" + fingerprint([repo, lineage.rolled_back_from, lineage.adapter_digest])[:11]
