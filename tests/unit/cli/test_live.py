"""The rows of a running evaluation, and Ctrl-C."""

import io
import os
import signal
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from rich.console import Console

from ct_llm import api
from ct_llm.cli.compare import FinishBatch, Options, _explained, _out, _print_end
from ct_llm.cli.live import Lines, LiveSlices, plain_line, table
from ct_llm.comparison import Comparison, difference
from ct_llm.config import EvaluateConfig, HubConfig
from ct_llm.errors import ConfigError, InputError
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.records import SlicePrefix, SliceScores


def prefix(champion: list[float], challenger: list[float], name: str = "coding") -> SlicePrefix:
    scores = SliceScores(
        slice=name, tasks=("t",), num_items=1_319, num_scored=len(challenger), tolerance=0.0
    )
    return SlicePrefix(scores, tuple(champion), tuple(challenger))


def progress(*prefixes: SlicePrefix) -> EvaluateProgress:
    return EvaluateProgress("coding 2/1319", None, prefixes)


def rendered(width: int, *prefixes: SlicePrefix) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table([difference(p, 0.05) for p in prefixes], 0.05, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 92, 120])
def test_the_table_fits_the_terminal(width: int) -> None:
    out = rendered(width, prefix([0, 1] * 300, [1, 1] * 300), prefix([], [], "reasoning"))
    assert max(map(len, out.splitlines())) <= width
    assert "…" not in out
    for said in ("600/1,319", "50.0 %", "100.0 %", "+50.0", "better", "undecided"):
        assert said in out
    assert ("300/0/300" in out) == (width > 80)
    assert ("std. error" in out) == (width > 92)


def test_a_plain_line_says_all_of_it() -> None:
    line = difference(prefix([0, 1], [1, 1]), 0.05)
    assert plain_line(line, 0.05) == (
        "coding  items 2/1,319  champion 50.0 %  challenger 100.0 %  delta +50.0  "
        "95 % bounds [-88.6, +99.7]  std. error 50  w/l/t 1/0/1  state undecided"
    )


def test_bounds_are_rounded_outwards() -> None:
    line = difference(prefix([0, 1], [1, 1]), 0.05)
    line = line.model_copy(update={"lower": 0.0004, "upper": 0.0316})
    assert "[+0.0, +3.2]" in plain_line(line, 0.05)
    line = line.model_copy(update={"lower": -0.0316, "upper": -0.0004})
    assert "[-3.2, -0.0]" in plain_line(line, 0.05)


def test_only_slices_that_grew_have_news() -> None:
    lines = Lines(0.05)
    first, second = prefix([0], [1]), prefix([0], [1], "chat")
    assert [line.slice for line in lines.changed([first, second])] == ["coding", "chat"]
    assert lines.changed([first, second]) == []
    grown = prefix([0, 0], [1, 1])
    assert [line.num_used for line in lines.changed([grown, second])] == [2]
    assert [line.num_used for line in lines.update([grown, second])] == [2, 1]
    assert lines.changed([prefix([], [], "empty")]) == []


def test_a_pipe_gets_a_line_a_batch(capfd: pytest.CaptureFixture[str]) -> None:
    with LiveSlices(0.05, one_adapter=True, quiet=False) as live:
        live(EvaluateProgress("loading \x1b[2J"))
        live(progress(prefix([], [])))
        live(progress(prefix([], [0.5, 0.5])))
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "loading \\x1b[2J"
    assert err.splitlines()[1].startswith("coding  items 2/1,319  mean 50.0 %")
    assert len(err.splitlines()) == 2


def test_json_gets_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with LiveSlices(0.05, one_adapter=False, quiet=True) as live:
        live(EvaluateProgress("loading"))
        live(progress(prefix([0], [1])))
    assert capfd.readouterr() == ("", "")


def test_the_first_interrupt_finishes_the_batch_and_the_second_stops(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with LiveSlices(0.05, one_adapter=False, quiet=True) as live, FinishBatch(live) as finish:
        with pytest.raises(KeyboardInterrupt):  # nothing is scored that could be kept
            os.kill(os.getpid(), signal.SIGINT)
        live(progress(prefix([0], [1])))
        assert finish.keep_going()
        os.kill(os.getpid(), signal.SIGINT)
        assert not finish.keep_going()
        assert "Ctrl-C again" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


# ---------------------------------------------------------------- below the table


def comparison(*prefixes: SlicePrefix, budget_spent: bool = False) -> Comparison:
    return Comparison(
        champion="a",
        challenger="b",
        champion_digest="c",
        challenger_digest="d",
        champion_revision=None,
        challenger_revision=None,
        base_model="base",
        base_revision="r",
        alpha=0.05,
        slices=tuple(difference(p, 0.05) for p in prefixes),
        tasks=(),
        items_path=Path("comparison.parquet"),
        budget_spent=budget_spent,
        engine={},
        seconds=0.0,
    )


@pytest.mark.parametrize("width", [80, 100, 120])
def test_only_what_is_shown_is_explained(width: int) -> None:
    found = comparison(prefix([0, 1], [1, 1]))
    said = _explained(found, width)
    shown = rendered(width, prefix([0, 1], [1, 1]))
    assert ("Standard error" in said) == ("std. error" in shown) == (width == 120)
    assert ("A wider terminal or --json" in said) == (width < 120)
    assert ("w/l/t" in said) == ("w/l/t" not in shown)


def test_a_delta_outside_its_bounds_is_explained_and_no_other() -> None:
    usual = prefix([0, 1], [1, 1])
    assert "outside" not in _explained(comparison(usual), 120)
    inside = prefix([1, 1], [1, 1])._replace(champion_rest=(0.0,) * 1_317)
    assert "outside" not in _explained(comparison(inside), 120)
    odd = prefix([0, 0], [1, 1])._replace(champion_rest=(1.0,) * 1_317)
    assert "A delta outside its bounds" in _explained(comparison(usual, odd), 120)


def test_the_budget_is_named_where_it_ended_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = EvaluateConfig(max_items=2_000_000, max_seconds=2.5)
    _print_end(_out(), comparison(prefix([0], [1])), config)
    assert "budget" not in capsys.readouterr().out
    _print_end(_out(), comparison(prefix([0], [1]), budget_spent=True), config)
    said = capsys.readouterr().out
    assert "The budget ended it (evaluate.max_items=2000000 and evaluate.max_seconds=2.5)" in said


@pytest.mark.parametrize("size", ["zero", "0", "-1", "1.5", ""])
def test_a_batch_size_that_is_none(size: str) -> None:
    with pytest.raises(ConfigError, match=f"^--batch-size {size}: expected auto or .*$") as caught:
        Options.read([], slices=["smoke"], batch_size=size)
    assert "\n" not in str(caught.value)
    assert Options.read([], slices=["smoke"], batch_size="4").evaluate.batch_size == 4
    assert Options.read([], slices=["smoke"], batch_size="auto").evaluate.batch_size == "auto"


# ---------------------------------------------------------------- bars


def test_python_functions_show_no_bars_and_leave_them_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    before = are_progress_bars_disabled()
    try:
        for is_disabled in (False, True):
            (disable_progress_bars if is_disabled else enable_progress_bars)()
            with pytest.raises(InputError), api._no_bars(HubConfig()):
                assert are_progress_bars_disabled()
                raise InputError("whatever happens")
            assert are_progress_bars_disabled() == is_disabled
    finally:
        (disable_progress_bars if before else enable_progress_bars)()
