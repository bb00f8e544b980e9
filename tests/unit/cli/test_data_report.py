import pytest

from ct_llm.cli import show
from ct_llm.records import ContaminatedRow, DataReport, QuarantineSample

HOSTILE = "\x1b[31mred\u202e"


def test_rows_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report = DataReport(
        counts={f"quarantined:{HOSTILE}": 1, "train": 2, "quarantined:contaminated": 1},
        counts_by_source={f"[bold]{HOSTILE}": {"train": 2}},
        lengths={},
        quarantine_samples=(
            QuarantineSample(
                reason=HOSTILE, repo=HOSTILE, path=HOSTILE, row_index=7, original=HOSTILE
            ),
        ),
        contaminated=(
            ContaminatedRow(
                repo="own/rows",
                path=HOSTILE,
                row_index=9,
                slice="coding",
                item_id=HOSTILE,
                kind="question",
                containment=1.0,
            ),
        ),
        notes=(HOSTILE,),
    )
    show.data_report(report)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    assert [line.split() for line in lines if line.startswith("  [bold]")] == [
        [r"[bold]\x1b[31mred…", "2", "0", "0", "2"]
    ]
    assert any(line.endswith("row 9") for line in lines)
    assert any("read" in line and "4" in line and "100.0 %" in line for line in lines)
