"""The state of an evaluation while it runs: a table on a terminal, a plain line a batch elsewhere."""

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ct_llm.cli import show
from ct_llm.comparison import AdapterMean, Difference, State, adapter_mean, difference
from ct_llm.records import SlicePrefix

if TYPE_CHECKING:
    from ct_llm.evaluate.progress import EvaluateProgress

Line = AdapterMean | Difference
STYLES: dict[State, str] = {
    "better": "green",
    "worse": "bold red",
    "equal": "",
    "undecided": "yellow",
}
WIDE = {"std. error": 105, "w/l/t": 92}
"""Columns that a terminal needs for these parts of a table of two adapters; fewer, and they are left out."""


class Lines:
    """Lines of the slices' prefixes; what has not grown since the last look is not computed again."""

    def __init__(self, alpha: float, *, one_adapter: bool = False) -> None:
        self.alpha = alpha
        self._one_adapter = one_adapter
        self._known: dict[str, tuple[SlicePrefix, Line]] = {}

    def update(self, prefixes: Sequence[SlicePrefix]) -> list[Line]:
        """All lines, in the prefixes' order."""
        return [self._line(prefix) for prefix in prefixes]

    def changed(self, prefixes: Sequence[SlicePrefix]) -> list[Line]:
        """Lines of the slices that have grown since the last call of either."""
        grown = [
            prefix
            for prefix in prefixes
            if prefix.scores.num_scored
            and self._num_known(prefix.scores.slice) != prefix.scores.num_scored
        ]
        return self.update(grown)

    def _num_known(self, name: str) -> int:
        known = self._known.get(name)
        return known[0].scores.num_scored if known else 0

    def _line(self, prefix: SlicePrefix) -> Line:
        name = prefix.scores.slice
        known = self._known.get(name)
        if known is None or known[0].scores.num_scored != prefix.scores.num_scored:
            line = (adapter_mean if self._one_adapter else difference)(prefix, self.alpha)
            self._known[name] = known = prefix, line
        return known[1]


class LiveSlices:
    """Call it with every EvaluateProgress; use it as a context manager around the evaluation."""

    def __init__(self, alpha: float, *, one_adapter: bool, quiet: bool) -> None:
        self.has_scores = False
        """Something would be lost by stopping at once."""
        self.note = ""
        """Stands below the table."""
        self._lines = Lines(alpha, one_adapter=one_adapter)
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._rows: list[Line] = []
        self._text = "loading"
        self._live = (
            Live(get_renderable=self._render, console=self._console, transient=True)
            if self._console.is_terminal and not quiet
            else None
        )
        self._quiet = quiet

    @property
    def is_live(self) -> bool:
        return self._live is not None

    def __enter__(self) -> "LiveSlices":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, progress: "EvaluateProgress") -> None:
        self.has_scores = self.has_scores or any(p.scores.num_scored for p in progress.prefixes)
        if self._quiet:
            return
        if self._live is None:
            self._write(progress)
            return
        self._text = progress.text
        self._rows = self._lines.update(progress.prefixes) or self._rows
        self._live.refresh()

    def _write(self, progress: "EvaluateProgress") -> None:
        if not progress.prefixes:
            self._print(show.visible(progress.text))
        for line in self._lines.changed(progress.prefixes):
            self._print(plain_line(line, self._lines.alpha))

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._rows:
            parts.append(table(self._rows, self._lines.alpha, self._console.width))
        # The table says what the text would say of a batch.
        parts.append(Text(self.note or show.visible(self._text, 200), style="dim"))
        return Group(*parts)


def left_out(lines: Sequence[Line], width: int) -> list[str]:
    """Heads of the columns that `table` has no room for."""
    is_pair = any(isinstance(line, Difference) for line in lines)
    return [name for name, needed in WIDE.items() if is_pair and width < needed]


def table(lines: Sequence[Line], alpha: float, width: int, *, of: str = "slice") -> Table:
    """A row a line; either all of one adapter or all of two. width: columns of the terminal."""
    hidden = left_out(lines, width)
    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=bool(hidden))
    found.add_column(of, no_wrap=True)
    rows = [_cells(line, alpha) for line in lines]
    for name in rows[0] if rows else ():
        if name not in hidden:
            found.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    shown = [str(column.header) for column in found.columns[1:]]
    for line, row in zip(lines, rows, strict=True):
        name = Text(show.visible((line.task if of == "task" else None) or line.slice, 40))
        found.add_row(name, *(row[column] for column in shown))
    return found


def _cells(line: Line, alpha: float) -> dict[str, str | Text]:
    """By the head of their column."""
    scale = 100 if line.in_percent else 1
    error = "–" if line.standard_error is None else f"{scale * line.standard_error:.2g}"
    bounds = f"{percent(1 - alpha)} bounds"
    if isinstance(line, AdapterMean):
        return {
            "items": _items(line),
            "mean": show.mean(line.mean, line.in_percent),
            bounds: _bounds(line, show.mean),
            "std. error": error,
        }
    return {
        "items": _items(line),
        "champion": show.mean(line.champion_mean, line.in_percent),
        "challenger": show.mean(line.challenger_mean, line.in_percent),
        "delta": show.change(line.delta, line.in_percent),
        bounds: _bounds(line, show.change),
        "std. error": error,
        "w/l/t": f"{line.wins}/{line.losses}/{line.ties}",
        "state": Text(line.state, style=STYLES[line.state]),
    }


def plain_line(line: Line, alpha: float) -> str:
    """For logs: one line that says all of it."""
    said = [f"{name} {value}" for name, value in _cells(line, alpha).items()]
    return "  ".join([show.visible(line.slice), *said])


def _items(line: Line) -> str:
    if line.num_used == line.num_items:
        return f"{line.num_items:,}"
    return f"{line.num_used:,}/{line.num_items:,}"


def _bounds(line: Line, say: Callable[[float | None, bool], str]) -> str:
    """Rounded outwards, with the sign of what is rounded to 0: +0.0 is above zero, -0.0 below."""
    if line.num_used == line.num_items:
        return "exact"
    unit = 1000 if line.in_percent else 100
    lower = math.floor(line.lower * unit + 1e-9) / unit
    upper = math.ceil(line.upper * unit - 1e-9) / unit
    texts = []
    for rounded, bound in ((lower, line.lower), (upper, line.upper)):
        text = say(abs(rounded) if rounded == 0 else rounded, line.in_percent)
        # `say` knows no sign of 0, and here it tells a decided slice from an open one.
        texts.append(f"-{text.removeprefix('+')}" if rounded == 0 and bound < 0 else text)
    return f"[{', '.join(texts)}]"


def percent(share: float) -> str:
    return f"{100 * share:g} %"
