"""Processes of a step on this machine, under `accelerate launch`.

A step that needs a GPU runs outside of this process, which needs no torch then, survives its death
and can say why it died. They talk through files: `error.json` (ProcessFailure) when the process
knows what was wrong, a result of the step's own when it went well.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ct_llm import errors
from ct_llm.config import LaunchConfig, shipped
from ct_llm.cycle_dir import read_record, write_record
from ct_llm.errors import CtError, StepFailedError
from ct_llm.launch.process import run_to_end
from ct_llm.records import Record

NUM_LOG_LINES = 15
"""Of the log, quoted when the process died without saying why."""


class ProcessFailure(Record):
    error: str
    """Name of the class in errors.py."""
    message: str

    def as_error(self) -> CtError:
        """The error again; one that is none of ours arrives as StepFailedError."""
        kind = getattr(errors, self.error, None)
        if isinstance(kind, type) and issubclass(kind, CtError) and kind is not CtError:
            return kind(self.message)
        return StepFailedError(self.message)


def note_failure(path: Path, error: CtError) -> None:
    """Called in the process, before it ends."""
    write_record(path, ProcessFailure(error=type(error).__name__, message=str(error)))


def accelerate_config(launch: LaunchConfig) -> Path:
    return launch.accelerate_config or shipped("accelerate_config.yaml")


def accelerate_command(
    config: Path, module: str, *arguments: str, options: Sequence[str] = ()
) -> list[str]:
    """The command line; the same as `accelerate launch OPTIONS`, but surely of this interpreter."""
    # fmt: off
    return [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(config), *options,
        "-m", module, *arguments,
    ]
    # fmt: on


def environment(num_processes: int, *, offline: bool) -> dict[str, str]:
    """Of the processes. offline: all that they need lies on this disk, so no network and no token."""
    tokens = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if offline else ()
    env = {name: value for name, value in os.environ.items() if name not in tokens}
    if offline:
        env["HF_HUB_OFFLINE"] = "1"
    # Unset, accelerate makes it 1 unless its configuration says use_cpu, whatever the machine has.
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    env.setdefault("OMP_NUM_THREADS", str(max(1, (num_cores or 1) // num_processes)))
    # Threads that spin while they wait made training on a busy machine 3 to 7 times slower.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return env


def run_step(
    command: Sequence[str],
    *,
    what: str,
    log: Path,
    error: Path,
    result: Path,
    env: Mapping[str, str],
    on_poll: Callable[[], None],
) -> None:
    """Run the command until `result` is there; `on_poll` is called all along.

    what: "training", for messages. Raises what the process has noted in `error`, and StepFailedError
    where it died without a word. SIGINT and SIGTERM are passed on to it and take effect here
    afterwards.
    """
    for stale in (error, result):
        stale.unlink(missing_ok=True)
    status, stopped_by = run_to_end(command, log=log, env=env, on_poll=on_poll)
    if stopped_by is not None:
        # The handlers of before are back: by default this ends in KeyboardInterrupt or the process's end.
        signal.raise_signal(stopped_by)
        raise StepFailedError(
            f"{what} was stopped by {stopped_by.name}. The same command continues it."
        )
    if error.exists():
        raise read_record(error, ProcessFailure).as_error()
    if status != 0 or not result.exists():
        raise StepFailedError(
            f"the {what} process died (exit status {status}); the same command continues from "
            f"what it has saved. The end of {log}:\n{_last_lines(log)}"
        )


def _last_lines(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-NUM_LOG_LINES:])
