"""The most different items of a comparison: both outputs beside each other, what differs marked.

Prompts and outputs are other people's text. Control characters, terminal escapes and characters that
reorder or hide text are shown as escapes, and nothing is read as markup.
"""

import difflib
import re
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ct_llm.cli import show
from ct_llm.comparison import ComparedItem

PROMPT_CHARS = 600
"""The end of a prompt is shown: before it stand examples that are the same in every item."""
OUTPUT_CHARS = 2_000
MARKED_PIECES = 2_000
"""Words of both outputs beyond which nothing is marked: the search takes time with their product."""
_PIECES = re.compile(r"\w+|\s+|[^\w\s]")


def print_items(items: Sequence[ComparedItem], console: Console) -> None:
    """One item below the other. Without colours, what differs stands in [-...-] and {+...+}."""
    for number, item in enumerate(items, start=1):
        title = f"{number} of {len(items)}: {item.slice} {item.item_id}"
        console.print(Rule(Text(show.visible(title, 120), style="bold"), align="left", style="dim"))
        console.print(_shown(item.prompt, PROMPT_CHARS, from_end=True, style="dim"))
        old, new = marked(
            _cut(item.champion_output, OUTPUT_CHARS),
            _cut(item.challenger_output, OUTPUT_CHARS),
            in_colour=console.color_system is not None,
        )
        table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False)
        table.add_column(f"champion  {item.champion_score:g}", ratio=1, overflow="fold")
        table.add_column(
            f"challenger  {item.challenger_score:g}  (delta {item.delta:+g})",
            ratio=1,
            overflow="fold",
        )
        table.add_row(old, new)
        console.print(table)


def marked(old: str, new: str, *, in_colour: bool) -> tuple[Text, Text]:
    """Both texts, escaped, with the words that only one of them has marked."""
    pieces = _PIECES.findall(old), _PIECES.findall(new)
    if not old or not new or sum(map(len, pieces)) > MARKED_PIECES:
        return _whole(old), _whole(new)
    left, right = Text(), Text()
    matcher = difflib.SequenceMatcher(None, *pieces, autojunk=False)
    for what, a, b, c, d in matcher.get_opcodes():
        gone, come = escaped("".join(pieces[0][a:b])), escaped("".join(pieces[1][c:d]))
        if what == "equal":
            left.append(gone)
            right.append(come)
            continue
        if gone:
            left.append(gone if in_colour else f"[-{gone}-]", style="bold red")
        if come:
            right.append(come if in_colour else f"{{+{come}+}}", style="bold green")
    return left, right


def escaped(text: str) -> str:
    """The text with its line ends; everything else that does not print stands as an escape."""
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(show.visible(line, max(1, 12 * len(line))) for line in lines)


def _whole(text: str) -> Text:
    return Text(escaped(text)) if text else Text("(nothing)", style="dim")


def _shown(text: str, max_chars: int, *, from_end: bool, style: str) -> Text:
    return Text(escaped(_cut(text, max_chars, from_end=from_end)), style=style)


def _cut(text: str, max_chars: int, *, from_end: bool = False) -> str:
    if len(text) <= max_chars:
        return text
    return f"…{text[-max_chars:]}" if from_end else f"{text[:max_chars]}…"
