"""A cycle's folder: records written atomically, read back, resumed.

    <work_dir>/cycles/<cycle_id>/
      cycle.json       CycleRequest: champion, data and decision that the cycle began with
      config.json      the resolved config of the last run
      prepare.json     one StepRecord beside each step's output; only complete ones ever exist
      data/ adapter/ checkpoints/ scores.parquet ...
      failed.json      why it cannot go on as it is; removed when the same cycle is begun again
      outcome.json     CycleSummary, written last: the cycle is over

A step whose record exists and was made from the same inputs is not run again. That is all that
resume is.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ct_llm.config import CTConfig
from ct_llm.config_errors import first_problem
from ct_llm.digests import fingerprint
from ct_llm.errors import InputError, StorageError
from ct_llm.records import STEPS, CycleRequest, CycleSummary, Record, StepName

Output = TypeVar("Output", bound=BaseModel)

FORMAT = 2
"""Raise when a record written before can no longer be read: older cycles are then not resumed."""


class StepRecord(Record):
    """What stands beside a step's output."""

    format: int
    step: str
    inputs: str
    """Fingerprint of the config part and of the earlier outputs that the step was made from."""
    config: dict[str, Any]
    started_at: str
    seconds: float
    output: dict[str, Any]


class Failure(Record):
    message: str
    at: str


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def write_atomically(path: Path, data: bytes) -> None:
    """All of it or nothing, also when the disk fills up or the machine dies in between.

    Raises StorageError; the file that was there before is then still there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(temporary).unlink()
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(
            f"could not write {path}: {error.strerror or error}. Free space or mend the folder, "
            "then run the same command again; nothing was half-written."
        ) from error


def write_record(path: Path, record: BaseModel) -> None:
    write_atomically(path, record.model_dump_json(indent=2).encode() + b"\n")


def read_record(path: Path, model: type[Output]) -> Output:
    """Raises InputError when the file is missing or is not such a record."""
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such record. Run the step before it first.") from None
    except (OSError, ValidationError) as error:
        problem = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(
            f"{path} is not a readable {model.__name__} record: {problem}. "
            "It was changed by hand or written by another version; remove it to run that step again."
        ) from None


class CycleDir:
    """One cycle's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def cycle_id(self) -> str:
        return self.path.name

    # ------------------------------------------------------------ request and outcome

    def begin(self, request: CycleRequest) -> None:
        """Write what the cycle is asked to do; steps that finished in an earlier try stay valid."""
        for stale in ("failed.json", "outcome.json"):
            (self.path / stale).unlink(missing_ok=True)
        write_record(self.path / "cycle.json", request)

    def write_config(self, config: CTConfig) -> None:
        """The config that a step run on its own goes by."""
        write_record(self.path / "config.json", config)

    def config(self) -> CTConfig:
        return read_record(self.path / "config.json", CTConfig)

    def locked(self) -> AbstractContextManager[None]:
        """One process at a time works on a cycle."""
        return _locked(self.path)

    def request(self) -> CycleRequest:
        return read_record(self.path / "cycle.json", CycleRequest)

    def write_outcome(self, summary: CycleSummary) -> None:
        write_record(self.path / "outcome.json", summary)

    def outcome(self) -> CycleSummary | None:
        path = self.path / "outcome.json"
        return read_record(path, CycleSummary) if path.exists() else None

    def note_failure(self, message: str) -> None:
        write_record(self.path / "failed.json", Failure(message=message, at=now()))

    def failure(self) -> str | None:
        path = self.path / "failed.json"
        return read_record(path, Failure).message if path.exists() else None

    def is_unfinished(self) -> bool:
        """Worth continuing: neither over nor stopped by something that running on cannot mend."""
        return self.outcome() is None and self.failure() is None

    # ------------------------------------------------------------ steps

    def step(
        self,
        name: StepName,
        *,
        config: BaseModel,
        inputs: Any,
        output: type[Output],
        run: Callable[[], Output],
    ) -> Output:
        """The step's output: from its record when the inputs did not change, else by running it.

        `inputs`: records, digests and numbers that decide the output beside `config`.
        """
        key = fingerprint([FORMAT, name, config, inputs])
        done = self.record(name)
        if done is not None and done.inputs == key:
            return output.model_validate(done.output)
        # From here on the files beside the records change: neither this step's record nor those
        # of the steps after it speak of them any more, whenever this process dies.
        for stale in STEPS[STEPS.index(name) :]:
            (self.path / f"{stale}.json").unlink(missing_ok=True)
        started, clock = now(), time.monotonic()
        result = run()
        record = StepRecord(
            format=FORMAT,
            step=name,
            inputs=key,
            config=config.model_dump(mode="json"),
            started_at=started,
            seconds=round(time.monotonic() - clock, 3),
            output=result.model_dump(mode="json"),
        )
        write_record(self.path / f"{name}.json", record)
        return result

    def record(self, name: StepName) -> StepRecord | None:
        """The record of a finished step; none when it has not finished."""
        path = self.path / f"{name}.json"
        if not path.exists():
            return None
        record = read_record(path, StepRecord)
        return record if record.format == FORMAT else None

    def output(self, name: StepName, model: type[Output]) -> Output:
        """The output of an earlier step. Raises InputError when it has not run."""
        record = self.record(name)
        if record is None:
            raise InputError(
                f"{self.path}: step {name} has not finished here. Run `ct-llm {name} --cycle {self.path}`."
            )
        return model.model_validate(record.output)


class WorkDir:
    """All cycles of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cycles(self) -> list[CycleDir]:
        """Oldest first; those that another version wrote, and this one cannot read, are left out."""
        found: list[tuple[str, CycleDir]] = []
        for path in (self.path / "cycles").glob("*/cycle.json"):
            cycle = CycleDir(path.parent)
            with suppress(InputError):
                cycle.config()
                cycle.failure()
                cycle.outcome()
                found.append((cycle.request().created_at, cycle))
        return [cycle for _, cycle in sorted(found, key=lambda pair: pair[0])]

    def cycle(self, cycle_id: str) -> CycleDir:
        return CycleDir(self.path / "cycles" / cycle_id)

    def locked(self) -> AbstractContextManager[None]:
        """One run at a time; a second process on the same folder is told to come back later."""
        return _locked(self.path)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # The lock belongs to the open file, so the kernel frees it however the process ends.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise StorageError(f"could not write in {folder}: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                f"another ct-llm process is working in {folder}. Wait for it, or give this one its "
                "own work_dir."
            ) from None
        yield
