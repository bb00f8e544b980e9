"""Figures: a value and the reach it is held to, the table of them, and how they are measured."""

import argparse
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K")


class Figure(NamedTuple):
    name: str
    value: float
    reach: float | None
    """The most that the value may be, or with `at_least` the least; none: told, and not judged."""
    at_least: bool = False

    @property
    def ok(self) -> bool | None:
        if self.reach is None:
            return None
        return self.value >= self.reach if self.at_least else self.value <= self.reach


def show(figures: Iterable[Figure], *, as_json: bool) -> None:
    """Each figure as soon as it is there: a line of a table, or a JSON object."""
    for figure in figures:
        if as_json:
            found = {"name": figure.name, "value": figure.value, "reach": figure.reach}
            print(json.dumps({**found, "ok": figure.ok}), flush=True)
        else:
            reach = "" if figure.reach is None else f"{figure.reach:,g}"
            sign = " " if figure.reach is None else "≥" if figure.at_least else "≤"
            verdict = {None: "", True: "ok", False: "MISSED"}[figure.ok]
            value = f"{figure.value:,.3f}" if figure.value < 1_000 else f"{figure.value:,.0f}"
            print(f"{figure.name:<82} {value:>13}  {sign} {reach:<11} {verdict}", flush=True)


def say(text: str) -> None:
    """What is being measured, beside the figures."""
    print(text, file=sys.stderr, flush=True)


def sizes(text: str) -> list[int]:
    """`10,1000`: an option that takes several numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 10,1000") from None


# ---------------------------------------------------------------- measuring


def timed(
    command: Sequence[str],
    runs: int,
    *,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
    warm: bool = True,
) -> float:
    """Median wall seconds.

    before: done ahead of each run, outside of the time. warm: one run more, not counted, comes first
    and fills the disk cache.
    """
    one = {"": command}
    return timed_in_turns(one, runs, code=code, env=env, before=before, warm=warm)[""]


def timed_in_turns(
    commands: Mapping[K, Sequence[str]],
    runs: int,
    *,
    code: int = 0,
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] = lambda: None,
    warm: bool = True,
) -> dict[K, float]:
    """`timed` for several that are compared: round by round, as a busy machine is busy for all."""
    seconds: dict[K, list[float]] = {name: [] for name in commands}
    for _ in range(runs + warm):
        for name, command in commands.items():
            before()
            started = time.perf_counter()
            run(command, code=code, env=env)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[warm:]) for name, taken in seconds.items()}


def run(command: Sequence[str], *, code: int = 0, env: Mapping[str, str] | None = None) -> str:
    """Standard output of a command that must end with this code."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode != code:
        raise SystemExit(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Spent(NamedTuple):
    """Of whole commands: wall seconds, and processor seconds over all their threads."""

    wall: float = 0.0
    processor: float = 0.0

    def __add__(self, other: tuple[float, ...]) -> "Spent":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Spent(self.wall + other[0], self.processor + other[1])


def spent_by(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Spent:
    """What one run of a command that must end well takes, start-up included."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(command, env=env)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Spent(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def in_own_process(function: Callable[..., Mapping[str, Any]], **arguments: Any) -> dict[str, Any]:
    """What the function returns, called in a fresh process, and that process's `peak_bytes`.

    Arguments and result travel as JSON.
    """
    request = json.dumps([function.__module__, function.__name__, arguments])
    output = run([sys.executable, "-c", f"from {__name__} import answer; answer()", request])
    return json.loads(output.splitlines()[-1])


def answer() -> None:
    """The other end of `in_own_process`."""
    module, name, arguments = json.loads(sys.argv[1])
    result = getattr(importlib.import_module(module), name)(**arguments)
    print(json.dumps({**result, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int:
    # Linux counts what the parent held at the moment of the start into ru_maxrss; VmHWM is our own.
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fields = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


class Clock:
    """Wall and processor seconds of a block; the latter over all its threads."""

    wall = 0.0
    processor = 0.0

    @contextmanager
    def running(self):
        wall, processor = time.perf_counter(), time.process_time()
        yield self
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
