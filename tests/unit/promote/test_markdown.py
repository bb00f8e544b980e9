"""Text in Markdown stays text: judged by a CommonMark parser, not by looking at escapes."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from ct_llm.promote.markdown import fenced, inline, table

HOSTILE = [
    "```\n# out of the fence",
    "~~~\n</details><script>alert(1)</script>",
    "````````````",
    "| a | b |\n|---|---|",
    "[click](javascript:alert(1)) ![x](http://evil/pixel.png)",
    "<img src=x onerror=alert(1)> &lt; &#64;everyone @everyone",
    "\u202egnp.exe \x1b[31mred\x07 \u200bhidden",
    "*bold* _it_ **x** __y__ ~~z~~ `code` \\ # head",
    "\ud800 half a pair",
]


def parse(markdown: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)


def visible(text: str) -> str:
    return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_fence_holds_everything(text: str) -> None:
    tokens = parse(f"before\n\n{fenced(text, 1000)}\n\nafter")
    assert [t.type for t in tokens if t.nesting == 0 and t.block] == ["inline", "fence", "inline"]
    assert next(t for t in tokens if t.type == "fence").content == visible(text) + "\n"
    fenced(text, 1000).encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_line_holds_everything(text: str) -> None:
    assert shown(inline(text)) == " ".join(visible(text).split())


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_stays_in_its_row(text: str) -> None:
    tokens = parse(table(["a", "b"], [[inline(text), "1"], ["x", "2"]]))
    assert sum(t.type == "tr_open" for t in tokens) == 3
    cells = [t for t in tokens if t.type == "inline"]
    assert [t.content for t in cells[3::2]] == ["1", "2"]


@given(st.text(max_size=200), st.integers(20, 120))
def test_any_text_in_a_fence(text: str, max_chars: int) -> None:
    block = fenced(text, max_chars)
    kinds = [t.type for t in parse(f"before\n\n{block}\n\nafter") if t.nesting == 0 and t.block]
    assert kinds == ["inline", "fence", "inline"]
    assert len(block) <= max_chars + 2 * (max_chars + 2) + 60


@given(st.text(alphabet=st.sampled_from("ab1 \\`*_[]()<>|~&@#!.-+;'\"\n"), max_size=60))
def test_any_text_in_a_line(text: str) -> None:
    # Within a line, as it is used: at a line's start "1." or "-" would begin a list.
    assert shown(f"x {inline(text)}") == f"x {' '.join(text.split())}".rstrip()


def test_a_long_text_shows_beginning_and_end() -> None:
    block = fenced("a" * 100 + "b" * 100, 20)
    assert "a" * 10 + "\n[… 180 characters left out …]\n" + "b" * 10 in block


def test_nobody_is_notified() -> None:
    assert "@" not in inline("@someone")


def shown(markdown: str) -> str:
    """What a reader sees of one line; fails on any element but text."""
    rendered = MarkdownIt("commonmark").enable(["strikethrough"]).render(markdown)
    inner = rendered.removeprefix("<p>").rstrip("\n").removesuffix("</p>")
    assert not re.search(r"<\w", inner), rendered
    return html.unescape(inner)
