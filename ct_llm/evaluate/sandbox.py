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
the code changed its argument in place; checks cannot pass functions of their own to the code; names
of builtins in checks always mean the builtins.
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
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ct_llm.errors import SecurityError

MEMORY_BYTES = 512 * 1024**2
FILE_BYTES = 1024**2
TMP_BYTES = 8 * 1024**2
OPEN_FILES = 32
# Inside, the interpreter is at /python: its place here may be somebody's home.
_PREFIX = str(Path(sys.base_prefix).resolve())
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_PYTHON = f"{'/usr' if _PREFIX == '/usr' else '/python'}/bin/python{_VERSION}"

# Runs first in each sandbox: the limits are hard, and without capabilities nothing can raise them.
# The two sides speak Python literals. `json` would cost 13 ms of each start; `_ast` is built in.
_PRELUDE = """
import _ast, os, resource, sys
for limit in sys.argv[1].split():
    name, _, value = limit.partition("=")
    resource.setrlimit(getattr(resource, name), (int(value), int(value)))
FD = int(sys.argv[2])
MAX_MESSAGE = 4 * 1024**2
sys.set_int_max_str_digits(100_000)
def read_exactly(count):
    data = b""
    while len(data) < count:
        part = os.read(FD, min(count - len(data), 65536))
        if not part:
            raise EOFError
        data += part
    return data
def receive(resolve=None):
    size = int.from_bytes(read_exactly(4), "big")
    if size > MAX_MESSAGE:
        raise ValueError("message too long")
    text = read_exactly(size).decode()
    return decode(compile(text, "message", "eval", _ast.PyCF_ONLY_AST).body, resolve)
def send(value, refer=None):
    data = encode(value, refer).encode()
    data = memoryview(len(data).to_bytes(4, "big") + data)
    while data:
        data = data[os.write(FD, data):]
def encode(value, refer):
    # Plain data as a literal; anything else travels as a reference.
    for plain in (bool, int, str, bytes):
        if isinstance(value, plain):
            return ascii(plain(value))
    if value is None:
        return "None"
    if isinstance(value, float):
        return f"float({str(float(value))!r})"
    if isinstance(value, complex):
        return f"complex({value.real}, {value.imag})"
    if isinstance(value, dict):
        pairs = [f"{encode(k, refer)}: {encode(v, refer)}" for k, v in value.items()]
        return "{" + ", ".join(pairs) + "}"
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return f"{kind.__name__}([" + ", ".join([encode(i, refer) for i in value]) + "])"
    return f"refer({refer(value)})"
KINDS = {k.__name__: k for k in (float, complex, list, tuple, set, frozenset)}
def decode(node, resolve):
    if isinstance(node, _ast.Constant):
        return node.value
    if isinstance(node, _ast.List):
        return [decode(item, resolve) for item in node.elts]
    if isinstance(node, _ast.Dict):
        keys = [decode(key, resolve) for key in node.keys]
        return dict(zip(keys, [decode(value, resolve) for value in node.values]))
    if isinstance(node, _ast.UnaryOp):
        return -decode(node.operand, resolve)
    kind = resolve if node.func.id == "refer" else KINDS[node.func.id]
    return kind(*[decode(item, resolve) for item in node.args])
"""

_WORKER = """
objects = []
def refer(value):
    objects.append(value)
    return len(objects) - 1
def answer(request):
    operation, target, *rest = request
    if operation == "call":
        return target(*rest[0], **rest[1])
    if operation == "get":
        return getattr(target, rest[0])
    if operation == "set":
        return setattr(target, rest[0], rest[1])
    return list(target)
def serve(code):
    namespace = {"__name__": "generated"}
    exec(compile(code, "generated", "exec"), namespace)
    send("loaded")
    names = receive()
    send({name: refer(namespace[name]) for name in names if name in namespace})
    while True:
        request = receive(objects.__getitem__)
        try:
            reply = [answer(request)]
        except Exception as error:
            reply = type(error).__name__
        send(reply, refer)

serve(sys.stdin.read())
"""

_CHECKER = """
import builtins
class Remote:
    # Something of the worker's that is no plain data. Equal only to itself.
    def __init__(self, index):
        object.__setattr__(self, "_index", index)
    def __call__(self, *args, **kwargs):
        return ask("call", self, list(args), kwargs)
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return ask("get", self, name)
    def __setattr__(self, name, value):
        ask("set", self, name, value)
    def __iter__(self):
        return iter(ask("iter", self))
def refer(value):
    if type(value) is not Remote:
        raise TypeError(f"cannot pass {type(value).__name__} to generated code")
    return object.__getattribute__(value, "_index")
def ask(*request):
    send(list(request), refer)
    reply = receive(Remote)
    if isinstance(reply, list):
        return reply[0]
    kind = getattr(builtins, str(reply), None)
    known = isinstance(kind, type) and issubclass(kind, Exception)
    raise (kind if known else RuntimeError)("raised by generated code")
def names_of(code):
    found = set(code.co_names)
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            found |= names_of(constant)
    return found

nonce, _, checks = sys.stdin.read().partition("\\n")
program = compile(checks, "checks", "exec")
wanted = sorted(name for name in names_of(program) if not hasattr(builtins, name))
if receive() != "loaded":
    raise ValueError
send(wanted)
offered = receive()
namespace = {name: Remote(offered[name]) for name in wanted if name in offered}
namespace["__name__"] = "checks"
exec(program, namespace)
os.write(int(sys.argv[3]), nonce.encode())
"""

# Refused system calls: no child processes, no sockets, no looking into other processes, no new
# namespaces or mounts, and none of the interfaces through which kernels have been broken most.
_REFUSED_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 435, 438, 442)
_REFUSED_CALLS: dict[str, tuple[int, tuple[int, ...]]] = {
    # machine: (audit architecture, calls)
    "x86_64": (
        0xC000003E,
        # socket socketpair clone fork vfork ptrace pivot_root mount umount2 add_key request_key
        # keyctl unshare perf_event_open setns process_vm_readv/writev bpf userfaultfd
        (41, 53, 56, 57, 58, 101, 155, 165, 166, 248, 249, 250, 272, 298, 308, 310, 311, 321, 323),
    ),
    "aarch64": (
        0xC00000B7,
        (39, 40, 41, 97, 117, 198, 199, 217, 218, 219, 220, 241, 268, 270, 271, 280, 282),
    ),
}


def run_checks(code: str, checks: str, *, timeout_seconds: float = 5.0) -> bool:
    """Whether ``code``, then ``checks`` (assert statements that use it), ran to the end.

    A syntax error, an exception, an early exit, a timeout and a broken limit all give ``False``.

    Raises:
        SecurityError: there is no working sandbox; generated code never runs outside one.
    """
    problem = sandbox_problem()
    if problem is not None:
        raise SecurityError(f"generated code cannot be run: {problem}")
    return _run(code, checks, timeout_seconds)


@functools.cache
def sandbox_problem() -> str | None:
    """``None`` if bubblewrap really isolates on this machine, else what is wrong and the fix.

    Runs two small programs once per process: one tries to reach a socket and a file of this
    process, the other to start a child.
    """
    if shutil.which("bwrap") is None:
        return "bubblewrap (bwrap) is not installed; install it with: apt-get install bubblewrap"
    if platform.machine() not in _REFUSED_CALLS:
        supported = ", ".join(_REFUSED_CALLS)
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


def _run(code: str, checks: str, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    nonce = secrets.token_hex(16)
    worker_end, checker_end = socket.socketpair()
    verdict_read, verdict_write = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        with worker_end, checker_end:
            try:
                fd = worker_end.fileno()
                processes.append(_start(_WORKER, code, [fd], timeout_seconds))
                fds = [checker_end.fileno(), verdict_write]
                processes.append(_start(_CHECKER, f"{nonce}\n{checks}", fds, timeout_seconds))
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
    input_fd, filter_fd = _memory_file(stdin.encode("utf-8", "replace")), _memory_file(_filter())
    try:
        return subprocess.Popen(
            [
                *_bwrap(),
                *("--seccomp", str(filter_fd)),
                *(_PYTHON, "-I", "-S", "-X", "utf8", "-c", _PRELUDE + program),
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
    """The bubblewrap command up to the program to run."""
    bwrap = shutil.which("bwrap") or "bwrap"
    flags = [bwrap, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    flags += ["--cap-drop", "ALL", "--hostname", "sandbox", "--ro-bind", "/usr", "/usr"]
    for path in ("/lib", "/lib64", "/bin"):
        if Path(path).is_symlink():
            flags += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).is_dir():
            flags += ["--ro-bind", path, path]
    if _PREFIX != "/usr":
        flags += ["--ro-bind", _PREFIX, "/python", "--setenv", "LD_LIBRARY_PATH", "/python/lib"]
    text = subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False).stdout
    if "--size " in text:
        flags += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp"]
    else:  # bubblewrap < 0.7 cannot bound it: then nothing is writable
        flags += ["--tmpfs", "/tmp", "--remount-ro", "/tmp"]
    return (*flags, "--remount-ro", "/", "--chdir", "/tmp")


@functools.cache
def _filter() -> bytes:
    """The system-call filter: classic BPF, allow everything but the refused calls."""
    architecture, calls = _REFUSED_CALLS[platform.machine()]
    refused = sorted({*calls, *_REFUSED_EVERYWHERE})
    load, jump_equal, jump_from, give = 0x20, 0x15, 0x35, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050001  # refuse: EPERM
    program = [
        (load, 0, 0, 4),
        (jump_equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
        # Numbers from here on are x86-64's second (x32) table: the same calls by another name.
        (jump_from, len(refused) + 1, 0, 0x40000000),
        *((jump_equal, len(refused) - i, 0, call) for i, call in enumerate(refused)),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in program)
