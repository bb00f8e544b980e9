"""The decision's table on a narrow and on a wide terminal, and what is said beside an outcome."""

from typing import Any

import pytest

from ct_llm.cli import show
from ct_llm.records import CycleSummary, GateDecision, SliceVerdict


def verdict(name: str, role: str = "guard", **fields: Any) -> SliceVerdict:
    usual: dict[str, Any] = {
        "slice": name,
        "role": role,
        "state": "UNDECIDED",
        "num_items": 1319,
        "num_used": 64,
        "champion_mean": 1.0,
        "challenger_mean": 0.875,
        "delta": -0.125,
        "lower": -0.456,
        "upper": 0.1234,
        "threshold": -0.05,
        "strict": False,
        "sentence": "",
    }
    return SliceVerdict(**(usual | fields))


SLICES = (
    verdict("coding"),
    verdict("reasoning", state="PASS", threshold=-0.0),
    verdict("instruction_following", num_used=1319, state="FAIL"),
    verdict("chat", num_items=80, num_used=80, delta=0.0, state="PASS"),
    verdict("newest_generated", "target", strict=True, threshold=0.0),
    verdict("coding", "anchor", threshold=-0.1),
    verdict("a_slice_with_a_name_longer_than_a_terminal_is_wide", num_used=1024, threshold=-0.125),
)
DECISION = GateDecision(
    verdict="inconclusive",
    sentence="Inconclusive: coding is not decided after 64 of 1319 items.",
    slices=SLICES,
    overall_champion_mean=1.0,
    overall_challenger_mean=0.875,
    alpha=0.05,
    challenger_digest="c" * 64,
    champion_revision=None,
    champion_digest=None,
    scores_digest="d" * 64,
)


@pytest.mark.parametrize("width", [80, 99, 100, 120])
def test_no_number_of_a_decision_is_cut(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    show.decision(DECISION)
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert max(map(len, lines)) <= width and "…" not in said
    assert said.count("64/1,319") == 4 and "1,024/1,319" in said
    assert said.count("100.0 %") == 8 and said.count("undecided") == 4
    assert "≥ -10.0" in said and "≥ -12.5" in said
    assert ("[-45.6, +12.3]" in said) == ("bounds" in said) == (width >= 100)
    (reasoning,) = (line for line in lines if line.startswith("reasoning"))
    assert "≥ 0.0" in reasoning and "> 0.0" in said and "-0.0" not in said
    assert any(line.startswith("coding (anchor)  ") for line in lines)


@pytest.mark.parametrize(
    ("outcome", "sentence", "said"),
    [
        ("inconclusive", "Inconclusive: chat is open.", "chat is open."),
        ("rejected", "Rejected: chat fell: by much.", "chat fell: by much."),
        ("promoted", "Promote: newest improved.", "newest improved."),
        ("promoted", "Rejected: chat fell.", "Rejected: chat fell."),
        ("rolled_back", "v3 is v1 again: bad", "v3 is v1 again: bad"),
    ],
)
def test_an_outcome_is_said_once(
    outcome: str, sentence: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = CycleSummary.model_construct(
        cycle_id="c1",
        finished_at="2026-01-01T00:00:00Z",
        outcome=outcome,
        sentence=sentence,
        version=None,
        review_number=None,
    )
    assert show.without_outcome(entry) == said
    show.history([entry])
    assert capsys.readouterr().out.splitlines()[1].strip() == said
