"""The commands of the loop: call the pipeline, print what came of it, choose the exit code."""

from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import typer
from rich.text import Text

from ct_llm import errors
from ct_llm.cli import costs, show
from ct_llm.cli.progress import ShowProgress
from ct_llm.config import CTConfig, load_config
from ct_llm.cycle import Cycle
from ct_llm.cycle_dir import CycleDir, WorkDir, read_record
from ct_llm.hub.client import hub_api
from ct_llm.pipeline import (
    CycleResult,
    check_before_training,
    check_target,
    find_cycle,
    keep_state,
    look,
    open_cycle,
    record_decision,
    run_cycle,
)
from ct_llm.records import (
    DataReport,
    EvalResult,
    GateDecision,
    PreparedData,
    StepName,
    TrainedAdapter,
    TriggerDecision,
    Verdict,
)

EXIT_CODES = {
    "promoted": errors.EXIT_PROMOTED,
    "rejected": errors.EXIT_REJECTED,
    "inconclusive": errors.EXIT_INCONCLUSIVE,
    "nothing_to_do": errors.EXIT_NOTHING_TO_DO,
}
VERDICT_CODES: dict[Verdict, int] = {
    "promote": errors.EXIT_PROMOTED,
    "reject": errors.EXIT_REJECTED,
    "inconclusive": errors.EXIT_INCONCLUSIVE,
}


def run(config: CTConfig, force: bool, as_json: bool) -> int:
    with ShowProgress(quiet=as_json) as progress:
        result = run_cycle(config, force=force, tell=progress)
    if as_json:
        show.as_json(vars(result))
    else:
        _print_result(config, result)
    return EXIT_CODES[result.outcome]


def _print_result(config: CTConfig, result: CycleResult) -> None:
    if result.decision is None or result.promotion is None:
        show.reasons(result.trigger)
        return
    show.decision(result.decision)
    promotion = result.promotion
    if promotion.outcome == "promoted":
        typer.echo(
            f"{promotion.tag} of {promotion.repo} is the champion: {promotion.url}\n"
            f"Records: {result.cycle_dir}. To undo: ct-llm rollback"
        )
    else:
        typer.echo(
            f"The champion stays. The challenger waits for a human in review #{promotion.review_number}: "
            f"{promotion.url}\nRecords: {result.cycle_dir}"
        )
        if result.outcome == "inconclusive":
            typer.echo(
                f"What kept it from a verdict can be mended afterwards: `ct-llm evaluate --cycle "
                f"{result.cycle_dir}` (a larger budget: with --config ct.yaml --set "
                "evaluate.max_items=…), then gate and promote; nothing is trained again."
            )


def plan(config: CTConfig, force: bool, as_json: bool) -> int:
    """`run --dry-run`: everything that a cycle would go by, with nothing changed anywhere."""
    from ct_llm.evaluate.suite import load_suites
    from ct_llm.hub.adapter_repo import read_head

    suites = load_suites(config.evaluate)
    check_before_training(config, suites)
    api = hub_api(config.hub)
    with show.working("looking at the Hub", quiet=as_json):
        head = read_head(api, config.adapter_repo)
        found = find_cycle(config, api, head, force=force)
    request, resumed = found.request, found.unfinished is not None
    known_costs, problem = costs.costs_or_why_not(
        config.evaluate, suites, config.hub, quiet=as_json
    )
    if as_json:
        show.as_json(
            {
                "starts": request is not None,
                "resumes": resumed,
                "decision": found.decision,
                "request": request,
                "suites": suites,
                "costs": costs.as_data(known_costs),
                "costs_unknown": problem,
            }
        )
    else:
        out = show.console()
        show.trigger(found.decision)
        champion = request.champion if request else head.champion
        against = f"v{champion.version} of {champion.repo}" if champion else "the base model itself"
        out.print(f"Compared with: {against}", markup=False)
        for suite in suites:
            tasks = ", ".join(task.task for task in suite.tasks)
            out.print(f"  {suite.slice}: {tasks} (tolerance {suite.tolerance:g})", markup=False)
        if problem is not None:
            out.print(Text(f"What the suites cost is unknown: {problem}"), soft_wrap=True)
        elif known_costs:
            out.print(costs.table(known_costs, num_adapters=2))
            out.print(Text(costs.footnote(known_costs, num_adapters=2)), soft_wrap=True)
        target = check_target(config.gate, config.evaluate, suites).target
        out.print(f"Target: {target} must improve by more than {config.gate.min_gain:g}")
        out.print(_rules(config), markup=False)
        does = f"{'go on with' if resumed else 'start'} cycle {request.cycle_id}" if request else ""
        out.print(f"A run would {does or 'start no cycle'}. Nothing was changed.", markup=False)
    return 0 if request else errors.EXIT_NOTHING_TO_DO


def _rules(config: CTConfig) -> str:
    """What else the comparison goes by, in a line."""
    gate, evaluation = config.gate, config.evaluate
    budgets = [
        f"at most {evaluation.max_items:,} items" if evaluation.max_items else "",
        f"at most {evaluation.max_seconds:g} s" if evaluation.max_seconds else "",
    ]
    newest = f"up to {evaluation.newest.max_items} held-out rows" * evaluation.newest.enabled
    parts = [
        f"{gate.mode}, alpha {gate.alpha:g}",
        f"anchor {gate.anchor}" if gate.anchor else "no anchor",
        *filter(None, [newest, *budgets]),
    ]
    return f"Gate: {'; '.join(parts)}"


def watch(
    config: CTConfig,
    begin: bool,
    as_json: bool,
    *,
    force: bool = False,
    record: bool = False,
    prometheus: bool = False,
) -> int:
    """The decision. begin: and a cycle, where one is due, or forced. record: into the ledger."""
    if begin:
        work = WorkDir(config.work_dir)
        with ShowProgress(quiet=True) as progress, work.locked():
            cycle, decision = open_cycle(config, work, force=force, tell=progress)
        folder = cycle.dir.path if cycle else None
    else:
        decision, folder = _look(config, record, quiet=as_json or prometheus), None
    if as_json:
        show.as_json({"decision": decision, "cycle": folder})
    elif prometheus:
        from ct_llm.watch.metrics import prometheus_text

        typer.echo(prometheus_text(decision, config.adapter_repo), nl=False)
    else:
        show.trigger(decision)
        if folder is not None:
            typer.echo(f"Cycle begun: {folder}. Next: ct-llm prepare --cycle {folder}")
    return 0 if folder is not None or decision.should_train else errors.EXIT_NOTHING_TO_DO


def _look(config: CTConfig, record: bool, *, quiet: bool) -> TriggerDecision:
    from ct_llm.hub.adapter_repo import read_head

    api = hub_api(config.hub)
    problem = None
    with show.working("looking at the Hub", quiet=quiet):
        head = read_head(api, config.adapter_repo)
        watched = look(config, api, head)
        if record:
            problem = record_decision(api, config, watched.decision, watched.state)
    # Without a folder to write in, the next look only takes longer.
    with suppress(errors.StorageError):
        keep_state(config, watched.state, watched.decision)
    if problem is not None:
        typer.echo(f"ct-llm: {problem}", err=True)
    return watched.decision


def step(name: str, folder: Path, config: Path | None, sets: list[str], as_json: bool) -> int:
    if name not in get_args(StepName):
        raise ValueError(f"no step {name!r}")
    with ShowProgress(quiet=as_json) as progress:
        cycle = _cycle(folder, config, sets, progress)
        with cycle.dir.locked(), cycle.failing_for_good_is_noted():
            cycle.dir.write_config(cycle.config)
            output = getattr(cycle, name)()
            if name == "promote":
                cycle.finish()
    if as_json:
        show.as_json(output)
    elif isinstance(output, GateDecision):
        show.decision(output)
    elif isinstance(output, PreparedData):
        report = folder / output.report_path
        show.data_report(read_record(report, DataReport))
        typer.echo(f"All of it: {report.with_suffix('.txt')}")
    return VERDICT_CODES[output.verdict] if isinstance(output, GateDecision) else _code(cycle, name)


def _code(cycle: Cycle, name: str) -> int:
    outcome = cycle.dir.outcome() if name == "promote" else None
    return EXIT_CODES[outcome.outcome] if outcome else 0


def gate_dry_run(folder: Path, config: Path | None, sets: list[str], as_json: bool) -> int:
    """What is asked of the scores, and the decision with this configuration; written nowhere."""
    from ct_llm.evaluate.suite import load_suites
    from ct_llm.evaluation import gate_cycle_files
    from ct_llm.gate.sentences import plan_sentence
    from ct_llm.gate.slice_tests import plan_tests

    cycle = _cycle(folder, config, sets, ShowProgress(quiet=True))
    result = cycle.dir.output("evaluate", EvalResult)
    evaluation = cycle.config.evaluate
    gate = check_target(cycle.config.gate, evaluation, load_suites(evaluation))
    decision = gate_cycle_files(gate, result, folder)
    if as_json:
        show.as_json(decision)
        return VERDICT_CODES[decision.verdict]
    for test in plan_tests(gate, result.slices):
        typer.echo(plan_sentence(test))
    show.decision(decision)
    does = "promote the challenger" if decision else "leave the champion and open a review"
    typer.echo(f"`ct-llm promote` would {does}. Nothing was written.")
    return VERDICT_CODES[decision.verdict]


def promote_dry_run(folder: Path, config: Path | None, sets: list[str], as_json: bool) -> int:
    cycle = _cycle(folder, config, sets, ShowProgress(quiet=True))
    decision = cycle.dir.output("gate", GateDecision)
    adapter = cycle.dir.output("train", TrainedAdapter)
    action: dict[str, Any] = {
        "verdict": decision.verdict,
        "repo": cycle.request.adapter_repo,
        "adapter_digest": adapter.digest,
        "parent_revision": cycle.request.head_revision,
        "action": "one commit on main and a tag" if decision else "a pull request for review",
    }
    if as_json:
        show.as_json(action)
    else:
        typer.echo("\n".join(f"{key}: {value}" for key, value in action.items()))
    return VERDICT_CODES[decision.verdict]


def _cycle(folder: Path, config: Path | None, sets: list[str], progress: ShowProgress) -> Cycle:
    if not (folder / "cycle.json").is_file():
        raise errors.InputError(
            f"{folder} is not a cycle's folder. `ct-llm watch --begin` begins one and prints its path."
        )
    directory = CycleDir(folder)
    if config is not None:
        loaded = load_config(config, sets)
    elif sets:
        raise errors.ConfigError("--set needs --config: the cycle's own configuration is fixed.")
    else:
        loaded = directory.config()
    return Cycle(loaded, directory, hub_api(loaded.hub), progress)
