"""Records as people read them: tables and sentences. Numbers stand as the records have them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
import yaml
from pydantic import BaseModel
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ct_llm.config import CTConfig
from ct_llm.durations import say_duration
from ct_llm.records import (
    CycleSummary,
    DataReport,
    GateDecision,
    SliceState,
    SliceVerdict,
    TriggerDecision,
)

WIDTH_WITH_BOUNDS = 100
"""Columns of a terminal that has room for them; the sentence below the table says the decisive ones."""

STYLES = {
    "promote": "bold green",
    "promoted": "bold green",
    "PASS": "green",
    "reject": "bold red",
    "rejected": "bold red",
    "FAIL": "bold red",
    "inconclusive": "bold yellow",
    "UNDECIDED": "yellow",
    "NOT_EVALUATED": "yellow",
    "rolled_back": "bold blue",
}

STATES: dict[SliceState, str] = {
    "PASS": "pass",
    "FAIL": "FAIL",
    "UNDECIDED": "undecided",
    "NOT_EVALUATED": "no scores",
}


def console() -> Console:
    return Console(highlight=False)


def visible(text: str, max_chars: int = 200) -> str:
    """Other people's text on one line: a terminal shows all of it and obeys none of it."""
    from ct_llm.prepare.one_line import one_line

    return one_line(text, max_chars)


@contextmanager
def working(doing: str, *, quiet: bool) -> Iterator[None]:
    """A sign of life on a terminal's standard error while the Hub is asked."""
    with Console(stderr=True, quiet=quiet).status(f"{doing} …"):
        yield


def as_json(value: Any) -> None:
    """One JSON object on standard output; records as they are stored."""

    def plain(item: Any) -> Any:
        return item.model_dump(mode="json") if isinstance(item, BaseModel) else str(item)

    typer.echo(json.dumps(value, indent=2, default=plain))


def config(loaded: CTConfig, *, as_json: bool) -> None:
    data = loaded.model_dump(mode="json")
    text = json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False)
    typer.echo(text.rstrip())


def trigger(decision: TriggerDecision) -> None:
    console().print(Text(decision.sentence, style="bold"), soft_wrap=True)
    reasons(decision)


def reasons(decision: TriggerDecision) -> None:
    """Every rule and brake with its value and threshold, for and against."""
    table = Table("rule", "value", "threshold", "met", "reason", box=None, pad_edge=False)
    for reason in decision.reasons:
        said = {"reason": "yes", "brake": "holds"}[reason.kind] if reason.met else "no"
        table.add_row(
            reason.rule,
            amount(reason.value, reason.unit),
            amount(reason.threshold, reason.unit),
            said,
            Text(reason.sentence),
        )
    console().print(table)


def decision(decided: GateDecision) -> None:
    out = console()
    out.print(slices(decided, with_bounds=out.width >= WIDTH_WITH_BOUNDS))
    out.print(Text(decided.sentence, style=STYLES[decided.verdict]))


def slices(decided: GateDecision, *, with_bounds: bool = True) -> Table:
    """One line a test; the mean of the guards stands below, for what it is worth."""
    # Two columns between the columns and none around them: seven must fit in 80.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    # The one that may be broken into lines where room is short: a number cut off is another number.
    table.add_column("slice", overflow="fold")
    bounds = ["bounds"] * with_bounds
    for name in ("items", "champion", "challenger", "delta", *bounds, "needed"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for verdict in decided.slices:
        relation = ">" if verdict.strict else "≥"
        table.add_row(
            verdict.slice if verdict.role == "guard" else f"{verdict.slice} ({verdict.role})",
            _items(verdict),
            mean(verdict.champion_mean, verdict.in_percent),
            mean(verdict.challenger_mean, verdict.in_percent),
            change(verdict.delta, verdict.in_percent),
            *[_bounds(verdict)] * with_bounds,
            f"{relation} {_needed(verdict)}",
            Text(STATES[verdict.state], style=STYLES[verdict.state]),
        )
    if decided.overall_champion_mean is not None and decided.overall_challenger_mean is not None:
        in_percent = all(verdict.in_percent for verdict in decided.slices)
        delta = decided.overall_challenger_mean - decided.overall_champion_mean
        table.add_section()
        table.add_row(
            "mean of guards",
            "",
            mean(decided.overall_champion_mean, in_percent),
            mean(decided.overall_challenger_mean, in_percent),
            change(delta, in_percent),
            style="dim",
        )
    return table


def _needed(verdict: SliceVerdict) -> str:
    """The threshold; a sign of 0 would say nothing."""
    text = change(verdict.threshold, verdict.in_percent)
    return text if float(text) else text[1:]


def _items(verdict: SliceVerdict) -> str:
    """How many were scored, and of how many where they were not all needed."""
    if verdict.num_used == verdict.num_items:
        return f"{verdict.num_items:,}"
    return f"{verdict.num_used:,}/{verdict.num_items:,}"


def _bounds(verdict: SliceVerdict) -> str:
    """Of delta over all items; once all are scored, delta is what it is."""
    if verdict.delta is None or verdict.num_used == verdict.num_items:
        return ""
    low, high = (change(bound, verdict.in_percent) for bound in (verdict.lower, verdict.upper))
    return f"[{low}, {high}]"


def amount(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "seconds":
        return say_duration(value) if value >= 0 else f"in {say_duration(-value)}"
    return f"{value:.2f}" if unit == "AUC" else number(value)


def number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def mean(value: float | None, in_percent: bool = True) -> str:
    """In percent where scores lie in [0, 1], else as they are."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if in_percent else f"{value:.2f}"


def change(value: float | None, in_percent: bool = True) -> str:
    """In points where scores lie in [0, 1], else as it is; the sign tells a small loss from a small gain."""
    if value is None:
        return "–"
    return f"{100 * value:+.1f}" if in_percent else f"{value:+.2f}"


def history(entries: Sequence[CycleSummary]) -> None:
    """A line of facts and a sentence for each cycle: fits any terminal, and greps well."""
    out = console()
    if not entries:
        out.print("No cycle yet. `ct-llm run` starts the first.")
    for entry in entries:
        review = f"review #{entry.review_number}" if entry.review_number else "–"
        line = Text.assemble(
            (entry.finished_at[:16].replace("T", " "), "dim"),
            "  ",
            (f"{entry.outcome:<12}", STYLES[entry.outcome]),
            f"  {f'v{entry.version}' if entry.version else review:<10}  ",
            (entry.cycle_id, "dim"),
        )
        out.print(line)
        out.print(Padding(Text(without_outcome(entry)), (0, 0, 0, 4)))


def without_outcome(entry: CycleSummary) -> str:
    """The sentence beside the outcome: "Rejected: ..." would say it twice.

    Where the gate said another thing than what became of it, it stays: a person may have decided.
    """
    said, colon, reason = entry.sentence.partition(": ")
    # A promotion begins with "Promote".
    repeats = bool(colon) and entry.outcome.startswith(said.lower())
    return reason if repeats else entry.sentence


def data_report(report: DataReport) -> None:
    """What became of the rows, in short; all of it is in the cycle's `data/report.txt`."""
    from ct_llm.prepare import report_text as text

    out = console()
    new, earlier = text.funnels(report.counts)
    first = {sample.reason: sample for sample in reversed(report.quarantine_samples)}
    examples = [
        text.one_line(f"{sample.reason}: {text.place(sample)}: {sample.original}", out.width - 2)
        for _, sample in sorted(first.items())
    ]
    sections = {
        "new rows": text.funnel_table(new),
        "earlier rows": text.funnel_table(earlier) if earlier[0].num_rows else [],
        "by source": text.source_table(report, max_sources=8, max_name_chars=22),
        "lengths": text.length_table(report.lengths),
        "in the evaluation": [text.contaminated_line(row) for row in report.contaminated[:3]],
        "in quarantine, for example": examples,
        "drift": text.drift_lines(report.drift),
        "notes": [text.one_line(note, 1_000) for note in report.notes],
    }
    for title, lines in sections.items():
        if lines:
            out.print(Text(title, style="bold"))
            # Lines longer than the terminal are its own to break: tables stay whole in a pipe.
            out.print(Text("".join(f"  {line}\n" for line in lines)), soft_wrap=True)


def decisions(found: Sequence[TriggerDecision]) -> None:
    """A line of facts and a sentence for each decision."""
    out = console()
    if not found:
        out.print("No decision recorded yet. `ct-llm run` and `ct-llm watch --record` record them.")
    for decided in found:
        outcome = ("train", STYLES["promoted"]) if decided else ("wait", "yellow")
        out.print(Text.assemble((decided.checked_at[:16].replace("T", " "), "dim"), "  ", outcome))
        out.print(Padding(Text(decided.sentence), (0, 0, 0, 4)))
