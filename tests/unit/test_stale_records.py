"""A record beside an output must speak of that output, whatever was run, killed or undone since."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from ct_llm.config import WatchConfig
from ct_llm.cycle_dir import CycleDir, WorkDir
from ct_llm.records import StepName


class Output(BaseModel):
    value: int


def run(cycle: CycleDir, step: StepName, value: int, *, die: bool = False) -> Output:
    """A step that leaves its value in a file beside the record."""

    def work() -> Output:
        (cycle.path / f"{step}.txt").write_text(str(value))
        if die:
            raise KeyboardInterrupt
        return Output(value=value)

    config = WatchConfig(threshold_samples=value)
    return cycle.step(step, config=config, inputs=[], output=Output, run=work)


def test_a_step_that_runs_again_takes_later_records_with_it(tmp_path: Path) -> None:
    cycle = CycleDir(tmp_path)
    for step in ("prepare", "train", "evaluate"):
        run(cycle, step, 1)
    run(cycle, "train", 2)
    assert cycle.record("prepare") is not None
    assert cycle.record("evaluate") is None


def test_a_step_killed_after_it_wrote_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    cycle = CycleDir(tmp_path)
    run(cycle, "train", 1)
    with pytest.raises(KeyboardInterrupt):
        run(cycle, "train", 2, die=True)
    assert cycle.record("train") is None
    run(cycle, "train", 1)
    assert (tmp_path / "train.txt").read_text() == "1"


def test_a_cycle_of_another_version_does_not_stand_in_the_way(tmp_path: Path) -> None:
    folder = tmp_path / "cycles" / "c1"
    folder.mkdir(parents=True)
    (folder / "cycle.json").write_text('{"of": "another version"}')
    assert WorkDir(tmp_path).cycles() == []
