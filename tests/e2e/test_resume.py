"""Killed at any moment, or shared by two processes: the files of an evaluation are the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ct_llm.evaluate.journal import remove_journal
from ct_llm.evaluate.scores import read_items, read_scores
from ct_llm.records import EvalResult
from tests.e2e.toy_evaluation import World, outcome

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
TWO_ON_CPU = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU  # MULTI_CPU would start a single process without a word
use_cpu: true
num_machines: 1
machine_rank: 0
num_processes: 2
main_process_port: 0
mixed_precision: "no"
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made = World.make(tmp_path_factory.mktemp("world"))
    made.know_some_champion_scores()
    torch.set_num_threads(before)
    return made


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation without any trouble."""
    folder = tmp_path_factory.mktemp("whole")
    _process([sys.executable, "-m", "tests.e2e.toy_evaluation"], "once", world, folder)
    return folder


def test_the_world_has_everything_that_could_go_wrong(whole: Path) -> None:
    """Three sides, a slice with known scores, one that stops half way, and the held-out rows."""
    result = EvalResult.model_validate_json((whole / "result.json").read_bytes())
    scored = {part.slice: (part.num_scored, part.num_items) for part in result.slices}
    assert scored == {
        "choosing": (96, 96),
        "other": (160, 192),
        "newest": (40, 40),
        "newest_generated": (40, 40),
    }
    assert result.stopped == "decided"
    assert result.num_from_cache == 96
    scores = read_scores(whole / result.scores_path, result.scores_digest)
    assert len(scores) == 3 * (96 + 160) + 2 * (40 + 40)
    assert {s.slice for s in scores if s.adapter == "anchor"} == {"choosing", "other"}
    assert len({s.score for s in scores}) > 100
    items = read_items(whole / result.items_path, result.items_digest)
    assert len(items) == 96 + 192 + 40 + 40
    remove_journal(whole)
    assert not (whole / "journal").exists()


def test_killed_at_random_moments(world: World, whole: Path, tmp_path: Path) -> None:
    told = _process(
        [sys.executable, "-m", "tests.e2e.toy_evaluation"], "random", world, tmp_path, "5"
    )
    assert len(told["saved"]) == 5
    assert max(told["saved"]) > 0
    assert outcome(tmp_path / "killed") == outcome(whole)
    assert outcome(tmp_path / "whole") == outcome(whole)


def test_killed_by_its_own_writes(world: World, whole: Path, tmp_path: Path) -> None:
    told = _process([sys.executable, "-m", "tests.e2e.toy_evaluation"], "writes", world, tmp_path)
    assert len(told["codes"]) >= 5
    assert outcome(tmp_path / "killed") == outcome(whole)


def test_two_processes_give_the_files_of_one(world: World, whole: Path, tmp_path: Path) -> None:
    config = tmp_path / "two.yaml"
    config.write_text(TWO_ON_CPU)
    launch = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(config), "-m", "tests.e2e.toy_evaluation"),
    ]
    told = _process(launch, "once", world, tmp_path)
    assert told["ranks"] == [0, 1]
    assert outcome(tmp_path) == outcome(whole)


def _process(
    command: list[str], what: str, world: World, folder: Path, *more: str
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [*command, what, str(world.folder), str(folder), *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "told.json").read_text())
