"""The loop: watch ─▶ prepare ─▶ train ─▶ evaluate ─▶ gate ─▶ promote.

`run_cycle` is the whole of it; the rest of the file decides which cycle it goes through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ct_llm import __version__
from ct_llm.config import CTConfig, Suite
from ct_llm.cycle import Cycle, Progress, Tell
from ct_llm.cycle_dir import CycleDir, WorkDir, now
from ct_llm.digests import fingerprint
from ct_llm.errors import ConfigError, InputError
from ct_llm.hub.client import hub_api
from ct_llm.records import (
    CycleRequest,
    CycleSummary,
    GateDecision,
    PromotionRecord,
    TriggerDecision,
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
    from ct_llm.evaluate.suite import load_suites
    from ct_llm.hub.adapter_repo import ensure_writable, read_head, settle

    api = hub_api(config.hub)
    check_before_training(config, load_suites(config.evaluate))
    head = read_head(api, config.adapter_repo)
    settle(api, head)
    found = find_cycle(config, api, head)
    decision, folder = found.request.decision, found.unfinished
    if folder is not None:
        tell(Progress("watch", f"going on with cycle {folder.cycle_id}", 1.0))
    else:
        tell(Progress("watch", decision.sentence, 1.0))
        if not (decision.should_train or force):
            return None, decision
        if all(file.seen for dataset in found.request.data.datasets for file in dataset.files):
            raise InputError(
                "there is no file whose content the champion has not seen, so there is nothing to "
                "train on, forced or not. Add rows to the dataset repo first."
            )
        parent = ensure_writable(api, head, private=config.hub.private)
        folder = work.cycle(found.request.cycle_id)
        folder.begin(found.request.model_copy(update={"head_revision": parent}))
    folder.write_config(config)
    return Cycle(config, folder, api, tell), decision


def find_cycle(config: CTConfig, api: "HfApi", head: "AdapterHead") -> FoundCycle:
    """The unfinished cycle, if the champion is still the one it began with; else a fresh look."""
    for folder in reversed(WorkDir(config.work_dir).cycles()):
        request = folder.request()
        if folder.is_unfinished() and _still_holds(request, config, head):
            return FoundCycle(request, folder)
    return FoundCycle(look(config, api, head), None)


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


def _still_holds(request: CycleRequest, config: CTConfig, head: "AdapterHead") -> bool:
    lineage = head.champion.lineage if head.champion else None
    own_promotion = lineage is not None and lineage.cycle_id == request.cycle_id
    same_data = [d.repo for d in request.data.datasets] == [d.repo for d in config.datasets]
    same_repo = request.adapter_repo == config.adapter_repo
    same_head = request.head_revision == head.revision
    return same_repo and same_data and (own_promotion or same_head)


def check_before_training(config: CTConfig, suites: Sequence[Suite]) -> None:
    """What would only fail after hours of training fails now. Raises ConfigError."""
    slices = [suite.slice for suite in suites]
    if config.evaluate.newest.enabled:
        slices.append("newest")
        if config.prepare.holdout_fraction == 0:
            raise ConfigError(
                "evaluate.newest is enabled, but prepare.holdout_fraction is 0: nothing would be "
                "held out. Raise it, or set evaluate.newest.enabled: false."
            )
    if config.gate.target not in slices:
        raise ConfigError(
            f"gate.target: {config.gate.target!r} is none of the slices: {', '.join(slices)}."
        )
