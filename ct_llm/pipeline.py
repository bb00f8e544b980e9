"""The loop: watch ─▶ prepare ─▶ train ─▶ evaluate ─▶ gate ─▶ promote.

`run_cycle` is the whole of it; the rest of the file decides which cycle it goes through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ct_llm import __version__
from ct_llm.config import CTConfig, EvaluateConfig, Suite
from ct_llm.cycle import Cycle, Progress, Tell
from ct_llm.cycle_dir import CycleDir, WorkDir, now, write_record
from ct_llm.digests import fingerprint
from ct_llm.errors import ConfigError, InputError
from ct_llm.hub.client import hub_api
from ct_llm.records import (
    CycleRequest,
    CycleSummary,
    GateDecision,
    PromotionRecord,
    TriggerDecision,
    TriggerReason,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ct_llm.hub.adapter_repo import AdapterHead


@dataclass(frozen=True)
class CycleResult:
    outcome: Literal["promoted", "rejected", "inconclusive", "nothing_to_do"]
    trigger: TriggerDecision
    cycle_dir: Path | None = None
    decision: GateDecision | None = None
    promotion: PromotionRecord | None = None
    summary: CycleSummary | None = None


def run_cycle(config: CTConfig, *, force: bool = False, tell: Tell = lambda _: None) -> CycleResult:
    """One pass of the loop; continues the cycle that a killed process left behind.

    `force` starts a cycle whatever the trigger says. Raises CtError (see errors.py); verdicts are
    results, not errors.
    """
    work = WorkDir(config.work_dir)
    with work.locked():
        cycle, trigger = open_cycle(config, work, force=force, tell=tell)
        if cycle is None:
            return CycleResult("nothing_to_do", trigger)
        with cycle.dir.locked(), cycle.failing_for_good_is_noted():
            cycle.prepare()
            cycle.train()
            cycle.evaluate()
            decision = cycle.gate()
            promotion = cycle.promote()
            summary = cycle.finish()
        assert summary.outcome != "rolled_back"
        return CycleResult(summary.outcome, trigger, cycle.dir.path, decision, promotion, summary)


# ---------------------------------------------------------------- which cycle


@dataclass(frozen=True)
class FoundCycle:
    request: CycleRequest
    unfinished: CycleDir | None
    """The folder of the cycle that goes on; none: `request` would begin a new one."""


def open_cycle(
    config: CTConfig, work: WorkDir, *, force: bool, tell: Tell
) -> tuple[Cycle | None, TriggerDecision]:
    """The cycle to go through, its folder ready; none when there is not enough to train on."""
    from ct_llm.evaluate.sandbox import sandbox_problem
    from ct_llm.evaluate.suite import load_suites
    from ct_llm.hub.adapter_repo import ensure_writable, read_head
    from ct_llm.promote.settle import settle

    api = hub_api(config.hub)
    suites = load_suites(config.evaluate)
    check_before_training(config, suites)
    head = read_head(api, config.adapter_repo)
    settle(api, head)
    found = find_cycle(config, api, head, force=force)
    decision, folder = found.request.decision, found.unfinished
    if folder is not None:
        tell(Progress("watch", f"going on with cycle {folder.cycle_id}", 1.0))
    else:
        tell(Progress("watch", decision.sentence, 1.0))
        write_record(work.path / "watch.json", decision)
        if not decision.should_train:
            return None, decision
        if all(file.seen for dataset in found.request.data.datasets for file in dataset.files):
            raise InputError(
                "there is no file whose content the champion has not seen, so there is nothing to "
                "train on, forced or not. Add rows to the dataset repo first."
            )
        parent = ensure_writable(api, head, private=config.hub.private)
        folder = work.cycle(found.request.cycle_id)
        folder.write_config(config)
        folder.begin(found.request.model_copy(update={"head_revision": parent}))
    folder.write_config(config)
    for suite in suites:
        problem = sandbox_problem() if suite.executes_code else None
        if problem is not None:
            # Not an error: a human may still decide. But nobody should wait for it to the end.
            tell(Progress("watch", f"{suite.slice} will have no scores: {problem}"))
    return Cycle(config, folder, api, tell), decision


def find_cycle(
    config: CTConfig, api: "HfApi", head: "AdapterHead", *, force: bool = False
) -> FoundCycle:
    """The unfinished cycle, if the champion is still the one it began with; else a fresh look."""
    for folder in reversed(WorkDir(config.work_dir).cycles()):
        if folder.is_unfinished() and still_holds(folder, config, head):
            return FoundCycle(folder.request(), folder)
    request = look(config, api, head)
    if force and not request.decision.should_train:
        forced = TriggerReason(
            rule="forced", value=1, threshold=1, met=True, sentence="forced by the user"
        )
        decision = request.decision.model_copy(
            update={
                "should_train": True,
                "sentence": f"training: forced by the user ({request.decision.sentence})",
                "reasons": (*request.decision.reasons, forced),
            }
        )
        request = request.model_copy(update={"decision": decision})
    return FoundCycle(request, None)


def look(config: CTConfig, api: "HfApi", head: "AdapterHead") -> CycleRequest:
    """The watch step: what is new, is it enough, and the request of the cycle it would start."""
    from ct_llm.watch.watch import watch

    lineage = head.champion.lineage if head.champion else None
    attempted = head.last_attempt.datasets if head.last_attempt else ()
    decision, data = watch(
        config.watch,
        config.datasets,
        api=api,
        champion=lineage,
        last_attempt=attempted,
        now=now(),
    )
    # The same champion, history and data make the same id, on any machine: what a lost machine had
    # already put on the Hub is found again by it.
    identity = [
        config.adapter_repo,
        head.champion.revision if head.champion else None,
        head.last_attempt.cycle_id if head.last_attempt else None,
        [(dataset.repo, dataset.revision) for dataset in data.datasets],
    ]
    return CycleRequest(
        cycle_id="c" + fingerprint(identity)[:11],
        created_at=now(),
        adapter_repo=config.adapter_repo,
        head_revision=head.revision,
        champion=head.champion,
        data=data,
        decision=decision,
        ct_llm_version=__version__,
    )


def still_holds(folder: CycleDir, config: CTConfig, head: "AdapterHead") -> bool:
    """Does the cycle read the same data, and is the champion still the one it began with, or its own?"""
    request = folder.request()
    same_repo = request.adapter_repo == config.adapter_repo
    same_data = folder.config().datasets == config.datasets
    lineage = head.champion.lineage if head.champion else None
    own_promotion = lineage is not None and lineage.cycle_id == request.cycle_id
    return same_repo and same_data and (own_promotion or request.head_revision == head.revision)


def check_before_training(config: CTConfig, suites: Sequence[Suite]) -> None:
    """What is wrong with the config and would only show after training. Raises ConfigError.

    Tasks and champion are looked at too, once there is something to train on: see `Cycle.train`.
    """
    check_target(config.gate.target, config.evaluate, suites)
    if config.evaluate.newest.enabled and config.prepare.holdout_fraction == 0:
        raise ConfigError(
            "evaluate.newest is enabled, but prepare.holdout_fraction is 0: nothing would be held "
            "out. Raise it, or set evaluate.newest.enabled: false."
        )


def check_target(target: str, evaluation: EvaluateConfig, suites: Sequence[Suite]) -> None:
    """Raises ConfigError when the slice that must improve is none of those evaluated."""
    slices = [suite.slice for suite in suites] + ["newest"] * evaluation.newest.enabled
    if target not in slices:
        raise ConfigError(f"gate.target: {target!r} is none of the slices: {', '.join(slices)}.")
