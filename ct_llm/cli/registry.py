"""The commands that look at the champions and change which one is the head."""

import typer
from rich.table import Table
from rich.text import Text

from ct_llm.cli import show
from ct_llm.config import CTConfig
from ct_llm.cycle_dir import WorkDir
from ct_llm.durations import say_duration
from ct_llm.hub.client import hub_api
from ct_llm.records import STEPS


def rollback(
    config: CTConfig, version: str | None, reason: str, dry_run: bool, as_json: bool
) -> None:
    from ct_llm.promote import rollback as promote_rollback

    api = hub_api(config.hub)
    if dry_run:
        target = promote_rollback.find_target(api, config.adapter_repo, version)
        if as_json:
            show.as_json({"tag": target.tag, "revision": target.revision})
        else:
            typer.echo(f"Would make {target.tag} ({target.revision[:12]}) the head of main again.")
        return
    with show.working("rolling back", quiet=as_json):
        summary = promote_rollback.rollback(api, config.adapter_repo, to=version, reason=reason)
    if as_json:
        show.as_json(summary)
    else:
        typer.echo(f"{summary.sentence}\nv{summary.version} is the champion: {summary.revision}")


def history(config: CTConfig, limit: int, as_json: bool, *, decisions: bool = False) -> None:
    """Cycles, or the decisions at each look at the data, newest first."""
    from ct_llm.hub.decisions import read_decisions
    from ct_llm.hub.ledger import read_ledger

    api = hub_api(config.hub)
    if decisions:
        with show.working("reading the ledger", quiet=as_json):
            found = read_decisions(api, config.adapter_repo, limit)
        show.as_json({"decisions": found}) if as_json else show.decisions(found)
        return
    with show.working("reading the ledger", quiet=as_json):
        entries = read_ledger(api, config.adapter_repo, limit)
    show.as_json({"cycles": entries}) if as_json else show.history(entries)


def status(config: CTConfig, as_json: bool) -> None:
    from ct_llm.hub.adapter_repo import read_head
    from ct_llm.pipeline import look, still_holds

    api = hub_api(config.hub)
    with show.working("looking at the Hub", quiet=as_json):
        head = read_head(api, config.adapter_repo)
        trigger = look(config, api, head).decision
    under_way = {
        cycle.cycle_id: {
            "finished_steps": ["watch", *(s for s in STEPS if cycle.record(s) is not None)],
            "stopped": cycle.failure(),
        }
        for cycle in WorkDir(config.work_dir).cycles()
        # One that the champion has overtaken is over too, only nobody has written it down.
        if cycle.outcome() is None and still_holds(cycle, config, head)
    }
    if as_json:
        show.as_json(
            {
                "champion": head.champion,
                "trigger": trigger,
                "last_decision": head.ledger.decision,
                "last_attempt": head.last_attempt,
                "under_way": under_way,
            }
        )
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    champion = head.champion
    lineage = champion.lineage if champion else None
    if champion is None:
        table.add_row("champion", f"none yet in {config.adapter_repo}")
    else:
        since = f", since {lineage.created_at}" if lineage else ", without lineage"
        table.add_row("champion", f"v{champion.version} at {champion.revision[:12]}{since}")
    if lineage is not None:
        seen = ", ".join(f"{d.name} ({d.num_rows:,} rows)" for d in lineage.datasets)
        table.add_row("trained on", seen)
    if trigger.data_age_seconds is not None:
        table.add_row("data age", say_duration(trigger.data_age_seconds))
    table.add_row("trigger", Text(trigger.sentence))
    if head.ledger.decision is not None:
        recorded = head.ledger.decision
        table.add_row("last recorded", Text(f"{recorded.checked_at}: {recorded.sentence}"))
    if head.last_attempt is not None:
        last = head.last_attempt
        table.add_row("last cycle", Text(f"{last.outcome}: {show.without_outcome(last)}"))
    for cycle_id, state in under_way.items():
        steps = ", ".join(state["finished_steps"])
        stopped = f"; stopped by: {state['stopped']}" if state["stopped"] else ""
        label = "stopped" if state["stopped"] else "under way"
        table.add_row(label, Text(f"{cycle_id}: finished {steps}{stopped}"))
    show.console().print(table)
