"""Markdown whose shape no text can change: not a benchmark's item, not a model's output."""

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
"""@ too: a name behind it would be notified."""


def inline(text: str) -> str:
    """Text within a line or a table's cell, shown as it is."""
    text = " ".join(_visible(text).split())
    text = "".join(_HTML.get(char, char) for char in text)
    return re.sub(_SPECIAL, r"\\\1", text).replace("&\\#64;", "&#64;")


def fenced(text: str, max_chars: int) -> str:
    """A code block; of a longer text its beginning and its end."""
    if len(text) > max_chars:
        half = max_chars // 2
        left_out = len(text) - 2 * half
        text = f"{text[:half]}\n[… {left_out:,} characters left out …]\n{text[-half:]}"
    text = _visible(text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are inserted as they are: pass other people's text through `inline` first."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _visible(text: str) -> str:
    """No control characters and none that reorder or hide text; line ends and tabs stay."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
