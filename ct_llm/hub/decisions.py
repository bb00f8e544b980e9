"""The history of decisions: `decisions/<YYYY-MM>.jsonl` on the ledger, one TriggerDecision a line.

A line is added when something else than the time is different from the line before, so that a tick
every minute leaves a history that people can read.
"""

from typing import TYPE_CHECKING

from pydantic import ValidationError

from ct_llm.hub.client import explained, read_file
from ct_llm.hub.ledger import (
    BRANCH,
    Change,
    change_ledger,
    not_ours,
    read_ledger_head,
    with_head,
)
from ct_llm.records import LedgerHead, TriggerDecision, WatchState

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FOLDER = "decisions"


def record_decision(
    api: "HfApi", repo: str, decision: TriggerDecision, state: WatchState | None
) -> None:
    """Add the decision to the history where it is news, and keep the state for the next look.

    No commit where neither changed. By compare-and-swap: of two at once, both are kept. Raises
    HubUnavailableError, HubAccessError, HubNotFoundError when there is no repo.
    """
    if not _needs_commit(read_ledger_head(api, repo), decision, state):
        return

    def change(head: str) -> Change | None:
        latest = read_ledger_head(api, repo, head)
        if not _needs_commit(latest, decision, state):
            return None
        update: dict[str, object] = {"watch": state or latest.watch}
        files: dict[str, bytes] = {}
        if is_news(latest.decision, decision):
            path = f"{FOLDER}/{decision.checked_at[:7]}.jsonl"
            earlier = read_file(api, repo, path, head, "model") or b""
            files[path] = earlier + decision.model_dump_json().encode() + b"\n"
            update["decision"] = decision
        outcome = "training is due" if decision.should_train else "not training"
        return Change(f"watch: {outcome}", with_head(files, latest.model_copy(update=update)))

    change_ledger(api, repo, change)


def read_decisions(api: "HfApi", repo: str, limit: int | None = None) -> list[TriggerDecision]:
    """The history, newest first; empty without repo or ledger. One request a month that is read.

    Raises InputError for a line that is no decision, HubAccessError, HubUnavailableError.
    """
    found: list[TriggerDecision] = []
    for path in reversed(_months(api, repo)):
        lines = (read_file(api, repo, path, BRANCH, "model") or b"").splitlines()
        for line in reversed(lines):
            if len(found) == limit:
                return found
            try:
                found.append(TriggerDecision.model_validate_json(line))
            except ValidationError as error:
                raise not_ours(repo, path, "a list of decisions", error) from None
    return found


def is_news(last: TriggerDecision | None, decision: TriggerDecision) -> bool:
    """Another outcome, other data, or other rules met than the last time."""
    return last is None or _gist(last) != _gist(decision)


def _gist(decision: TriggerDecision) -> tuple[object, ...]:
    return (
        decision.should_train,
        tuple((dataset.name, dataset.revision) for dataset in decision.datasets),
        tuple((reason.rule, reason.unit, reason.met) for reason in decision.reasons),
    )


def _needs_commit(latest: LedgerHead, decision: TriggerDecision, state: WatchState | None) -> bool:
    new_state = state is not None and state != latest.watch
    return new_state or is_news(latest.decision, decision)


def _months(api: "HfApi", repo: str) -> list[str]:
    """Paths, the oldest month first."""
    from huggingface_hub import errors

    with explained("list the decisions", repo):
        try:
            tree = api.list_repo_tree(repo, FOLDER, revision=BRANCH, repo_type="model")
            return sorted(entry.path for entry in tree if entry.path.endswith(".jsonl"))
        except (
            errors.EntryNotFoundError,
            errors.RevisionNotFoundError,
            errors.RepositoryNotFoundError,
        ):
            return []
