"""Run a process so that it ends when it should: signals are passed on, no orphans.

The command is `accelerate launch`, which starts the real work as children of its own, some in
sessions of their own, so process groups and PDEATHSIG reach only some of them. All of them inherit
one thing: standard input. It is a pipe that this process holds open and writes nothing to; whoever
reads its end knows that this process is gone, even by SIGKILL (`stop_with_parent`).
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GRACE_SECONDS = 15.0
POLL_SECONDS = 0.1


def run_to_end(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    on_poll: Callable[[], None],
) -> tuple[int, signal.Signals | None]:
    """Run the command with its output appended to `log`; call `on_poll` all along.

    Gives its exit status and the SIGINT or SIGTERM that this process got meanwhile, if any. That
    signal was passed on to the command's process group, which is killed if it outlives
    GRACE_SECONDS. When `on_poll` raises, the command is stopped in the same way.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        with _passing_on_signals(process) as received:
            deadline = float("inf")
            while process.poll() is None:
                if received:
                    deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
                if time.monotonic() > deadline:
                    _send(process, signal.SIGKILL)
                on_poll()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
    finally:
        _stop(process)
        # Workers that outlived the launcher see the end of their standard input and exit.
        process.stdin.close()
    on_poll()
    return process.returncode, received[0] if received else None


@contextmanager
def _passing_on_signals(process: subprocess.Popen[bytes]) -> Iterator[list[signal.Signals]]:
    """SIGINT and SIGTERM go to the command's group; elsewhere than in the main thread, nothing does.

    Python delivers signals to the main thread only. Whoever runs the step in another thread and
    ends the process on a signal still leaves no orphans: standard input ends with it.
    """
    received: list[signal.Signals] = []

    def pass_on(number: int, _frame: object) -> None:
        received.append(signal.Signals(number))
        _send(process, signal.Signals(number))

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _send(process, signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _send(process, signal.SIGKILL)
            process.wait()


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def stop_with_parent() -> None:
    """End this process as soon as its standard input ends, that is, when whoever started it is gone."""

    def wait_for_end() -> None:
        # Not sys.stdin: the interpreter takes its lock when it ends, and this thread never gives it.
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait_for_end, name="stop-with-parent", daemon=True).start()
