"""How a running cycle looks: live bars on a terminal, plain lines in a log, nothing with --json."""

import time
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from ct_llm.cli.live import Line, Lines, table
from ct_llm.cycle import Progress
from ct_llm.records import StepName

LINE_EVERY_SECONDS = 5.0
ALPHA = 0.05
"""Of the bounds in the table. The gate decides by its own."""


class ShowProgress:
    """Call it with every `Progress`; use it as a context manager around the work."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._bars = Bars(
            TextColumn("{task.fields[mark]} {task.description:<9}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self._console,
        )
        self._lines = Lines(ALPHA)
        self._rows: list[Line] = []
        self._live = (
            Live(get_renderable=self._render, console=self._console)
            if self._console.is_terminal and not quiet
            else None
        )
        self._tasks: dict[StepName, TaskID] = {}
        self._last_line = 0.0

    def __enter__(self) -> "ShowProgress":
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

    def __call__(self, progress: Progress) -> None:
        if self._live is not None:
            self._draw(progress)
            self._live.refresh()
        else:
            self._write(progress)

    def _render(self) -> Group:
        """The bars, and below them the slices that are being scored."""
        if not self._rows:
            return Group(self._bars)
        return Group(self._bars, table(self._rows, ALPHA, self._console.width))

    def _draw(self, progress: Progress) -> None:
        if progress.prefixes:
            self._rows = self._lines.update(progress.prefixes)
        done = progress.fraction == 1.0
        task = self._tasks.get(progress.step)
        if task is None:
            task = self._bars.add_task(progress.step, total=1.0, mark="…", text="")
            self._tasks[progress.step] = task
        self._bars.update(
            task,
            completed=progress.fraction,
            mark="✓" if done else "…",
            text=progress.text,
            total=1.0 if progress.fraction is not None else None,
        )
        if done:
            self._bars.stop_task(task)
            # The decision that follows has the final ones.
            self._rows = []

    def _write(self, progress: Progress) -> None:
        """Beginnings and ends always; what lies between at most every few seconds."""
        between = progress.fraction not in (0.0, 1.0)
        due = time.monotonic() - self._last_line >= LINE_EVERY_SECONDS
        if between and not due and progress.step in self._tasks:
            return
        self._tasks.setdefault(progress.step, TaskID(0))
        self._last_line = time.monotonic()
        self._console.print(
            f"{progress.step:<9} {progress.text}", markup=False, highlight=False, soft_wrap=True
        )
