"""The rows of a running evaluation, and Ctrl-C."""

import io
import os
import signal

import pytest
from rich.console import Console

from ct_llm.cli.compare import FinishBatch
from ct_llm.cli.live import Lines, LiveSlices, plain_line, table
from ct_llm.comparison import difference
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
