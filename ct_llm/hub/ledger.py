"""The ledger: every cycle, promoted or not, on the branch `ledger` of the adapter repo.

cycles/<cycle_id>.json        one CycleSummary
data/<cycle_id>.parquet       the files that the cycle had used, those of its champion included (see
                              used_files.py)
evidence/<cycle_id>.parquet   what the cycle's verdict rests on: items, scores, thresholds
scores/<adapter>/<..>.parquet what adapters got for items, so that none is asked twice (see
                              ledger_scores.py)
decisions/<YYYY-MM>.jsonl     what was decided at each look at the data (see decisions.py)
latest.json                   LedgerHead: what a tick must know of all that, in one request
"""

import random
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import ValidationError

from ct_llm.config_errors import first_problem
from ct_llm.errors import HubNotFoundError, HubUnavailableError, InputError
from ct_llm.hub.client import explained, read_file
from ct_llm.hub.commit import uploads_explained
from ct_llm.hub.used_files import table_bytes, table_path
from ct_llm.records import CycleSummary, LedgerHead, PastCycle, UsedFile, WatchState

if TYPE_CHECKING:
    from huggingface_hub import HfApi

BRANCH = "ledger"
LATEST = "latest.json"
NUM_RECENT = 100
NUM_TRIES = 20
"""Each lost race means that somebody else's entry landed, so this many writers at once are served."""
NUM_FAILURES = 3
"""So often the Hub may fail or lose an answer before giving up."""
NUM_THREADS = 8


def read_ledger_head(api: "HfApi", repo: str, revision: str = BRANCH) -> LedgerHead:
    """The newest entry and what else a tick must know, in one request; empty without a ledger.

    Raises InputError when the file is none of ours, HubUnavailableError.
    """
    content = read_file(api, repo, LATEST, revision, "model")
    if content is None:
        return LedgerHead()
    try:
        return LedgerHead.model_validate_json(content)
    except ValidationError as error:
        raise not_ours(repo, LATEST, "the ledger's head", error) from None


def read_entry(
    api: "HfApi", repo: str, cycle_id: str, revision: str = BRANCH
) -> CycleSummary | None:
    """The entry of one cycle, in one request; None when there is none.

    Raises InputError when it is not an entry, HubUnavailableError.
    """
    path = _path(cycle_id)
    content = read_file(api, repo, path, revision, "model")
    return None if content is None else _parse(repo, path, content)


def read_ledger(api: "HfApi", repo: str, limit: int | None = None) -> list[CycleSummary]:
    """Entries, newest first; empty when there is no repo or no ledger yet.

    A few are fetched one by one, all of them as a folder. Raises InputError for a file that is not
    an entry, HubAccessError, HubUnavailableError.
    """
    recent = read_ledger_head(api, repo).recent
    if len(recent) < NUM_RECENT or (limit is not None and limit <= NUM_RECENT):
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            found = threads.map(lambda past: read_entry(api, repo, past.cycle_id), recent[:limit])
            return [entry for entry in found if entry is not None]
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


def append_to_ledger(
    api: "HfApi",
    repo: str,
    summary: CycleSummary,
    *,
    used: Sequence[UsedFile] | None = None,
    watch: WatchState | None = None,
    more: Callable[[str], Mapping[str, bytes]] | None = None,
) -> None:
    """Enter a cycle by compare-and-swap, so that nobody's entry is lost.

    used: the files that it had used; None leaves the table that is there. watch: what the next look
    need not look for again. more: path to content of what goes with the entry in one commit, asked
    for with the commit that it will stand on. A cycle has one entry however often it is entered: the
    same again commits nothing, another one replaces it. Raises HubUnavailableError when the branch
    kept moving or the Hub kept failing, HubAccessError, HubNotFoundError when there is no repo.
    """

    def change(head: str) -> Change | None:
        there = read_entry(api, repo, summary.cycle_id, head)
        if there is not None and _same(there, summary):
            return None
        files = {_path(summary.cycle_id): summary.model_dump_json(indent=2).encode() + b"\n"}
        if used is not None:
            files[table_path(summary.cycle_id)] = table_bytes(used)
        if more is not None:
            files |= more(head)
        latest = read_ledger_head(api, repo, head)
        files[LATEST] = _head_bytes(entered(latest, summary, watch, is_known=there is not None))
        return Change(f"{summary.cycle_id}: {summary.outcome}", files)

    change_ledger(api, repo, change)


def entered(
    latest: LedgerHead, summary: CycleSummary, watch: WatchState | None, *, is_known: bool
) -> LedgerHead:
    """The ledger's head once the cycle is entered. is_known: it had an entry before."""
    past = PastCycle(
        cycle_id=summary.cycle_id, outcome=summary.outcome, finished_at=summary.finished_at
    )
    others = [other for other in latest.recent if other.cycle_id != past.cycle_id]
    recent = sorted([past, *others], key=lambda one: one.finished_at, reverse=True)
    update: dict[str, object] = {"recent": tuple(recent[:NUM_RECENT])}
    last = latest.last_attempt
    # A cycle that is entered again must not hide what was attempted after it.
    if not is_known or last is None or last.cycle_id == summary.cycle_id:
        update |= {"last_attempt": summary, "watch": watch or latest.watch}
    return latest.model_copy(update=update)


# ---------------------------------------------------------------- compare and swap


class Change(NamedTuple):
    message: str
    files: Mapping[str, bytes]
    """Path in the repo to its new content."""


def change_ledger(api: "HfApi", repo: str, change: Callable[[str], Change | None]) -> None:
    """Commit to the ledger what `change` makes of its newest commit; None: it needs no commit.

    `change` is asked again whenever somebody else's commit came first, or an answer was lost: so it
    must recognise its own commit. Raises HubUnavailableError when the branch kept moving or the Hub
    kept failing, HubAccessError, HubNotFoundError when there is no repo.
    """
    from huggingface_hub.errors import HfHubHTTPError

    num_failures = 0
    for attempt in range(NUM_TRIES):
        head = _head(api, repo)
        changed = change(head)
        if changed is None:
            return
        try:
            with (
                explained("write the ledger", repo),
                uploads_explained("write the ledger", repo),
            ):
                _commit(api, repo, changed, head)
            return
        except HubUnavailableError:
            # The answer may be lost although the commit landed: the next round sees it.
            num_failures += 1
            if num_failures == NUM_FAILURES:
                raise
        except HfHubHTTPError:  # 412, the only status that `explained` lets through
            pass
        time.sleep(random.uniform(0, min(1.0, 0.05 * 2**attempt)))
    raise HubUnavailableError(
        f"{repo}: the ledger kept moving while it was written. Run the command again."
    )


def _commit(api: "HfApi", repo: str, change: Change, head: str) -> None:
    from huggingface_hub import CommitOperationAdd

    with warnings.catch_warnings():
        # The client takes every .parquet in a model repo for a mistake.
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
        api.create_commit(
            repo,
            [CommitOperationAdd(path, content) for path, content in change.files.items()],
            commit_message=change.message,
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


# ---------------------------------------------------------------- files


def with_head(files: Mapping[str, bytes], head: LedgerHead) -> dict[str, bytes]:
    """The files of a change and the head that goes with them."""
    return {**files, LATEST: _head_bytes(head)}


def _head_bytes(head: LedgerHead) -> bytes:
    # Without indents: every tick reads it.
    return head.model_dump_json().encode() + b"\n"


def _same(one: CycleSummary, other: CycleSummary) -> bool:
    """A cycle that is finished again after a kill differs in nothing but the time."""
    return one == other.model_copy(update={"finished_at": one.finished_at})


def evidence_path(cycle_id: str) -> str:
    return f"evidence/{cycle_id}.parquet"


def _path(cycle_id: str) -> str:
    return f"cycles/{cycle_id}.json"


def _parse(repo: str, path: str, content: bytes) -> CycleSummary:
    try:
        return CycleSummary.model_validate_json(content)
    except ValidationError as error:
        raise not_ours(repo, path, "a cycle's entry", error) from None


def not_ours(repo: str, path: str, what: str, error: ValidationError) -> InputError:
    return InputError(
        f"{repo}, branch {BRANCH}: {path} is not {what} ({first_problem(error)}). It was changed by "
        "hand or by another version; restore it from the branch's history."
    )
