import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ct_llm.cycle_dir import read_record
from ct_llm.errors import InputError
from ct_llm.prepare.report import (
    MAX_CONTAMINATED,
    MAX_MEASURED_CHARS,
    MAX_SAMPLE_CHARS,
    MAX_SOURCES,
    OTHER_SOURCES,
    REPORT_PATH,
    REPORT_TEXT_PATH,
    SAMPLES_PER_REASON,
    length_sample,
    write_report,
)
from ct_llm.prepare.tables import CONTAMINATED, QUARANTINE, table
from ct_llm.records import DataReport

Place = tuple[str, str, int]


def _row(text: str) -> str:
    return json.dumps([{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}])


class Cycle:
    """A cycle's folder with its two tables of bad rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bad([])
        self.hits([])

    def bad(self, rows: Sequence[tuple[str, str, int, str, str]]) -> None:
        with table(self.folder / "quarantine.parquet", QUARANTINE) as append:
            for row in rows:
                append(row)

    def hits(self, rows: Sequence[tuple[str, str, int, str, str, str, float]]) -> None:
        with table(self.folder / "contaminated.parquet", CONTAMINATED) as append:
            for row in rows:
                append(row)

    def report(self, **given: Any) -> DataReport:
        arguments: dict[str, Any] = {
            "counts": {},
            "counts_by_source": {},
            "messages": {},
            "count_tokens": None,
            **given,
        }
        return write_report(
            self.folder,
            quarantine=self.folder / "quarantine.parquet",
            contaminated=self.folder / "contaminated.parquet",
            **arguments,
        )

    @property
    def text(self) -> str:
        return (self.folder / REPORT_TEXT_PATH).read_text(encoding="utf-8")


@pytest.fixture
def cycle(tmp_path: Path) -> Cycle:
    return Cycle(tmp_path)


def test_the_record_is_what_is_returned(cycle: Cycle) -> None:
    report = cycle.report(counts={"train": 3}, messages={"train": [_row("?")]}, notes=["gone"])
    assert read_record(cycle.folder / REPORT_PATH, DataReport) == report
    assert report.notes == ("gone",)


# ---------------------------------------------------------------- lengths


def test_the_sample_hangs_on_the_ids_alone() -> None:
    random = np.random.default_rng(0)
    ids = random.integers(0, 2**64, (5_000, 2), np.uint64)
    other = random.permutation(len(ids))
    one, two = ids[length_sample(ids, 100)], ids[other][length_sample(ids[other], 100)]
    assert one.tolist() == two.tolist()
    assert len({*map(tuple, one.tolist())}) == 100
    assert len(length_sample(ids[:7], 100)) == 7
    assert len(length_sample(ids[:0])) == 0


def test_lengths_are_of_what_the_messages_say(cycle: Cycle) -> None:
    rows = [_row("x" * size) for size in range(96, -4, -1) if size >= 0]
    lengths = cycle.report(messages={"train": rows, "holdout": []}).lengths
    assert list(lengths) == ["train"]
    found = lengths["train"]
    # A line end and "yes" beside each question.
    assert (found.minimum, found.maximum, found.num_rows) == (4, 100, 97)
    assert (found.median, found.p90, found.p99) == (52, 91, 100)
    assert found.mean == 52.0
    assert found.unit == "characters"


def test_tokens_are_counted_by_the_function_given(cycle: Cycle) -> None:
    def words(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    report = cycle.report(messages={"train": [_row("one two three")]}, count_tokens=words)
    assert report.lengths["train"].unit == "tokens"
    assert report.lengths["train"].maximum == 4
    assert report.notes == ()


def test_a_broken_tokenizer_is_a_note_and_characters(cycle: Cycle) -> None:
    def broken(texts: Sequence[str]) -> list[int]:
        raise InputError("tokenizer.json cannot be used")

    report = cycle.report(messages={"train": [_row("one")]}, count_tokens=broken)
    assert report.lengths["train"].unit == "characters"
    assert "tokenizer.json cannot be used" in report.notes[0]


def test_no_more_rows_are_measured_than_a_tokenizer_takes_seconds_for(cycle: Cycle) -> None:
    size = MAX_MEASURED_CHARS // 4
    taken: list[int] = []

    def rows() -> Any:
        for number in range(100):
            taken.append(number)
            yield _row("x" * size)

    assert cycle.report(messages={"train": rows()}).lengths["train"].num_rows == 4
    assert len(taken) == 4


# ---------------------------------------------------------------- quarantine and contamination


def test_a_few_rows_of_each_reason_whatever_their_order(cycle: Cycle) -> None:
    rows = [
        ("own/rows", f"{number % 3}.jsonl", number, reason, f"{reason} {number}")
        for number in range(9_000)
        for reason in ("empty", "too_long")[: 1 + (number < 2)]
    ]
    cycle.bad(rows)
    samples = cycle.report().quarantine_samples
    assert [sample.reason for sample in samples] == ["empty"] * SAMPLES_PER_REASON + [
        "too_long"
    ] * 2
    assert all(s.original == f"{s.reason} {s.row_index}" for s in samples)
    cycle.bad(rows[::-1])
    assert cycle.report().quarantine_samples == samples


def test_originals_are_short_and_obeyed_by_no_terminal(cycle: Cycle) -> None:
    cycle.bad(
        [("own/rows", "a\x1b[2J.jsonl", 0, "not_text", "\x1b]0;title\x07\u202e" + "x" * 9_999)]
    )
    (sample,) = cycle.report(notes=["said \x1b[31m"]).quarantine_samples
    assert sample.original.startswith(r"\x1b]0;title\x07\u202ex")
    assert len(sample.original) == MAX_SAMPLE_CHARS
    assert sample.path == "a\x1b[2J.jsonl", "a record says what the file is called"
    assert cycle.text.replace("\n", "").isprintable()
    assert r"a\x1b[2J.jsonl row 0" in cycle.text


def test_each_contaminated_row_with_the_item_it_hit(cycle: Cycle) -> None:
    cycle.hits(
        [
            ("own/rows", "a.jsonl", 17, "reasoning", "gsm8k/12/0a", "question", 1.0),
            ("own/rows", "b.jsonl", 4, "coding", "ct_mbpp/3/0b", "ngrams", 0.81),
        ]
    )
    report = cycle.report(counts={"quarantined:contaminated": 2, "train": 8})
    assert [(row.item_id, row.row_index) for row in report.contaminated] == [
        ("gsm8k/12/0a", 17),
        ("ct_mbpp/3/0b", 4),
    ]
    assert "gsm8k/12/0a (reasoning), its question: own/rows a.jsonl row 17" in cycle.text
    assert "ct_mbpp/3/0b (coding), 81% of its wording: own/rows b.jsonl row 4" in cycle.text


def test_of_very_many_hits_the_first_are_listed_and_the_rest_counted(cycle: Cycle) -> None:
    number = MAX_CONTAMINATED + 500
    cycle.hits([("own/rows", "a.jsonl", i, "s", "t/1/2", "exact", 1.0) for i in range(number)])
    report = cycle.report(counts={"quarantined:contaminated": number})
    assert len(report.contaminated) == MAX_CONTAMINATED
    assert "500 more, in data/contaminated.parquet" in cycle.text


# ---------------------------------------------------------------- sources


def test_a_source_for_every_row_does_not_swell_the_record(cycle: Cycle) -> None:
    by_source = {f"s{n:05}": {"train": 1 + (n < 10)} for n in range(MAX_SOURCES + 50)}
    total = MAX_SOURCES + 60
    kept = cycle.report(counts={"train": total}, counts_by_source=by_source).counts_by_source
    assert len(kept) == MAX_SOURCES + 1
    assert kept[OTHER_SOURCES] == {"train": 50}
    assert sum(fates["train"] for fates in kept.values()) == total
