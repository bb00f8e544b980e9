"""The data report as text that people like to read: a funnel, tables, examples.

Everything that comes from rows or repos goes through `one_line`: rows may be hostile.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich.cells import cell_len

from ct_llm.prepare.one_line import one_line
from ct_llm.records import ContaminatedRow, DataReport, DriftReport, Lengths, QuarantineSample

CONTAMINATED = "quarantined:contaminated"
SOURCE_NOT_KNOWN = "(source not known)"
MAX_SOURCES_SHOWN = 20
MAX_NAME_CHARS = 60

NEW_FATES = {
    "duplicate": "the same as another new row",
    "seen_before": "the champion has seen it",
    "nearly_seen_before": "nearly the same as a row it has seen",
    CONTAMINATED: "repeats an item of the evaluation",
    "near_duplicate": "nearly the same as another new row",
    "too_near_to_hold_out": "prompt too near to a training row",
    "left_out_by_weight": "left out by its dataset's weight",
    "train": "to train on",
    "holdout": "held out",
}
EARLIER_FATES = {
    "earlier:unusable": "not fit by today's rules",
    "earlier:duplicate": "the same as another earlier row",
    "earlier:deleted": "deleted with its file, so never used again",
    "earlier:near_duplicate": "nearly the same as another one",
    "earlier:holdout": "on the holdout side",
    "earlier:contaminated": "repeats an item of the evaluation",
    "earlier:not_replayed": "not replayed",
    "replay": "replayed",
}
ALWAYS_SHOWN = ("quarantined", CONTAMINATED, "train", "holdout")


class Line(NamedTuple):
    """Of a funnel."""

    depth: int
    """0: all rows that were read; 1: a fate; 2: a part of it."""
    label: str
    num_rows: int
    share: float
    """Of all rows that were read, in percent, rounded so that the parts add up."""


def report_text(report: DataReport) -> str:
    """The whole report; ends with a line end."""
    new, earlier = funnels(report.counts)
    sections = [
        _section("New rows", funnel_table(new)),
        _section("Earlier rows", funnel_table(earlier)) if earlier[0].num_rows else [],
        _section("By source", source_table(report)),
        _section("Lengths", length_table(report.lengths)),
        _section("Rows that repeat an item of the evaluation", _contaminated(report)),
        _section("Quarantine, for example", _samples(report.quarantine_samples)),
        _section("Drift", drift_lines(report.drift)),
        _section("Notes", [f"- {one_line(note, 1_000)}" for note in report.notes]),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [title, "=" * len(title), *lines] if lines else []


# ---------------------------------------------------------------- what became of the rows


def funnels(counts: Mapping[str, int]) -> tuple[list[Line], list[Line]]:
    """Of new and of earlier rows: every row that was read is in one line of depth 1, and in no other.

    A fate that is not known here stands under its own name.
    """
    earlier = {fate: count for fate, count in counts.items() if _is_earlier(fate)}
    new = {fate: count for fate, count in counts.items() if fate not in earlier}
    return _lines(new, NEW_FATES, ALWAYS_SHOWN), _lines(earlier, EARLIER_FATES, ())


def _is_earlier(fate: str) -> bool:
    return fate == "replay" or fate.startswith("earlier:")


def _lines(
    counts: Mapping[str, int], labels: Mapping[str, str], always: Sequence[str]
) -> list[Line]:
    shares = percentages(counts)
    bad = sorted((fate for fate in counts if _is_rejected(fate)), key=lambda f: (-counts[f], f))
    bad = [fate for fate in bad if counts[fate]]
    lines = [Line(0, "read", sum(counts.values()), sum(shares.values()))]
    if bad or "quarantined" in always:
        together = sum(counts[fate] for fate in bad)
        lines.append(Line(1, "not fit to train on", together, sum(shares[f] for f in bad)))
        reasons = [(one_line(fate.partition(":")[2], MAX_NAME_CHARS), fate) for fate in bad]
        lines += [Line(2, reason, counts[fate], shares[fate]) for reason, fate in reasons]
    others = {fate: one_line(fate, MAX_NAME_CHARS) for fate in counts if fate not in labels}
    for fate, label in {**others, **labels}.items():
        if not _is_rejected(fate) and (counts.get(fate) or fate in always):
            lines.append(Line(1, label, counts.get(fate, 0), shares.get(fate, 0.0)))
    return [line._replace(share=round(line.share, 1)) for line in lines]


def _is_rejected(fate: str) -> bool:
    return fate.startswith("quarantined:") and fate != CONTAMINATED


def percentages(counts: Mapping[str, int]) -> dict[str, float]:
    """Shares in percent with one decimal that sum to 100.0, by the largest remainder.

    All 0.0 where there are no rows; equal remainders go by name.
    """
    total = sum(counts.values())
    if not total:
        return dict.fromkeys(counts, 0.0)
    tenths = {name: divmod(1_000 * count, total) for name, count in counts.items()}
    missing = 1_000 - sum(whole for whole, _ in tenths.values())
    by_remainder = sorted(tenths, key=lambda name: (-tenths[name][1], name))
    rounded_up = set(by_remainder[:missing])
    return {name: (whole + (name in rounded_up)) / 10 for name, (whole, _) in tenths.items()}


def funnel_table(lines: Sequence[Line]) -> list[str]:
    return aligned(
        ["", "rows", "share"],
        [
            ["  " * line.depth + line.label, f"{line.num_rows:,}", f"{line.share:.1f} %"]
            for line in lines
        ],
    )


# ---------------------------------------------------------------- tables


def source_table(
    report: DataReport,
    max_sources: int = MAX_SOURCES_SHOWN,
    max_name_chars: int = MAX_NAME_CHARS,
) -> list[str]:
    """New rows by source, the largest first; the columns add up to the funnel.

    A column without any rows is left out.
    """
    by_source = {name: _grouped(fates) for name, fates in report.counts_by_source.items()}
    rest = _grouped(report.counts)
    for groups in by_source.values():
        rest.subtract(groups)
    if rest := +rest:
        by_source[SOURCE_NOT_KNOWN] = rest + by_source.get(SOURCE_NOT_KNOWN, Counter())
    names = sorted(by_source, key=lambda name: (-by_source[name].total(), name))
    shown = [(one_line(name, max_name_chars), by_source[name]) for name in names]
    shown = [(name, groups) for name, groups in shown if groups.total()]
    if len(shown) > max_sources:
        others = sum((groups for _, groups in shown[max_sources:]), Counter[str]())
        shown[max_sources:] = [(f"({len(shown) - max_sources:,} more)", others)]
    columns = [c for c in _COLUMNS if any(groups[c] for _, groups in shown)]
    return aligned(
        ["source", "read", *columns],
        [
            [name, f"{groups.total():,}", *(f"{groups[column]:,}" for column in columns)]
            for name, groups in shown
        ],
    )


def _grouped(fates: Mapping[str, int]) -> Counter[str]:
    """New rows by the columns of the table."""
    groups: Counter[str] = Counter()
    for fate, count in fates.items():
        if not _is_earlier(fate):
            groups["not fit" if _is_rejected(fate) else _GROUPS.get(fate, "left out")] += count
    return groups


_COLUMNS = ("not fit", "repeats", "in evals", "left out", "train", "held out")
_GROUPS = {
    "duplicate": "repeats",
    "seen_before": "repeats",
    "nearly_seen_before": "repeats",
    "near_duplicate": "repeats",
    CONTAMINATED: "in evals",
    "train": "train",
    "holdout": "held out",
}


def length_table(lengths: Mapping[str, Lengths]) -> list[str]:
    columns = ("rows", "shortest", "median", "90 %", "99 %", "longest", "mean")
    return aligned(
        ["", *columns],
        [
            [
                f"{one_line(side, MAX_NAME_CHARS)}, {found.unit}",
                *(f"{number:,}" for number in (found.num_rows, found.minimum, found.median)),
                *(f"{number:,}" for number in (found.p90, found.p99, found.maximum)),
                f"{found.mean:,.1f}",
            ]
            for side, found in lengths.items()
        ],
    )


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right; nothing without rows."""
    table = [header, *rows]
    if len(table) == 1:
        return []
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first = cells[0] + " " * (widths[0] - cell_len(cells[0]))
        rest = (
            " " * (width - cell_len(cell)) + cell
            for cell, width in zip(cells[1:], widths[1:], strict=True)
        )
        return "  ".join([first, *rest]).rstrip()

    return [line(cells) for cells in table]


# ---------------------------------------------------------------- examples


def _contaminated(report: DataReport) -> list[str]:
    lines = [contaminated_line(row) for row in report.contaminated]
    num_hit = report.counts.get(CONTAMINATED, 0)
    if (more := num_hit - len(lines)) > 0:
        lines.append(f"... and {more:,} more, in data/contaminated.parquet")
    return lines


def contaminated_line(row: ContaminatedRow) -> str:
    """`gsm8k/12/0a1b (reasoning), question: owner/rows train.jsonl row 17`."""
    how = f"{row.containment:.0%} of its wording" if row.kind == "ngrams" else _KINDS[row.kind]
    item = f"{one_line(row.item_id, 120)} ({one_line(row.slice, MAX_NAME_CHARS)})"
    return f"{item}, {how}: {place(row)}"


_KINDS = {"exact": "a text of it", "question": "its question"}


def _samples(samples: Sequence[QuarantineSample]) -> list[str]:
    lines: list[str] = []
    reason = None
    for sample in samples:
        if sample.reason != reason:
            reason = sample.reason
            lines.append(one_line(reason, MAX_NAME_CHARS))
        lines += [f"  {place(sample)}", f"    {one_line(sample.original, 300)}"]
    return lines


def place(row: ContaminatedRow | QuarantineSample) -> str:
    return f"{one_line(row.repo, 120)} {one_line(row.path, 120)} row {row.row_index:,}"


def drift_lines(drift: DriftReport | None) -> list[str]:
    if drift is None:
        return []
    verdict = "differ" if drift.drifted else "do not differ"
    lines = [
        f"New rows {verdict} from the champion's: a classifier's AUC is {drift.auc:.2f}, "
        f"p {drift.p_value:.2g} ({drift.num_new:,} against {drift.num_reference:,} rows).",
        *(f"- {one_line(feature.sentence, 300)}" for feature in drift.features),
    ]
    if drift.words:
        lines.append(f"- it knew new rows by: {', '.join(one_line(w, 40) for w in drift.words)}")
    return lines
