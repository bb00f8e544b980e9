import re
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ct_llm.prepare.report_text import (
    CONTAMINATED,
    EARLIER_FATES,
    NEW_FATES,
    Line,
    aligned,
    funnels,
    percentages,
    report_text,
    source_table,
)
from ct_llm.records import DataReport, DriftedFeature, DriftReport, Lengths

REASONS = [f"quarantined:{reason}" for reason in ("empty", "role_order", "too_long")]
FATES = [*NEW_FATES, *EARLIER_FATES, *REASONS, "some_new_fate", "earlier:some_new_fate"]
counts_of_fates = st.dictionaries(st.sampled_from(FATES), st.integers(0, 10**7))


def _report(counts: dict[str, int], **given_fields: object) -> DataReport:
    fields = {
        "counts_by_source": {},
        "lengths": {},
        "quarantine_samples": (),
        "contaminated": (),
        **given_fields,
    }
    return DataReport.model_validate({"counts": counts, **fields})


def _tenths(lines: list[Line], depth: int) -> int:
    return sum(round(line.share * 10) for line in lines if line.depth == depth)


@given(counts_of_fates)
def test_every_row_is_in_the_funnel_once_and_the_shares_add_up(counts: dict[str, int]) -> None:
    new, earlier = funnels(counts)
    assert new[0].num_rows + earlier[0].num_rows == sum(counts.values())
    for lines in (new, earlier):
        total = lines[0]
        assert total.depth == 0
        assert sum(line.num_rows for line in lines if line.depth == 1) == total.num_rows
        assert _tenths(lines, 1) == round(total.share * 10) == (1_000 if total.num_rows else 0)
    rejected = next(line for line in new if line.label == "not fit to train on")
    assert sum(line.num_rows for line in new if line.depth == 2) == rejected.num_rows
    assert _tenths(new, 2) == round(rejected.share * 10)


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 10**9), min_size=1))
def test_no_share_is_off_by_a_tenth(counts: dict[str, int]) -> None:
    total = sum(counts.values())
    for name, share in percentages(counts).items():
        exact = 100 * counts[name] / total if total else 0.0
        assert abs(share - exact) < 0.1 + 1e-9


def test_the_funnel_names_what_a_person_looks_for_even_where_it_is_nothing() -> None:
    new, earlier = funnels({"train": 3, "holdout": 1})
    assert [(line.label, line.num_rows) for line in new] == [
        ("read", 4),
        ("not fit to train on", 0),
        ("repeats an item of the evaluation", 0),
        ("to train on", 3),
        ("held out", 1),
    ]
    assert [line.num_rows for line in earlier] == [0]


def _cells(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=2),
        st.dictionaries(st.sampled_from([*NEW_FATES, *REASONS]), st.integers(1, 10**6)),
        max_size=12,
    ),
    st.integers(0, 5),
)
def test_the_table_by_source_adds_up_to_the_funnel(
    by_source: dict[str, dict[str, int]], not_attributed: int
) -> None:
    counts = Counter[str]()
    for fates in by_source.values():
        counts.update(fates)
    counts[CONTAMINATED] += not_attributed
    lines = source_table(_report(dict(counts), counts_by_source=by_source), max_sources=4)
    if not counts.total():
        assert lines == []
        return
    header, *rows = map(_cells, lines)
    numbers = [[int(cell.replace(",", "")) for cell in row[1:]] for row in rows]
    sums = dict(zip(header[1:], map(sum, zip(*numbers, strict=True)), strict=True))
    assert len(rows) <= 5
    assert sums["read"] == counts.total()
    assert all(row[0] == sum(row[1:]) for row in numbers)
    assert sums.get("train", 0) == counts["train"]
    assert sums.get("in evals", 0) == counts[CONTAMINATED]
    assert sums.get("not fit", 0) == sum(counts[reason] for reason in REASONS)


def test_columns_stand_under_each_other_whatever_the_script() -> None:
    lines = aligned(["source", "read"], [["中文", "1"], ["abcdef", "12,345"]])
    assert lines == ["source    read", "中文         1", "abcdef  12,345"]


def test_the_whole_text() -> None:
    report = _report(
        {"quarantined:empty": 1, "duplicate": 2, "train": 90, "holdout": 7, "replay": 90},
        counts_by_source={
            "own/rows": {"train": 90, "holdout": 7, "duplicate": 2, "quarantined:empty": 1}
        },
        lengths={
            "train": Lengths(
                unit="tokens",
                num_rows=90,
                minimum=3,
                median=70,
                p90=200,
                p99=900,
                maximum=1234,
                mean=99.04,
            )
        },
        quarantine_samples=[
            {
                "reason": "empty",
                "repo": "own/rows",
                "path": "a.jsonl",
                "row_index": 3,
                "original": '{"messages": []}',
            }
        ],
        drift=DriftReport(
            num_new=100,
            num_reference=2000,
            auc=0.71,
            p_value=0.005,
            drifted=True,
            features=(
                DriftedFeature(
                    feature="length",
                    statistic="ks",
                    value=0.3,
                    p_value=0.01,
                    sentence="They are longer.",
                ),
            ),
            words=("def", "\x1b[31m"),
        ),
        notes=["b.jsonl was removed"],
    )
    assert report_text(report) == TEXT


TEXT = r"""New rows
========
                                     rows    share
read                                  100  100.0 %
  not fit to train on                   1    1.0 %
    empty                               1    1.0 %
  the same as another new row           2    2.0 %
  repeats an item of the evaluation     0    0.0 %
  to train on                          90   90.0 %
  held out                              7    7.0 %

Earlier rows
============
            rows    share
read          90  100.0 %
  replayed    90  100.0 %

By source
=========
source    read  not fit  repeats  train  held out
own/rows   100        1        2     90         7

Lengths
=======
               rows  shortest  median  90 %  99 %  longest  mean
train, tokens    90         3      70   200   900    1,234  99.0

Quarantine, for example
=======================
empty
  own/rows a.jsonl row 3
    {"messages": []}

Drift
=====
New rows differ from the champion's: a classifier's AUC is 0.71, p 0.005 (100 against 2,000 rows).
- They are longer.
- it knew new rows by: def, \x1b[31m

Notes
=====
- b.jsonl was removed
"""
