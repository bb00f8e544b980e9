"""Kill the process anywhere, run the same command again: one promotion, the same end state."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ct_llm.cycle_dir import WorkDir
from ct_llm.hub_server.server import RunningHub
from scripts.demo_world.families import make_rows
from scripts.demo_world.world import BASE
from scripts.demo_world.write_suites import write_suites
from tests.loop_world import LoopWorld

pytestmark = pytest.mark.e2e


@pytest.fixture
def world(tmp_path: Path, hub: RunningHub) -> LoopWorld:
    write_suites(tmp_path / "suites", seed=0)
    world = LoopWorld(
        tmp_path,
        hub,
        "killed",
        {
            "watch": {"threshold_samples": 50},
            "prepare": {"holdout_fraction": 0.15},
            "train": {
                "lora": {"r": 4, "alpha": 8},
                "learning_rate": 5e-3,
                "epochs": 2,
                "max_length": 128,
                "save_every_steps": 5,
            },
            "evaluate": {"suites": ["suites/chat.yaml"], "limit": 15, "batch_items": 5},
            # Only whether the loop survives is asked here, so the guard may lose everything.
            "gate": {"target": "newest"},
        },
    )
    path = tmp_path / "suites" / "chat.yaml"
    path.write_text(path.read_text().replace("tolerance: 0.05", "tolerance: 1.0"))
    world.push_base(BASE)
    world.push_rows("data/one.parquet", make_rows(("chat_dash_list", "chat_stars"), 80, 7))
    return world


def test_killed_anywhere_ends_with_exactly_one_promotion(world: LoopWorld) -> None:
    work = WorkDir(world.folder / "work")

    def there(pattern: str) -> Callable[[], bool]:
        return lambda: any((world.folder / "work" / "cycles").glob(f"*/{pattern}"))

    def landed() -> bool:
        return world.api.repo_exists(world.adapter) and len(world.promotions()) > 0

    moments: dict[str, Callable[[], bool]] = {
        "cycle begun": there("cycle.json"),
        "prepared": there("prepare.json"),
        "a checkpoint written": there("checkpoints/**/checkpoint-5/*"),
        "trained": there("train.json"),
        "items drawn": there("items.parquet"),
        "a batch scored": there("journal/0*.json"),
        "evaluated": there("evaluate.json"),
        "gate decided": there("gate.json"),
        "commit landed": landed,
    }
    for moment, reached in moments.items():
        kill_when(world.start("run"), reached, moment)
    cycles = work.cycles()
    assert len(cycles) == 1, "a killed cycle is continued, not started anew"

    result = world.json("run", code=None)
    # The last kill may have come after the very last write; then nothing is left to do.
    assert result["outcome"] in ("promoted", "nothing_to_do")
    assert len(world.promotions()) == 1
    assert world.main_lineage()["cycle_id"] == cycles[0].cycle_id
    assert list(world.tags()) == ["v1"]
    history = world.json("history")["cycles"]
    assert [entry["outcome"] for entry in history] == ["promoted"]
    assert world.json("run", code=10)["outcome"] == "nothing_to_do"


def kill_when(process: subprocess.Popen[str], reached: Callable[[], bool], moment: str) -> None:
    """SIGKILL to the whole group at the moment, and a check that training left no orphan."""
    deadline = time.monotonic() + 180
    while not reached():
        if process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"ended with {process.returncode} before {moment!r}\n{out}\n{err}")
        assert time.monotonic() < deadline, f"{moment!r} never came"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
