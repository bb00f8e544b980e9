"""What generated code may try against its checks, its walls and its limits; each attempt by its name.

An attempt either fails its item or comes to nothing. Those that come to nothing are tried by honest
code, which then passes all its checks.
"""

import os
import platform
import socket
import sysconfig
from pathlib import Path

import pytest

from ct_llm.evaluate import seccomp
from ct_llm.evaluate.sandbox import run_checks, sandbox_problem

PROBLEM = sandbox_problem()
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=f"no sandbox: {PROBLEM}")

FD = "import os, socket, sys\nFD = int(sys.argv[2])\n"  # the worker's socket, where its code finds it
SPEAK = (
    "import sys\nmain = sys._getframe(2).f_globals\nsend, receive = main['send'], main['receive']\n"
)
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def wrong(body: str = "return n") -> str:
    return f"\ndef f(n):\n    {body}\n"


# ---------------------------------------------------------------- against the checks

CHEATS = {
    # Ending early, as if all had gone well.
    "exit_at_import": "import sys\nsys.exit(0)",
    "hard_exit_in_call": wrong("import os; os._exit(0)"),
    "atexit": "import atexit, os\natexit.register(os._exit, 0)" + wrong("raise SystemExit"),
    "abort": wrong("import os; os.abort()"),
    "keyboard_interrupt": wrong("raise KeyboardInterrupt"),
    "own_base_exception": "class E(BaseException): pass" + wrong("raise E"),
    "exception_named_like_ours": "class AssertionError(BaseException): pass"
    + wrong("raise AssertionError"),
    "excepthook": "import sys\nsys.excepthook = lambda *a: sys.exit(0)"
    + wrong("raise SystemExit(1)"),
    "exec_true": wrong("import os, sys; os.execv(sys.executable or '/python', ['x', '-c', ''])"),
    # Lying values.
    "equal_to_everything": "class A:\n def __eq__(s, o): return True\n __hash__ = object.__hash__"
    + wrong("return A()"),
    "int_equal_to_everything": "class A(int):\n def __eq__(s, o): return True\n __hash__ = int.__hash__"
    + wrong("return A(2)"),
    "class_lies": "class A:\n __class__ = property(lambda s: int)\n def __int__(s): return 2\n"
    " def __eq__(s, o): return True" + wrong("return A()"),
    "list_equal_to_everything": "class A(list):\n def __eq__(s, o): return True"
    + wrong("return A()"),
    "always_close": "class A(float):\n def __sub__(s, o): return 0.0\n def __abs__(s): return 0.0"
    + wrong("return A(9)"),
    "nan": wrong("return float('nan')"),
    "nan_that_is_equal": "class A(float):\n def __eq__(s, o): return True"
    + wrong("return A('nan')"),
    "infinite": wrong("return float('inf')"),
    "text_that_reads_as_another": "class A(str):\n def __str__(s): return s\n"
    " def __repr__(s): return '[3]'" + wrong("return A('x')"),
    "none": wrong("return"),
    "not_implemented": wrong("return NotImplemented"),
    "itself": wrong("return f"),
    "pickled": "class A:\n def __reduce__(s): return int, (3,)" + wrong("return A()"),
    # Patching what the verdict might rest on: all of it is in the code's own process.
    "builtins": "import builtins\nbuiltins.AssertionError = None\nbuiltins.abs = lambda x: 0"
    "\nbuiltins.__build_class__ = None" + wrong(),
    "own_abs": "def abs(n): return 0" + wrong("return 0"),
    "asserts_removed": "import ast, sys\nsys.flags = None\nbuiltins = __builtins__\n"
    "compile = lambda *a: (lambda: None)" + wrong(),
    "parser": "import _ast, json, ast\n_ast.PyCF_ONLY_AST = 0\njson.loads = lambda t: 3\n"
    "ast.parse = None" + wrong(),
    "encoder": SPEAK + "main['encode'] = lambda *a: '[True]'" + wrong(),
    "answers": SPEAK + "main['answer'] = lambda request: True" + wrong(),
    "frames": "import sys\nframe = sys._getframe()\nwhile frame := frame.f_back:\n"
    "    frame.f_globals['objects'] = [lambda n: True] * 9\n    frame.f_locals['names'] = []"
    + wrong(),
    "settrace": "import sys\ndef trace(frame, event, arg):\n    frame.f_locals['n'] = 9\n"
    "    return trace\nsys.settrace(trace)\nsys.setprofile(trace)" + wrong(),
    "import_hook": "import sys\nclass H:\n def find_spec(s, *a): sys.exit(0)\n"
    "sys.meta_path.insert(0, H())\nsys.modules.clear()" + wrong("import json"),
    "small_integers": "import ctypes\nctypes.c_long.from_address(id(3) + 24).value = 2" + wrong(),
    "module_main": "import sys\nsys.modules['__main__'].__dict__['refer'] = lambda v: 0" + wrong(),
    # Speaking in place of the program.
    "fake_verdict": "print('PASS')\nprint('{\"pass\": true}', flush=True)\nprint('exit status 0')",
    "every_fd": "import os\nfor fd in range(64):\n    try: os.write(fd, b'0' * 32)\n"
    "    except OSError: pass" + wrong(),
    "nonces_guessed": FD + "for n in range(200): os.write(FD, b'%032x' % n)" + wrong(),
    "answered_before_asked": SPEAK + "send('loaded')\nfor _ in range(9): send([True])" + wrong(),
    "own_server": SPEAK + "send('loaded')\nreceive()\nsend({'f': 0})\nwhile True:\n"
    "    receive(list)\n    send([b'3'])",
    "hostile_literal": SPEAK
    + "import os\nsend('loaded')\nreceive()\nsend({'f': 0})\nreceive(list)\n"
    "text = b'__import__(\"os\")._exit(0)'\nos.write(main['FD'], len(text).to_bytes(4, 'big') + text)\n"
    "receive(list)",
    "claims_system_exit": SPEAK + "send('loaded')\nreceive()\nsend({'f': 0})\nreceive(list)\n"
    "send('SystemExit')\nreceive(list)",
    "message_without_end": FD + "os.write(FD, b'\\xff' * 4)" + wrong(),
    "half_closed": FD + "socket.socket(fileno=FD).shutdown(socket.SHUT_WR)" + wrong("return 3"),
    "all_closed": "import os\nos.closerange(0, 64)" + wrong("return 3"),
    # Wearing the checker out.
    "deep_structure": wrong("x = []\n    for _ in range(100_000): x = [x]\n    return x"),
    "huge_integer": wrong("return 10 ** 300_000"),
    "huge_text": wrong("return 'x' * 10**7"),
    "own_type_without_end": "class A(dict):\n def items(s):\n  while True: yield 1, 1"
    + wrong("return A({1: 1})"),
    "recursion": wrong("return f(n)"),
    "recursion_unbounded": "import sys\nsys.setrecursionlimit(10**9)" + wrong("return f(n)"),
    "crash": wrong("import ctypes; ctypes.string_at(0)"),
    # Signals.
    "kill_all": wrong("import os; os.kill(-1, 9)"),
    "kill_group": wrong("import os; os.killpg(0, 9)"),
    "alarm": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.001)"
    + wrong("while True: pass"),
}


@pytest.mark.parametrize("code", CHEATS.values(), ids=CHEATS)
def test_a_cheat_fails_its_item(code: str) -> None:
    checks = "assert f(2) == 3 and abs(f(2) - 3) < 1e-6"
    assert not run_checks(code, checks, timeout_seconds=2.0)


def test_an_error_cannot_end_the_checks_loop() -> None:
    checks = "assert all(map(lambda n: f(n) == n + 1, [1, 2]))"
    assert run_checks("def f(n):\n    return n + 1", checks)
    assert not run_checks("def f(n):\n    raise StopIteration", checks)
    assert not run_checks("class E(StopIteration): pass" + wrong("raise E"), checks)


@pytest.mark.parametrize(
    "body", ["import os; os._exit(0)", "raise SystemExit", "import os; os.closerange(0, 64)"]
)
def test_dying_is_no_exception_that_a_check_may_expect(body: str) -> None:
    checks = "try:\n    f(1)\nexcept Exception:\n    pass\nelse:\n    1/0"
    assert run_checks(wrong("raise KeyError"), checks)
    assert not run_checks(wrong(body), checks)


# ---------------------------------------------------------------- against the walls and the limits

REFUSED = {
    # Network.
    "tcp": "socket.create_connection(('127.0.0.1', PORT), 1)",
    "udp": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "ipv6": "socket.socket(socket.AF_INET6)",
    "unix_socket": "socket.socket(socket.AF_UNIX).connect('/run/docker.sock')",
    "abstract_socket": "socket.socket(socket.AF_UNIX).connect('\\0/tmp/.X11-unix/X0')",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "raw_packets": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "socket_pair": "socket.socketpair()",
    "dns": "socket.getaddrinfo('example.com', 80)",
    # Files of this machine.
    "home": "os.listdir(HOME)",
    "project": "os.listdir(PROJECT)",
    "site_packages": "open(INSTALLED)",
    "passwd": "open('/etc/passwd')",
    "passwd_write": "open('/etc/passwd', 'a')",
    "shell_files": "open('/root/.bashrc', 'a')",
    "proc_environ": "open('/proc/1/environ')",
    "proc_mem": "open('/proc/self/mem', 'r+b')",
    "sys": "os.listdir('/sys')",
    "devices": "open('/dev/mem', 'rb')",
    "run": "os.listdir('/run')",
    "symlink_out": "os.symlink('/etc/passwd', '/tmp/l'), open('/tmp/l')",
    "dots_out": "open('/tmp/../../etc/passwd')",
    "hard_link": "os.link(os.__file__, '/tmp/os.py')",
    "library_write": "open(os.__file__, 'a')",
    "library_mode": "os.chmod(os.__file__, 0o777)",
    "root_write": "open('/x', 'w')",
    "device_node": "os.mknod('/tmp/disk', 0o060600, os.makedev(8, 0))",
    "chroot": "os.chroot('/tmp')",
    "become_root": "os.setgroups([0])",
    "programs": "os.execv('/bin/sh', ['sh', '-c', 'true'])",
    "host_name": "socket.sethostname('x')",
    # Processes.
    "fork": "[os.fork() for _ in range(99)]",
    "spawn": "os.posix_spawn(sys.executable or '/python/bin/python3', ['x'], {})",
    "shell": "subprocess.run(['true'])",
    "threads": "[threading.Thread(target=time.sleep, args=(9,)).start() for _ in range(9)]",
    "parent": "os.kill(os.getppid(), 9), 1/0",
    "init": "os.kill(1, 15), os.kill(1, 9), 1/0",
    # Memory, disk, descriptors, time.
    "memory": "bytearray(10**9)",
    "memory_leak": "[bytes(10**6) for _ in range(10**4)]",
    "memory_mapped": "mmap.mmap(-1, 10**9)",
    "memory_file": "os.memfd_create('x')",
    "big_file": "signal.signal(signal.SIGXFSZ, signal.SIG_IGN), open('/tmp/x', 'wb').write(bytes(10**7))",
    "sparse_file": "signal.signal(signal.SIGXFSZ, signal.SIG_IGN), "
    "os.truncate(open('/tmp/x', 'w').fileno(), 10**9)",
    "full_disk": "[open(f'/tmp/{n}', 'wb').write(bytes(10**6)) for n in range(20)]",
    "many_files": "[open(f'/tmp/{n}', 'w') for n in range(99)]",
    "many_pipes": "[os.pipe() for _ in range(99)]",
    "higher_limits": "resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
    "more_time": "resource.setrlimit(resource.RLIMIT_CPU, (999, 999))",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, 0)",
    "priority": "os.nice(-20)",
}
ERRORS = "(OSError, MemoryError, RuntimeError, ValueError, ZeroDivisionError)"


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_harms_nobody(attempt: str) -> None:
    installed = Path(sysconfig.get_path("purelib")) / "pip" / "__init__.py"
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = (
            "import mmap, os, resource, signal, socket, subprocess, sys, threading, time\n"
            f"HOME, PROJECT = {str(Path.home())!r}, {str(Path.cwd())!r}\n"
            f"INSTALLED, PORT = {str(installed)!r}, {server.getsockname()[1]}\n"
            f"def attempt():\n    {attempt}\ndef honest(n):\n    return n + 1"
        )
        refused = f"try:\n    attempt()\nexcept {ERRORS}:\n    pass\nelse:\n    1/0"
        assert run_checks(code, f"{refused}\nassert honest(2) == 3")


@pytest.mark.skipif(platform.machine() not in seccomp.MACHINES, reason="another machine")
def test_each_listed_system_call_is_refused() -> None:
    """ptrace, new namespaces, mounts, bpf, io_uring, keys, shared memory and the rest."""
    _, calls = seccomp._REFUSED[platform.machine()]
    numbers = sorted({*calls.values(), *seccomp._EVERYWHERE})
    code = LIBC + (
        "def error_of(number):\n    ctypes.set_errno(0)\n"
        "    return libc.syscall(number, 0, 0, 0, 0, 0), ctypes.get_errno()\n"
        "def answers(numbers):\n    return [error_of(number) for number in numbers]"
    )
    assert len(numbers) > 40
    assert run_checks(code, f"assert answers({numbers}) == [(-1, 1)] * {len(numbers)}")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 has a second table")
def test_no_system_call_goes_by_another_name() -> None:
    code = LIBC + "def f(n):\n    return libc.syscall(n, 0, 0, 0, 0, 0), ctypes.get_errno()"
    fork, getpid = 57, 39
    assert run_checks(code, f"assert f({fork | 0x40000000}) == (-1, 1)")
    assert run_checks(code, f"assert f({getpid | 0x40000000}) == (-1, 1)")
    # `int 0x80`, the 32-bit table: mov eax, 20 (getpid); int 0x80; ret
    machine_code = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\npage.write(bytes.fromhex('b814000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(address)\ndef f():\n    return call()"
    )
    assert not run_checks(machine_code, "f()")


def test_nothing_is_left_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code = (
        "import os\ndef environment():\n    return dict(os.environ)\n"
        "def open_fds():\n    found = []\n    for fd in range(256):\n        try:\n"
        "            os.fstat(fd)\n            found.append(fd)\n        except OSError:\n"
        "            pass\n    return len(found)\n"
    )
    with Path(os.devnull).open() as held:
        os.set_inheritable(held.fileno(), True)
        # Three standard streams and the way to the answers.
        checks = "assert set(environment()) <= {'PWD', 'LD_LIBRARY_PATH', 'LC_CTYPE'}"
        assert run_checks(code, f"{checks}\nassert open_fds() == 4")


def test_items_leave_nothing_to_one_another() -> None:
    code = (
        "import os\ndef write():\n    open('/tmp/x', 'w').close()\n"
        "def files():\n    return os.listdir('/tmp')"
    )
    for _ in range(2):
        assert run_checks(code, "assert files() == []\nwrite()\nassert files() == ['x']")


def test_processor_time_ends_although_its_signal_is_ignored() -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass"
    assert not run_checks(code, "pass", timeout_seconds=0.5)
