"""Outputs beside each other: what differs is marked, and a terminal obeys none of it."""

import io
import re

import pytest
from rich.console import Console

from ct_llm.cli.side_by_side import MARKED_PIECES, escaped, marked, print_items
from ct_llm.comparison import ComparedItem

SGR = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = (
    "\x1b[2J\x1b]0;title\x07 \x9b31m \x00 \r over \u202egnp.exe \u2066 \ufeff \u200b \x7f \x85"
    "[bold red]markup[/bold red] [link=http://x]y[/link] :smile: \\[ [/]"
)


def item(champion: str, challenger: str, prompt: str = "?") -> ComparedItem:
    return ComparedItem("coding", "t", "t/0/x", 0.0, 1.0, 1.0, prompt, champion, challenger)


def printed(items: list[ComparedItem], *, terminal: bool, width: int = 100) -> str:
    file = io.StringIO()
    console = Console(
        file=file,
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        width=width,
        highlight=False,
    )
    print_items(items, console)
    return file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_hostile_reaches_the_terminal(terminal: bool) -> None:
    out = printed([item(HOSTILE, f"good {HOSTILE}", HOSTILE)], terminal=terminal, width=1_000)
    plain = SGR.sub("", out)
    assert [c for c in plain if c != "\n" and not c.isprintable()] == []
    for shown in ("\\x1b[2J", "\\x9b31m", "\\x00", "\\r", "\\u202e", "[link=http://x]y[/link]"):
        assert plain.count(shown) == 3, shown
    assert ":smile:" in plain


def test_half_a_surrogate_pair_is_shown() -> None:
    assert escaped("a\ud800b") == "a\\ud800b"
    assert "\\ud800" in printed([item("\ud800", "x")], terminal=False)


def test_line_ends_stay_and_nothing_is_shortened() -> None:
    text = "def f(x):\r\n\n    return 'é 日本'\n" + "\U000e0041" * 50
    assert escaped(text) == "def f(x):\n\n    return 'é 日本'\n" + "\\U000e0041" * 50


def test_what_differs_is_marked() -> None:
    old, new = marked("the answer is 41 .", "the answer is 42 .", in_colour=False)
    assert (old.plain, new.plain) == ("the answer is [-41-] .", "the answer is {+42+} .")
    old, new = marked("the answer is 41 .", "the answer is 42 .", in_colour=True)
    assert (old.plain, new.plain) == ("the answer is 41 .", "the answer is 42 .")
    assert [old.plain[span.start : span.end] for span in old.spans] == ["41"]
    assert [new.plain[span.start : span.end] for span in new.spans] == ["42"]


def test_an_empty_output_is_said() -> None:
    old, new = marked("", "words", in_colour=False)
    assert (old.plain, new.plain) == ("(nothing)", "words")


def test_long_outputs_stand_unmarked_and_cut() -> None:
    long = " ".join(str(n) for n in range(MARKED_PIECES))
    assert marked(long, long + " x", in_colour=False)[1].plain == long + " x"
    out = printed([item("a" * 5_000, "b")], terminal=False)
    assert "…" in out
    assert out.count("a") < 2_200


def test_two_columns_and_the_end_of_the_prompt() -> None:
    prompt = "an example. " * 200 + "The question?"
    out = printed([item("left", "right", prompt)] * 2, terminal=False)
    assert "1 of 2: coding t/0/x" in out
    assert "2 of 2: coding t/0/x" in out
    assert out.count("The question?") == 2
    assert any("left" in line and "right" in line for line in out.splitlines())
    assert any("champion  0" in line and "challenger  1" in line for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 100
