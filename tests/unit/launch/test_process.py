"""A launched process ends when it should: real processes and real signals, without torch."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ct_llm.launch import process
from ct_llm.launch.process import run_to_end

# Like accelerate with torchrun: a launcher whose worker lives in a session of its own.
LAUNCHER = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], start_new_session=True)
sys.exit(worker.wait())
"""
WORKER = """
import os, pathlib, sys, time
from ct_llm.launch.process import stop_with_parent
stop_with_parent()
path = pathlib.Path(sys.argv[1])
path.with_suffix(".tmp").write_text(str(os.getpid()))
path.with_suffix(".tmp").rename(path)
time.sleep(60)
"""
PARENT = """
import os, pathlib, sys
from ct_llm.launch.process import run_to_end
command, log = sys.argv[2:], pathlib.Path(sys.argv[1])
print(run_to_end(command, log=log, env=os.environ, on_poll=lambda: None))
"""


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
    return path.read_text()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} was left behind"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def worker_command(pid_file: Path) -> list[str]:
    return [sys.executable, "-c", LAUNCHER, WORKER, str(pid_file)]


def test_status_and_output(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("before\n")
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    status, stopped_by = run_to_end(
        [sys.executable, "-c", code], log=log, env=os.environ, on_poll=lambda: None
    )
    assert (status, stopped_by) == (3, None)
    assert sorted(log.read_text().split()) == ["before", "err", "out"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_and_reported(tmp_path: Path, number: signal.Signals) -> None:
    pid_file = tmp_path / "pid"

    def signal_once_started() -> None:
        if pid_file.exists() and not sent:
            sent.append(True)
            os.kill(os.getpid(), number)

    sent: list[bool] = []
    handler = signal.getsignal(number)
    _, stopped_by = run_to_end(
        worker_command(pid_file),
        log=tmp_path / "log",
        env=os.environ,
        on_poll=signal_once_started,
    )
    assert stopped_by == number
    assert signal.getsignal(number) is handler
    wait_until_gone(int(pid_file.read_text()))


def test_a_process_that_ignores_signals_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.2)
    ready = tmp_path / "ready"
    code = (
        "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
    )
    sent: list[bool] = []

    def signal_once_started() -> None:
        if ready.exists() and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    status, stopped_by = run_to_end(
        [sys.executable, "-c", code, str(ready)],
        log=tmp_path / "log",
        env=os.environ,
        on_poll=signal_once_started,
    )
    assert (status, stopped_by) == (-signal.SIGKILL, signal.SIGTERM)


def test_an_error_while_waiting_stops_the_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def fail_once_started() -> None:
        if pid_file.exists():
            raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="the terminal is gone"):
        run_to_end(
            worker_command(pid_file),
            log=tmp_path / "log",
            env=os.environ,
            on_poll=fail_once_started,
        )
    wait_until_gone(int(pid_file.read_text()))


def test_it_also_runs_outside_of_the_main_thread(tmp_path: Path) -> None:
    results: list[object] = []

    def run() -> None:
        command = [sys.executable, "-c", "pass"]
        results.append(
            run_to_end(command, log=tmp_path / "log", env=os.environ, on_poll=lambda: None)
        )

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [(0, None)]


def test_sigkill_leaves_no_orphans(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log"), *worker_command(pid_file)]
    )
    worker = int(wait_for(pid_file))
    parent.kill()
    parent.wait()
    wait_until_gone(worker)
