"""The loop: watch ─▶ prepare ─▶ train ─▶ evaluate ─▶ gate ─▶ promote.

`run_cycle` is the whole of it; the rest of the file decides which cycle it goes through.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ct_llm import __version__
from ct_llm.config import CTConfig, DatasetConfig, EvaluateConfig, GateConfig, Suite
from ct_llm.cycle import Cycle, Progress, Tell, cache_folder, champion_use, open_files
from ct_llm.cycle_dir import CycleDir, WorkDir, now, read_record, write_record
from ct_llm.digests import fingerprint
from ct_llm.errors import ConfigError, HubAccessError, HubNotFoundError, InputError
from ct_llm.hub.client import hub_api
from ct_llm.records import (
    CycleRequest,
    CycleSummary,
    DataFile,
    DatasetSnapshot,
    DatasetState,
    GateDecision,
    PromotionRecord,
    SampledRow,
    TriggerDecision,
    TriggerReason,
    WatchState,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from ct_llm.hub.adapter_repo import AdapterHead
    from ct_llm.watch.used import Use
    from ct_llm.watch.watch import Watched

STATE = "watch.json"
"""In work_dir: what the last look has found."""
DECISION = "decision.json"
"""In work_dir: the decision of the last look, for whoever watches this machine."""
FAILURE_CHARS = 300
"""How much of a failure is repeated at every tick; `ct-llm status` has all of it."""


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
    decision: TriggerDecision
    request: CycleRequest | None
    """None: there is no reason to begin a cycle."""
    unfinished: CycleDir | None
    """The folder of the cycle that goes on; none: `request` would begin a new one."""
    state: WatchState | None
    """What the look at the data leaves for the next one; none where a cycle goes on."""


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
    if settle(api, head):
        head = read_head(api, config.adapter_repo)
    found = find_cycle(config, api, head, force=force)
    decision, folder = found.decision, found.unfinished
    if folder is not None:
        tell(Progress("watch", f"going on with cycle {folder.cycle_id}", 1.0))
    else:
        assert found.state is not None
        tell(Progress("watch", decision.sentence, 1.0))
        keep_state(config, found.state, decision)
        if found.request is None:
            if head.revision is not None:
                _record(api, config, decision, found.state, tell)
            return None, decision
        if found.request.data.num_unseen_rows == 0:
            raise InputError(
                "there is no row that the champion has not seen, so there is nothing to train on, "
                "forced or not. Add rows to the dataset first."
            )
        parent = ensure_writable(api, head, private=config.hub.private)
        _record(api, config, decision, found.state, tell)
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
            request = folder.request()
            return FoundCycle(request.decision, request, folder, None)
    watched = look(config, api, head, force=force, for_a_cycle=True)
    request = None
    if watched.data is not None:
        request = CycleRequest(
            cycle_id=_cycle_id(config, head, watched.data.datasets),
            created_at=now(),
            adapter_repo=config.adapter_repo,
            head_revision=head.revision,
            champion=head.champion,
            data=watched.data,
            decision=watched.decision,
            ct_llm_version=__version__,
        )
    return FoundCycle(watched.decision, request, None, watched.state)


def _cycle_id(
    config: CTConfig, head: "AdapterHead", datasets: Sequence[DatasetState | DatasetSnapshot]
) -> str:
    # The same champion, history and data make the same id, on any machine: what a lost machine had
    # already put on the Hub is found again by it.
    identity = [
        config.adapter_repo,
        head.champion.revision if head.champion else None,
        head.last_attempt.cycle_id if head.last_attempt else None,
        [(dataset.repo, dataset.revision) for dataset in datasets],
    ]
    return "c" + fingerprint(identity)[:11]


def _held_back_by_failure(
    config: CTConfig, head: "AdapterHead", decision: TriggerDecision
) -> TriggerDecision | None:
    """The decision not to train, where the same config has failed on the same data for good."""
    folder = WorkDir(config.work_dir).cycle(_cycle_id(config, head, decision.datasets))
    try:
        failure = folder.failure()
        if failure is None or fingerprint(folder.config()) != fingerprint(config):
            return None
    except InputError:  # what another version wrote holds nothing back
        return None
    message = failure if len(failure) <= FAILURE_CHARS else f"{failure[: FAILURE_CHARS - 1]}…"
    sentence = f"this data failed before: {message} (mend it, or --force)"
    brake = TriggerReason(
        rule="failed", kind="brake", value=None, threshold=None, met=True, sentence=sentence
    )
    return decision.model_copy(
        update={
            "should_train": False,
            "sentence": f"not training: {sentence}",
            "reasons": (*decision.reasons, brake),
        }
    )


# ---------------------------------------------------------------- the watch step


def look(
    config: CTConfig,
    api: "HfApi",
    head: "AdapterHead",
    *,
    force: bool = False,
    for_a_cycle: bool = False,
) -> "Watched":
    """The watch step: what is new, and is it enough? Changes nothing but the cache in work_dir.

    for_a_cycle: with the list of files to train on, when training is due.
    """
    from ct_llm.hub.used_files import read_used_files
    from ct_llm.sources.source import open_source
    from ct_llm.watch.watch import Past, watch

    cache = cache_folder(config)
    kept = _kept_state(config)
    states = (kept, head.ledger.watch)
    rows = _RowReader(config, api)
    watched = watch(
        config.watch,
        [open_source(dataset, api, cache) for dataset in config.datasets],
        past=Past(champion_use(head.champion), _attempt_use(head), head.ledger.recent),
        states=[state for state in states if state is not None],
        read_table=lambda cycle_id: read_used_files(api, head.repo, cycle_id),
        count_unseen=rows.count_unseen,
        sample=rows.sample,
        cache=cache,
        now=now(),
        force=force,
        for_a_cycle=for_a_cycle,
    )
    if watched.decision.should_train and not force:
        held = _held_back_by_failure(config, head, watched.decision)
        if held is not None:
            return watched._replace(decision=held, data=None)
    return watched


def _attempt_use(head: "AdapterHead") -> "Use | None":
    from ct_llm.watch.used import Use

    last = head.last_attempt
    return Use(last.data_of or last.cycle_id, last.datasets) if last else None


class _RowReader:
    """What the watch step asks of rows, read as `prepare` will read them, and through its cache."""

    def __init__(self, config: CTConfig, api: "HfApi") -> None:
        self._config = config
        self._api = api

    def count_unseen(
        self,
        dataset: DatasetConfig,
        revision: str,
        new: Sequence[DataFile],
        used: Sequence[DataFile],
    ) -> int:
        from ct_llm.prepare.for_watch import count_unseen_rows

        return count_unseen_rows(dataset, new, used, revision, **self._how)

    def sample(
        self,
        dataset: DatasetConfig,
        revision: str,
        files: Sequence[DataFile],
        num_rows: int,
        seed: int,
    ) -> list[SampledRow]:
        from ct_llm.prepare.for_watch import sample_rows

        return sample_rows(dataset, files, revision, num_rows, seed, **self._how)

    @cached_property
    def _how(self) -> dict[str, Any]:
        from ct_llm.hub.base_text import read_base_text, renders_tools, special_tokens
        from ct_llm.prepare.prepare import cleaning_rules

        base = read_base_text(self._api, self._config.base_model)
        tools, special = renders_tools(base.chat_template), special_tokens(base.tokenizer_json)
        return {
            "rules": cleaning_rules(self._config.prepare, tools, special),
            "open_file": open_files(self._config, self._api),
            "cache": cache_folder(self._config),
        }


def keep_state(config: CTConfig, state: WatchState, decision: TriggerDecision) -> None:
    """Keep on this machine what the look has found; the next one then need not look again."""
    if state != _kept_state(config):
        write_record(config.work_dir / STATE, state)
    write_record(config.work_dir / DECISION, decision)


def _kept_state(config: CTConfig) -> WatchState | None:
    path = config.work_dir / STATE
    # One that another version wrote only costs time: what it says is looked up again.
    with suppress(InputError):
        return read_record(path, WatchState) if path.exists() else None
    return None


def record_decision(
    api: "HfApi", config: CTConfig, decision: TriggerDecision, state: WatchState
) -> str | None:
    """Write the decision into the ledger's history; the problem, where this token may not write."""
    from ct_llm.hub import decisions

    try:
        decisions.record_decision(api, config.adapter_repo, decision, state)
    except (HubAccessError, HubNotFoundError) as error:
        return f"the decision was not recorded: {error}"
    return None


def _record(
    api: "HfApi", config: CTConfig, decision: TriggerDecision, state: WatchState, tell: Tell
) -> None:
    problem = record_decision(api, config, decision, state)
    if problem is not None:
        tell(Progress("watch", problem))


# ---------------------------------------------------------------- what can be said beforehand


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
    check_target(config.gate, config.evaluate, suites)
    if config.evaluate.newest.enabled and config.prepare.holdout_fraction == 0:
        raise ConfigError(
            "evaluate.newest is enabled, but prepare.holdout_fraction is 0: nothing would be held "
            "out. Raise it, or set evaluate.newest.enabled: false."
        )


def check_target(
    gate: GateConfig, evaluation: EvaluateConfig, suites: Sequence[Suite]
) -> GateConfig:
    """The gate with its target named; by it, the rule and the decision go.

    Raises ConfigError when what must improve is none of the slices, or two suites say they are it.
    """
    from ct_llm.evaluation import resolved_gate

    return resolved_gate(gate, evaluation, suites)
