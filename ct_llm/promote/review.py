"""A challenger that was not promoted waits in a pull request, with the evidence, for a person."""

from typing import TYPE_CHECKING

from ct_llm.config import PromoteConfig
from ct_llm.errors import ChampionMovedError, HubNotFoundError
from ct_llm.hub.adapter_repo import Tip, read_lineage
from ct_llm.hub.client import explained
from ct_llm.hub.commit import commit_once
from ct_llm.hub.ledger import BRANCH, evidence_path
from ct_llm.promote.champion import Files, stale_files, upload
from ct_llm.promote.markdown import fenced, inline
from ct_llm.promote.model_card import score, signed, slice_table, table_legend
from ct_llm.records import (
    CycleRequest,
    DamagedItem,
    GateDecision,
    Lineage,
    PreparedData,
    PromotionRecord,
    Verdict,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_SAMPLE_CHARS = 1_200
"""Of one prompt or output: a reviewer has time for that much."""
MAX_SAMPLES_CHARS = 40_000
"""Of all samples together; a description that is too long would be refused by the Hub."""

_SAID: dict[Verdict, str] = {
    "promote": "Promoted",
    "reject": "Rejected",
    "inconclusive": "Inconclusive",
}


def find_review(api: "HfApi", request: CycleRequest, digest: str) -> PromotionRecord | None:
    """The pull request of this cycle that an earlier try has opened, whatever became of it.

    Raises HubAccessError, HubUnavailableError.
    """
    repo = request.adapter_repo
    with explained("look for the cycle's review", repo):
        found = list(api.get_repo_discussions(repo, discussion_type="pull_request"))
    for pull_request in found:
        if not pull_request.title.endswith(_title_end(request)):
            continue
        # Anybody may have written that title; only ours holds this adapter.
        try:
            lineage = read_lineage(api, repo, f"refs/pr/{pull_request.num}")
        except HubNotFoundError:
            continue
        if (lineage.cycle_id, lineage.adapter_digest) == (request.cycle_id, digest):
            return _record(request, pull_request.num, pull_request.url)
    return None


def open_review(
    api: "HfApi",
    *,
    request: CycleRequest,
    lineage: Lineage,
    files: Files,
    tip: Tip,
    title: str,
    description: str,
) -> PromotionRecord:
    """One pull request a cycle that would make the challenger, as it is in `files`, the champion.

    tip: the commit that it is made from. Raises SecurityError for other bytes than the evaluated
    ones, ChampionMovedError, HubAccessError, HubUnavailableError.
    """
    repo, digest = request.adapter_repo, lineage.adapter_digest

    def make() -> PromotionRecord:
        additions = upload(api, repo, files, digest=digest, create_pr=True)
        # The pull request and its only commit are one request: there is no half-made review.
        commit = api.create_commit(
            repo,
            [*additions, *stale_files(tip, files)],
            commit_message=title,
            commit_description=description,
            parent_commit=tip.revision,
            create_pr=True,
            repo_type="model",
        )
        assert commit.pr_num is not None and commit.pr_url is not None
        return _record(request, commit.pr_num, commit.pr_url)

    record = commit_once(
        make, lambda: find_review(api, request, digest), doing="open a review", repo=repo
    )
    if record is None:
        raise ChampionMovedError(
            f"{repo}: main moved while the review was opened; run again to compare with its new head."
        )
    return record


def review_title(request: CycleRequest, decision: GateDecision) -> str:
    return f"{_SAID[decision.verdict]}: {_title_end(request)}"


def describe(
    config: PromoteConfig,
    request: CycleRequest,
    data: PreparedData,
    decision: GateDecision,
    lineage: Lineage,
) -> str:
    """The description in Markdown: verdict, slices, how to go on, what got worse."""
    champion = request.champion
    against = f"v{champion.version}" if champion else "the base model itself"
    parts = [
        f"**{inline(decision.sentence)}**",
        f"The challenger of cycle `{request.cycle_id}` was compared with {against}, item by item:",
        slice_table(decision.slices),
        table_legend(decision),
        f"Mean of the guards: {score(decision.overall_champion_mean)} → "
        f"{score(decision.overall_challenger_mean)} (not decided on).",
        f"Trained on {data.num_train:,} rows ({data.num_replay:,} replayed), {data.num_holdout:,} "
        f"held out, {data.num_quarantined:,} quarantined, of {data.rows_read:,} read.",
        f"Every score that the verdict rests on is in `{evidence_path(request.cycle_id)}` on the "
        f"branch `{BRANCH}`; `ct-llm recheck {request.cycle_id}` computes the verdict again from it.",
        "## What to do",
        f"- **Approve**: merge this pull request. `main` then holds this very adapter, and the next "
        f"`ct-llm run` tags it `v{lineage.version}`. If the Hub finds conflicts, a newer champion "
        "was promoted in between: close it instead.\n"
        "- **Decline**: close it. The champion stays. The rows remain unseen, so the next cycle "
        "trains on them again together with newer ones: mend or remove them in the dataset if they "
        "did the harm.",
    ]
    if decision.damaged_items:
        parts += ["## What got worse", *_damaged(config, decision.damaged_items)]
    return "\n\n".join(parts)


def _damaged(config: PromoteConfig, items: tuple[DamagedItem, ...]) -> list[str]:
    names = [f"{inline(i.slice)}, {inline(i.item_id)}: {signed(i.delta)}" for i in items]
    if not config.include_samples:
        return ["\n".join(f"- {name}" for name in names)]
    parts: list[str] = []
    room = MAX_SAMPLES_CHARS
    for name, item in zip(names, items, strict=True):
        texts = {
            "Prompt": item.prompt,
            "Champion": item.champion_output,
            "Challenger": item.challenger_output,
        }
        blocks = [f"{label}:\n\n{fenced(t, MAX_SAMPLE_CHARS)}" for label, t in texts.items()]
        room -= sum(map(len, blocks))
        if room < 0:
            blocks = ["(left out: the samples above are long)"]
        parts += [f"### {name}", *blocks]
    return parts


def _title_end(request: CycleRequest) -> str:
    return f"challenger of cycle {request.cycle_id}"


def _record(request: CycleRequest, number: int, url: str) -> PromotionRecord:
    return PromotionRecord(
        outcome="review",
        repo=request.adapter_repo,
        revision=None,
        version=None,
        tag=None,
        parent_revision=request.head_revision,
        review_number=number,
        url=url,
    )
