"""The ledger: every cycle, promoted or not, on the branch `ledger` of the adapter repo.

cycles/<cycle_id>.json   one CycleSummary
latest.json              the newest of them: what was attempted last
"""

import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ct_llm.config_errors import first_problem
from ct_llm.errors import HubNotFoundError, HubUnavailableError, InputError
from ct_llm.hub.client import explained, read_file
from ct_llm.records import CycleSummary

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BRANCH = "ledger"
LATEST = "latest.json"
NUM_TRIES = 20
"""Each lost race means that somebody else's entry landed, so this many writers at once are served."""
NUM_FAILURES = 3
"""So often the Hub may fail or lose an answer before giving up."""


def read_latest(api: "HfApi", repo: str, revision: str = BRANCH) -> CycleSummary | None:
    """The newest entry, in one request; None when there is no ledger yet.

    Raises InputError when it is not an entry, HubUnavailableError.
    """
    return _read(api, repo, LATEST, revision)


def read_entry(
    api: "HfApi", repo: str, cycle_id: str, revision: str = BRANCH
) -> CycleSummary | None:
    """The entry of one cycle, in one request; None when there is none. Raises as `read_latest`."""
    return _read(api, repo, _path(cycle_id), revision)


def read_ledger(api: "HfApi", repo: str, limit: int | None = None) -> list[CycleSummary]:
    """Entries, newest first; empty when there is no repo or no ledger yet.

    Raises InputError for a file that is not an entry, HubAccessError, HubUnavailableError.
    """
    try:
        with explained("read the ledger", repo):
            folder = api.snapshot_download(
                repo, repo_type="model", revision=BRANCH, allow_patterns=["cycles/*.json"]
            )
    except HubNotFoundError:
        return []
    # Only with dry_run=True does the client answer with a list.
    assert isinstance(folder, str)
    paths = Path(folder).glob("cycles/*.json")
    entries = [_parse(repo, f"cycles/{path.name}", path.read_bytes()) for path in paths]
    entries.sort(key=lambda entry: entry.finished_at, reverse=True)
    return entries[:limit]


def append_to_ledger(api: "HfApi", repo: str, summary: CycleSummary) -> None:
    """Enter a cycle by compare-and-swap, so that nobody's entry is lost.

    A cycle has one entry however often it is entered: the same again commits nothing, another one
    replaces it. Raises HubUnavailableError when the branch kept moving or the Hub kept failing,
    HubAccessError, HubNotFoundError when there is no repo.
    """
    from huggingface_hub.errors import HfHubHTTPError

    num_failures = 0
    for attempt in range(NUM_TRIES):
        head = _head(api, repo)
        there = read_entry(api, repo, summary.cycle_id, head)
        if there is not None and _same(there, summary):
            return
        latest = read_latest(api, repo, head)
        # A cycle that is entered again must not hide what was attempted after it.
        is_newest = there is None or latest is None or latest.cycle_id == summary.cycle_id
        try:
            with explained("write the ledger", repo):
                _commit(api, repo, summary, head, is_newest)
            return
        except HubUnavailableError:
            # The answer may be lost although the commit landed: the next round sees the entry.
            num_failures += 1
            if num_failures == NUM_FAILURES:
                raise
        except HfHubHTTPError:  # 412, the only status that `explained` lets through
            pass
        time.sleep(random.uniform(0, min(1.0, 0.05 * 2**attempt)))
    raise HubUnavailableError(
        f"{repo}: the ledger kept moving while {summary.cycle_id} was entered. Run the command again."
    )


def _commit(api: "HfApi", repo: str, summary: CycleSummary, head: str, is_newest: bool) -> None:
    from huggingface_hub import CommitOperationAdd

    content = summary.model_dump_json(indent=2).encode() + b"\n"
    paths = [_path(summary.cycle_id), *([LATEST] if is_newest else [])]
    api.create_commit(
        repo,
        [CommitOperationAdd(path, content) for path in paths],
        commit_message=f"{summary.cycle_id}: {summary.outcome}",
        revision=BRANCH,
        parent_commit=head,
        repo_type="model",
    )


def _head(api: "HfApi", repo: str) -> str:
    """The ledger's newest commit; the branch is made when it is missing."""
    head = _find_branch(api, repo)
    if head is None:
        with explained("begin the ledger", repo):
            # From main's first commit, which holds no adapter: the ledger needs none.
            first = api.list_repo_commits(repo, repo_type="model")[-1].commit_id
            api.create_branch(repo, branch=BRANCH, revision=first, repo_type="model", exist_ok=True)
        head = _find_branch(api, repo)
    if head is None:
        raise HubUnavailableError(
            f"{repo}: branch {BRANCH} is not there yet. Run the command again."
        )
    return head


def _find_branch(api: "HfApi", repo: str) -> str | None:
    with explained("find the ledger", repo):
        refs = api.list_repo_refs(repo, repo_type="model")
    return next((b.target_commit for b in refs.branches if b.name == BRANCH), None)


def _same(one: CycleSummary, other: CycleSummary) -> bool:
    """A cycle that is finished again after a kill differs in nothing but the time."""
    return one == other.model_copy(update={"finished_at": one.finished_at})


def _path(cycle_id: str) -> str:
    return f"cycles/{cycle_id}.json"


def _read(api: "HfApi", repo: str, path: str, revision: str) -> CycleSummary | None:
    content = read_file(api, repo, path, revision, "model")
    return None if content is None else _parse(repo, path, content)


def _parse(repo: str, path: str, content: bytes) -> CycleSummary:
    try:
        return CycleSummary.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{repo}, branch {BRANCH}: {path} is not a cycle's entry ({first_problem(error)}). It "
            "was changed by hand or by another version; restore it from the branch's history."
        ) from None
