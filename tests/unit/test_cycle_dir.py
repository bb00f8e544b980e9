import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from ct_llm import cycle_dir
from ct_llm.config import WatchConfig
from ct_llm.cycle_dir import CycleDir, WorkDir, read_record, write_atomically, write_record
from ct_llm.errors import InputError, StorageError


class Output(BaseModel):
    value: int


class Step:
    """Counts how often it really ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self) -> Output:
        self.runs += 1
        return Output(value=self.runs)


def run(cycle: CycleDir, step: Step, *, threshold: int = 1, inputs: object = ("a",)) -> Output:
    return cycle.step(
        "prepare",
        config=WatchConfig(threshold_samples=threshold),
        inputs=inputs,
        output=Output,
        run=step,
    )


def test_a_finished_step_with_the_same_inputs_is_not_run_again(tmp_path: Path) -> None:
    step = Step()
    assert run(CycleDir(tmp_path), step) == run(CycleDir(tmp_path), step) == Output(value=1)
    assert step.runs == 1


def test_another_config_or_input_runs_it_again(tmp_path: Path) -> None:
    step = Step()
    run(CycleDir(tmp_path), step)
    run(CycleDir(tmp_path), step, threshold=2)
    run(CycleDir(tmp_path), step, threshold=2, inputs=("b",))
    assert step.runs == 3


def test_a_step_that_fails_leaves_no_record(tmp_path: Path) -> None:
    def fail() -> Output:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        CycleDir(tmp_path).step("train", config=WatchConfig(), inputs=[], output=Output, run=fail)
    assert CycleDir(tmp_path).record("train") is None
    with pytest.raises(InputError, match="ct-llm train"):
        CycleDir(tmp_path).output("train", Output)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"value": "x"}', b"\xff\xfe", b'{"other": 1}']
)
def test_a_damaged_record_is_never_read_as_whole(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"record\.json"):
        read_record(path, Output)


def test_a_full_disk_keeps_the_old_record_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_record(path, Output(value=1))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cycle_dir.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_record(path, Output(value=2))
    assert read_record(path, Output) == Output(value=1)
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError, match="No space left"), Path("/dev/full").open("wb") as file:
        file.write(b"x")
        file.flush()
    # A file-size limit makes the kernel refuse the bytes of a real file in the same way.
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from ct_llm.cycle_dir import write_atomically\n"
        "from ct_llm.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try:\n"
        "    write_atomically(Path(sys.argv[1]), b'x' * 1000)\n"
        "except StorageError:\n"
        "    sys.exit(20)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.json")], check=False)
    assert done.returncode == 20
    assert list(tmp_path.iterdir()) == []


def test_killed_while_writing_leaves_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ct_llm.cycle_dir import write_atomically\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    write_atomically(Path(sys.argv[1]), (str(n) * 100_000 + 'end').encode())\n"
        "    if n == 3: print('going', flush=True)\n"
    )
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        assert path.read_bytes().endswith(b"end")


def test_an_unwritable_folder_is_a_clear_error() -> None:
    with pytest.raises(StorageError, match="could not write"):
        write_atomically(Path("/proc/nowhere/record.json"), b"x")


def test_only_one_process_works_in_a_folder(tmp_path: Path) -> None:
    work = WorkDir(tmp_path)
    with work.locked():
        refused = pytest.raises(StorageError, match="another ct-llm process")
        with refused, WorkDir(tmp_path).locked():
            pass
    with work.locked():
        pass
