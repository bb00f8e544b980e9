"""The promote step: verdict -> Hub.

Promote: one commit on `main` whose parent is the head that the challenger was compared with, then
the tag `vN`. Otherwise: the challenger waits in a pull request for a person. Either may be asked for
again after a kill at any point, and ends in the same state.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ct_llm.config import HubConfig, PromoteConfig
from ct_llm.errors import ChampionMovedError, HubNotFoundError
from ct_llm.hub.adapter_repo import Tip, read_lineage, read_tip, tag_version
from ct_llm.hub.client import explained
from ct_llm.hub.commit import commit_once
from ct_llm.promote.champion import (
    Files,
    check_bytes,
    find_on_main,
    new_lineage,
    seen_datasets,
    stale_files,
    upload,
    version_files,
)
from ct_llm.promote.review import describe, find_review, open_review, review_title
from ct_llm.records import (
    CycleRequest,
    CycleSummary,
    DataSnapshot,
    GateDecision,
    Lineage,
    PreparedData,
    PromotionRecord,
    TrainedAdapter,
    Verdict,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OUTCOMES: dict[Verdict, Literal["promoted", "rejected", "inconclusive"]] = {
    "promote": "promoted",
    "reject": "rejected",
    "inconclusive": "inconclusive",
}


def promote(
    config: PromoteConfig,
    *,
    api: "HfApi",
    hub: HubConfig,
    request: CycleRequest,
    data: PreparedData,
    snapshot: DataSnapshot,
    adapter: TrainedAdapter,
    adapter_folder: Path,
    decision: GateDecision,
) -> PromotionRecord:
    """Carry out the decision on the Hub: a promotion, or a review for a person.

    Raises SecurityError when the folder does not hold the bytes that were evaluated,
    ChampionMovedError when somebody promoted since the comparison, HubNotFoundError, HubAccessError
    and HubUnavailableError.
    """
    check_bytes(adapter_folder, adapter, decision)
    tip = _existing_repo(api, hub, request)
    done = _already_done(api, request, tip, adapter.digest, decision.verdict)
    if done is not None:
        return done
    parent = _parent(api, request, tip, decision.verdict)
    lineage = new_lineage(api, request, snapshot, adapter)
    files = version_files(
        config,
        api=api,
        request=request,
        data=data,
        lineage=lineage,
        adapter_folder=adapter_folder,
        decision=decision,
    )
    if decision.verdict == "promote":
        return _promote(api, request, lineage, files, parent, decision)
    return open_review(
        api,
        request=request,
        lineage=lineage,
        files=files,
        tip=parent,
        title=review_title(request, decision),
        description=describe(config, request, data, decision, lineage),
    )


def summarise_cycle(
    request: CycleRequest,
    snapshot: DataSnapshot,
    data: PreparedData,
    decision: GateDecision,
    promotion: PromotionRecord,
    seconds_by_step: dict[str, float],
    finished_at: str,
) -> CycleSummary:
    """The cycle's entry in the ledger."""
    return CycleSummary(
        cycle_id=request.cycle_id,
        outcome=OUTCOMES[decision.verdict],
        sentence=decision.sentence,
        version=promotion.version,
        revision=promotion.revision,
        parent_revision=promotion.parent_revision,
        challenger_digest=decision.challenger_digest,
        review_number=promotion.review_number,
        datasets=seen_datasets(snapshot),
        slices=decision.slices,
        num_train=data.num_train,
        seconds_by_step=seconds_by_step,
        finished_at=finished_at,
    )


# ---------------------------------------------------------------- what is there


def _existing_repo(api: "HfApi", hub: HubConfig, request: CycleRequest) -> Tip:
    repo = request.adapter_repo
    tip = read_tip(api, repo)
    if tip is None and request.head_revision is None:
        with explained("create the adapter repo", repo):
            api.create_repo(repo, repo_type="model", private=hub.private, exist_ok=True)
        tip = read_tip(api, repo)
    if tip is None:
        raise HubNotFoundError(
            f"adapter_repo: {repo} is gone, or this token may no longer see it; the cycle began at "
            f"its revision {request.head_revision}. Restore it, or begin a new cycle."
        )
    return tip


def _already_done(
    api: "HfApi", request: CycleRequest, tip: Tip, digest: str, verdict: Verdict
) -> PromotionRecord | None:
    """What an earlier run of this cycle has brought to the Hub before it was killed."""
    if verdict != "promote":
        return find_review(api, request, digest)
    if tip.revision == request.head_revision:
        return None
    revision = _find_promotion(api, request, digest)
    return None if revision is None else _tagged(api, request, revision)


def _parent(api: "HfApi", request: CycleRequest, tip: Tip, verdict: Verdict) -> Tip:
    """The commit that the challenger's one is made from: the head that it was compared with.

    Raises ChampionMovedError for a promotion when `main` is no longer there: better now than after
    the upload. A challenger that was not promoted is kept all the same.
    """
    if request.head_revision is None:
        if tip.holds_adapter:
            raise _moved(api, request.adapter_repo, tip)
        return tip
    if request.head_revision == tip.revision:
        return tip
    if verdict == "promote":
        raise _moved(api, request.adapter_repo, tip)
    parent = read_tip(api, request.adapter_repo, request.head_revision)
    assert parent is not None, "the repo was there a moment ago"
    return parent


# ---------------------------------------------------------------- the one commit


def _promote(
    api: "HfApi",
    request: CycleRequest,
    lineage: Lineage,
    files: Files,
    parent: Tip,
    decision: GateDecision,
) -> PromotionRecord:
    repo, digest = request.adapter_repo, lineage.adapter_digest

    def make() -> str:
        additions = upload(api, repo, files, digest=digest)
        # With its parent given the commit is a compare-and-swap: it is refused (412) if anybody
        # committed since the comparison.
        return api.create_commit(
            repo,
            [*additions, *stale_files(parent, files)],
            commit_message=f"Promote v{lineage.version} ({request.cycle_id})",
            commit_description=decision.sentence,
            parent_commit=parent.revision,
            repo_type="model",
        ).oid

    revision = commit_once(
        make,
        lambda: _find_promotion(api, request, digest),
        doing="commit the promotion",
        repo=repo,
    )
    if revision is None:
        raise _moved(api, repo, read_tip(api, repo) or parent)
    return _tagged(api, request, revision)


def _find_promotion(api: "HfApi", request: CycleRequest, digest: str) -> str | None:
    return find_on_main(
        api,
        request.adapter_repo,
        after=request.head_revision,
        is_ours=lambda found: (
            found.rolled_back_from is None
            and (found.cycle_id, found.adapter_digest) == (request.cycle_id, digest)
        ),
    )


def _tagged(api: "HfApi", request: CycleRequest, revision: str) -> PromotionRecord:
    repo = request.adapter_repo
    # Read back from the Hub: after a lost answer the commit may carry an earlier try's number.
    lineage = read_lineage(api, repo, revision)
    tag = tag_version(api, repo, lineage, revision)
    return PromotionRecord(
        outcome="promoted",
        repo=repo,
        revision=revision,
        version=lineage.version,
        tag=tag,
        parent_revision=request.head_revision,
        url=f"{api.endpoint}/{repo}/tree/{tag}",
    )


def _moved(api: "HfApi", repo: str, tip: Tip) -> ChampionMovedError:
    try:
        what = f"v{read_lineage(api, repo, tip.revision).version} at {tip.revision[:12]}"
    except HubNotFoundError:
        what = f"another commit ({tip.revision[:12]})"
    return ChampionMovedError(
        f"{repo}: {what} was promoted since the comparison; run again to compare with the new "
        "champion. Nothing was changed."
    )
