"""Run generated code against checks inside bubblewrap, so that it can neither harm nor cheat.

Two processes run for each item, each in a sandbox of its own (own PID, network, mount, IPC and user
namespaces), joined only by a socket:

- the **worker** runs the generated code. It sees neither the checks nor the secret;
- the **checker** runs the checks. Whatever they take from the generated code is a proxy that asks
  the worker. Only plain data (numbers, strings, lists, ...) crosses the socket, so comparisons are
  made by the checker on its own objects: an object that equals everything arrives as a proxy that
  equals only itself.

When the checks ran to their end, the checker writes a secret nonce to a pipe of its own and exits
with 0; ``run_checks`` believes nothing else. Generated code that exits, with whatever status, makes
the checks fail. As they share no PID namespace, the worker cannot even name the checker.

Limits: threads and child processes are refused; arguments are copied, so a check cannot see that
the code changed its argument in place; checks cannot pass functions of their own to the code; data
nested deeper than about 90 levels does not cross. The kernel's own memory for empty files in /tmp
is bounded by the item's time alone. No solution of HumanEval or MBPP needs what is refused.
"""

from __future__ import annotations

import functools
import hmac
import os
import platform
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from ct_llm.errors import SecurityError
from ct_llm.evaluate.sandbox_programs import CHECKER, PRELUDE, WORKER
from ct_llm.evaluate.seccomp import MACHINES, system_call_filter

MEMORY_BYTES = 512 * 1024**2
FILE_BYTES = 1024**2
TMP_BYTES = 8 * 1024**2
OPEN_FILES = 32
# Inside, the interpreter is at /python: its place here may be somebody's home.
_PREFIX = str(Path(sys.base_prefix).resolve())
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYTHON = f"{'/usr' if _PREFIX == '/usr' else '/python'}/bin/python{_VERSION}"


def run_checks(
    code: str, checks: str, *, timeout_seconds: float = 5.0, tested: Collection[str] = ()
) -> bool:
    """Whether ``code``, then ``checks`` (assert statements that use it), ran to the end.

    A syntax error, an exception, an early exit, a timeout and a broken limit all give ``False``.
    ``tested``: names that mean the code's own in the checks even where a builtin has that name.

    Raises:
        SecurityError: there is no working sandbox; generated code never runs outside one.
    """
    problem = sandbox_problem()
    if problem is not None:
        raise SecurityError(f"generated code cannot be run: {problem}")
    return _run(code, checks, timeout_seconds, tested)


@functools.cache
def sandbox_problem() -> str | None:
    """``None`` if bubblewrap really isolates on this machine, else what is wrong and the fix.

    Runs two small programs once per process: one tries to reach a socket and a file of this
    process, the other to start a child.
    """
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed; install it with: apt-get install bubblewrap"
    if platform.machine() not in MACHINES:
        supported = ", ".join(MACHINES)
        return f"no system-call filter for {platform.machine()}; supported are {supported}"
    if (leak := _find_leak()) is not None:
        return leak
    refused = "try:\n    fork()\nexcept PermissionError:\n    pass\nelse:\n    1/0"
    if not _run("import os\ndef fork():\n    os.fork()", refused, 30.0):
        return "the sandbox runs nothing, or does not refuse child processes; is seccomp available?"
    return None


def _find_leak() -> str | None:
    """Try the walls from inside, without the system-call filter, which would hide a hole."""
    home = Path.home() if os.access(Path.home(), os.W_OK) else Path(tempfile.gettempdir())
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        tempfile.NamedTemporaryFile(dir=home, prefix=".ct-llm-probe-") as canary,
    ):
        program = (
            "import socket\n"
            "def reaches(action):\n"
            "    try:\n        action()\n        return True\n"
            "    except OSError:\n        return False\n"
            f"port = {server.getsockname()[1]}\n"
            "net = reaches(lambda: socket.create_connection(('127.0.0.1', port), 2))\n"
            f"file = reaches(lambda: open({canary.name!r}))\n"
            "root = reaches(lambda: open('/probe', 'w'))\n"
            "print('network' if net else 'files' if file else 'disk' if root else 'isolated')\n"
        )
        command = [*_bwrap(), _PYTHON, "-I", "-S", "-c", program]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, env={})
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bubblewrap cannot be run: {error}"
    if done.returncode != 0:
        words = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        return (
            f"bubblewrap does not work here ({words[:300]}); it needs user namespaces: "
            "sysctl kernel.unprivileged_userns_clone=1, on Ubuntu also "
            "kernel.apparmor_restrict_unprivileged_userns=0, in a container a seccomp profile "
            "that allows unshare"
        )
    found = done.stdout.strip()
    return None if found == "isolated" else f"bubblewrap does not isolate here: {found} open"


def _run(code: str, checks: str, timeout_seconds: float, tested: Collection[str] = ()) -> bool:
    deadline = time.monotonic() + timeout_seconds
    nonce = secrets.token_hex(16)
    worker_end, checker_end = socket.socketpair()
    verdict_read, verdict_write = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with worker_end, checker_end:
            try:
                fd = worker_end.fileno()
                processes.append(_start(WORKER, code, [fd], timeout_seconds))
                fds = [checker_end.fileno(), verdict_write]
                request = f"{nonce}\n{' '.join(tested)}\n{checks}"
                processes.append(_start(CHECKER, request, fds, timeout_seconds))
            finally:
                os.close(verdict_write)
        written = _read_until_closed(verdict_read, deadline, cap=len(nonce) + 1)
        if written is None or not hmac.compare_digest(written, nonce.encode()):
            return False
        return processes[1].wait(timeout=max(0.1, deadline - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        os.close(verdict_read)
        for process in processes:
            # The group is bubblewrap; what is inside dies with it (--die-with-parent).
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _start(
    program: str, stdin: str, fds: Sequence[int], timeout_seconds: float
) -> subprocess.Popen[bytes]:
    """Start ``program`` in a sandbox of its own; ``fds`` stay open in it, output goes nowhere."""
    limits = f"RLIMIT_CPU={int(timeout_seconds) + 1} RLIMIT_AS={MEMORY_BYTES} RLIMIT_NPROC=0"
    limits += f" RLIMIT_FSIZE={FILE_BYTES} RLIMIT_NOFILE={OPEN_FILES} RLIMIT_CORE=0"
    input_fd, filter_fd = (
        _memory_file(stdin.encode("utf-8", "replace")),
        _memory_file(system_call_filter()),
    )
    try:
        return subprocess.Popen(
            [
                *_bwrap(),
                *("--seccomp", str(filter_fd)),
                *(_PYTHON, "-I", "-S", "-X", "utf8", "-c", PRELUDE + program),
                *(limits, *map(str, fds)),
            ],
            stdin=input_fd,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[*fds, filter_fd],
            env={},
            start_new_session=True,
        )
    finally:
        os.close(input_fd)
        os.close(filter_fd)


def _memory_file(content: bytes) -> int:
    # Not a pipe: a pipe's writer would block on code longer than the pipe's buffer.
    fd = os.memfd_create("ct-llm")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _read_until_closed(fd: int, deadline: float, cap: int) -> bytes | None:
    """What was written to ``fd`` until all writers closed it, or ``None`` at the deadline."""
    poll = select.poll()
    poll.register(fd, select.POLLIN | select.POLLHUP)
    data = b""
    while len(data) < cap:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        part = os.read(fd, cap - len(data))
        if not part:
            break
        data += part
    return data


@functools.cache
def _bwrap() -> tuple[str, ...]:
    """The bubblewrap command up to the program to run.

    Of this machine's files only libraries and the interpreter's own are there, read-only: what else
    lies below /usr may be somebody's project, and installed packages may hold a benchmark.
    """
    bwrap = shutil.which("bwrap") or "bwrap"
    flags = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    flags += ["--cap-drop", "ALL", "--hostname", "sandbox"]
    for path in ("/usr/lib", "/usr/lib64", "/usr/share/zoneinfo"):
        flags += ["--ro-bind-try", path, path]
    for path in ("/lib", "/lib64"):
        if Path(path).is_symlink():
            flags += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            flags += ["--ro-bind", path, path]
    inside = str(Path(_PYTHON).parents[1])
    flags += ["--ro-bind", f"{_PREFIX}/bin/python{_VERSION}", _PYTHON]
    if inside != _PREFIX:
        flags += ["--ro-bind", f"{_PREFIX}/lib", f"{inside}/lib"]
        flags += ["--ro-bind-try", f"{_PREFIX}/lib64", f"{inside}/lib64"]
        flags += ["--setenv", "LD_LIBRARY_PATH", f"{inside}/lib"]
    packages = f"lib/python{_VERSION}/site-packages"
    for path in (f"{inside}/{packages}", "/usr/lib/python3/dist-packages"):
        if Path(path.replace(inside, _PREFIX, 1)).is_dir():
            flags += ["--tmpfs", path, "--remount-ro", path]
    text = subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False).stdout
    if "--size " in text:
        flags += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    else:  # bubblewrap < 0.7 cannot bound it: then nothing is writable
        flags += ["--tmpfs", "/tmp", "--remount-ro", "/tmp"]
    return (*flags, "--remount-ro", "/", "--chdir", "/tmp")
