"""The sandbox: what passes, what ends, and what is said where there is none. Attacks: see beside."""

import os
import time
from pathlib import Path

import pytest

from ct_llm.errors import SecurityError
from ct_llm.evaluate import sandbox
from ct_llm.evaluate.sandbox import run_checks, sandbox_problem

PROBLEM = sandbox_problem()
needs_sandbox = pytest.mark.skipif(PROBLEM is not None, reason=f"no sandbox: {PROBLEM}")

RAISES = "try:\n    {call}\nexcept {error}:\n    pass\nelse:\n    1/0"


def raises(call: str, error: str) -> str:
    return RAISES.format(call=call, error=error)


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks that hang should not take the default five seconds."""
    assert run_checks.__kwdefaults__ is not None
    monkeypatch.setitem(run_checks.__kwdefaults__, "timeout_seconds", 3.0)


# Verdicts on honest code


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "checks", "passes"),
    [
        ("def f(n):\n    return n + 1", "assert f(2) == 3", True),
        ("def f(n):\n    return n - 1", "assert f(2) == 3", False),
        ("def f(n):\n    return", "assert f(2) == 3", False),
        ("def f(n:", "assert f(2) == 3", False),
        ("x = 1", "assert f(2) == 3", False),
        ("raise ValueError", "pass", False),
        ("def f(n):\n    raise ValueError", raises("f(1)", "ValueError"), True),
        ("def f(n):\n    return n", "def check(g):\n    assert g(1) == 1\ncheck(f)", True),
        (
            "class P:\n    def __init__(self, x):\n        self.x = x\n"
            "def f(ps):\n    return [p.x for p in ps]",
            "p = P(3)\np.x = 4\nassert f([p, P(5)]) == [4, 5]",
            True,
        ),
        ("def f():\n    yield from (1, 2)", "assert list(f()) == [1, 2]", True),
    ],
)
def test_verdict(code: str, checks: str, passes: bool) -> None:
    assert run_checks(code, checks) is passes


@needs_sandbox
def test_errors_are_known_by_the_builtin_kind_that_they_are_of() -> None:
    code = (
        "import json\nclass E(LookupError):\n    pass\ndef own():\n    raise E\n"
        "def parse():\n    json.loads('[')\ndef decode():\n    b'\\xff'.decode()\n"
        "def group():\n    raise ExceptionGroup('g', [ValueError()])"
    )
    expected = {"own": "LookupError", "parse": "ValueError", "decode": "UnicodeDecodeError"}
    checks = [raises(f"{name}()", error) for name, error in expected.items()]
    assert run_checks(code, "\n".join([*checks, raises("group()", "RuntimeError")]))


@needs_sandbox
def test_generators_are_asked_for_one_more() -> None:
    code = "def f():\n    yield from (1, 2)"
    assert run_checks(
        code, f"g = f()\nassert (next(g), next(g)) == (1, 2)\n{raises('next(g)', 'StopIteration')}"
    )


@needs_sandbox
def test_builtin_names_and_types_in_checks() -> None:
    code = (
        "def sum(a, b):\n    return a - b\n"
        "def f(values, kind):\n    return [v for v in values if type(v) is kind]"
    )
    assert not run_checks(code, "assert sum(3, 1) == 2")
    assert run_checks(code, "assert sum(3, 1) == 2", tested=["sum"])
    assert run_checks(code, "assert f([1, 'a', 2.0], str) == ['a']")
    assert run_checks("def f():\n    return float", "assert f() is float")


@needs_sandbox
def test_plain_data_crosses_unchanged() -> None:
    values = [
        *(None, True, -3, 10**3000, 1.5, 1e300, 2 - 3j, -0.0, "é\n\x00'\ud800", b"\xff"),
        *([], [1, [2]], (), (1,), {}, {(1, 2): {3}}, set(), {4}, frozenset({5})),
    ]
    checks = "".join(f"assert f({value!r}) == {value!r}\n" for value in values)
    checks += "assert f(float('-inf')) == float('-inf')\nassert type(f(True)) is bool\n"
    checks += "assert f(float('nan')) != f(float('nan'))\n"
    checks += "assert f(complex(0, float('inf'))) == complex(0, float('inf'))"
    assert run_checks("def f(value):\n    return value", checks)


# Isolation


@needs_sandbox
def test_the_code_sees_neither_checks_nor_nonce() -> None:
    code = (
        "import gc, os, sys\n"
        "def search():\n"
        "    spelled = ''.join(['zq', '7x'])  # so that the code itself is no find\n"
        "    found = [kind for kind, text in look() if spelled in text]\n"
        "    return found, os.path.exists('/proc')\n"
        "def look():\n"
        "    yield 'argv', repr(sys.argv[1:])\n"
        "    yield 'environment', repr(dict(os.environ))\n"
        "    frame = sys._getframe()\n"
        "    while frame := frame.f_back:\n"
        "        if frame.f_code.co_filename != 'generated':\n"
        "            yield 'frame', repr(frame.f_locals) + repr(frame.f_globals)\n"
        "    for item in gc.get_objects():\n"
        "        if type(item) in (dict, list, tuple) and len(item) < 1000:\n"
        "            yield 'gc', repr([str(i) for i in item])\n"
        "    for fd in set(range(64)) - {int(sys.argv[2])}:  # all but the way to the answers\n"
        "        try:\n"
        "            yield 'fd', repr(os.read(fd, 4096))\n"
        "        except OSError:\n"
        "            pass\n"
    )
    assert run_checks(code, "secret = 'zq7x'\nassert search() == ([], False)")


@needs_sandbox
def test_nothing_outside_can_be_written(tmp_path: Path) -> None:
    name = f"ct-llm-{os.getpid()}"
    code = "def write(path):\n    with open(path, 'w') as file:\n        file.write('x')\n"
    paths = [f"/{name}", f"/usr/{name}", f"/usr/lib/{name}", f"/python/{name}", tmp_path / name]
    checks = [raises(f"write({str(path)!r})", "OSError") for path in paths]
    assert run_checks(code, "\n".join([*checks, f"write('/tmp/{name}')"]))
    assert not Path("/tmp", name).exists()


@needs_sandbox
def test_huge_output_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys\ndef f():\n    print('x' * 10**8)\n    sys.stderr.write('y' * 10**6)\n    return 1"
    assert run_checks(code, "assert f() == 1")
    assert capfd.readouterr() == ("", "")


@needs_sandbox
def test_huge_answer_is_refused() -> None:
    assert not run_checks("def f():\n    return 'x' * 10**7", "assert len(f()) == 10**7")


@needs_sandbox
@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass",
        "import signal, time\nfor s in (1, 2, 15):\n    signal.signal(s, signal.SIG_IGN)\n"
        "time.sleep(99)",
        "def f():\n    while True:\n        print('x' * 10**6)",
    ],
)
def test_timeout_ends_everything(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A limit of its own marks this test's processes on their command lines.
    monkeypatch.setattr(sandbox, "FILE_BYTES", 1_000_000 + os.getpid())
    marker = f"RLIMIT_FSIZE={sandbox.FILE_BYTES}".encode()
    started = time.monotonic()
    assert not run_checks(code, "f()", timeout_seconds=0.5)
    assert time.monotonic() - started < 2.0
    deadline = time.monotonic() + 5.0
    while survivors := [p for p in Path("/proc").glob("[0-9]*/cmdline") if marker in _read(p)]:
        assert time.monotonic() < deadline, survivors


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended while we looked
        return b""


# Without a sandbox


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sandbox, "sandbox_problem", lambda: "bubblewrap is missing")
    trace = tmp_path / "trace"
    with pytest.raises(SecurityError, match="bubblewrap is missing"):
        run_checks(f"open({str(trace)!r}, 'w')", "pass")
    assert not trace.exists()


def test_a_missing_bubblewrap_names_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    problem = sandbox_problem.__wrapped__()
    assert problem is not None
    assert "apt-get install bubblewrap" in problem


def test_a_bubblewrap_that_does_not_isolate_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\necho "network"\n', encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox._bwrap.cache_clear()
    problem = sandbox_problem.__wrapped__()
    sandbox._bwrap.cache_clear()
    assert problem is not None
    assert "does not isolate" in problem
