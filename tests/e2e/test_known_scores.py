"""Scores on the ledger: champions are not evaluated again, whichever machine runs the next cycle."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ct_llm.cycle_dir import WorkDir
from ct_llm.evaluate.scores import read_scores
from ct_llm.evaluation import EVIDENCE
from ct_llm.hub import ledger
from ct_llm.hub.ledger import evidence_path
from ct_llm.hub_server.server import RunningHub
from ct_llm.records import EvalResult, GateDecision, ItemScore
from scripts.demo_world.families import make_rows
from scripts.demo_world.world import BASE
from scripts.demo_world.write_suites import write_suites
from tests.loop_world import LoopWorld

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NUM_ITEMS = 15


@pytest.fixture
def world(tmp_path: Path, hub: RunningHub) -> LoopWorld:
    write_suites(tmp_path / "suites", seed=0)
    world = LoopWorld(
        tmp_path,
        hub,
        "known",
        {
            "watch": {"threshold_samples": 50},
            "prepare": {"holdout_fraction": 0.15},
            "train": {
                "lora": {"r": 4, "alpha": 8},
                "learning_rate": 5e-3,
                "epochs": 1,
                "max_length": 128,
            },
            "evaluate": {"suites": ["suites/chat.yaml"], "limit": NUM_ITEMS},
            "gate": {"target": "newest", "mode": "full"},
        },
    )
    path = tmp_path / "suites" / "chat.yaml"
    path.write_text(path.read_text().replace("tolerance: 0.05", "tolerance: 1.0"))
    world.push_base(BASE)
    return world


def new_rows(world: LoopWorld, seed: int) -> None:
    rows = make_rows(("chat_dash_list", "chat_stars"), 80, seed)
    world.push_rows(f"data/{seed}.parquet", rows)


def cycle_on_a_new_machine(world: LoopWorld) -> tuple[Path, EvalResult, list[ItemScore]]:
    """One cycle with an empty disk; its challenger is the champion afterwards, whatever it is worth."""
    for folder in ("work", "hf_home"):
        shutil.rmtree(world.folder / folder, ignore_errors=True)
    result = world.json("run", code=None)
    assert result["outcome"] in ("promoted", "rejected", "inconclusive")
    if result["outcome"] != "promoted":
        world.api.merge_pull_request(world.adapter, result["promotion"]["review_number"])
    (cycle,) = WorkDir(world.folder / "work").cycles()
    evaluated = cycle.output("evaluate", EvalResult)
    scores = read_scores(cycle.path / evaluated.scores_path, evaluated.scores_digest)
    return cycle.path, evaluated, [score for score in scores if score.slice == "chat"]


def by_side(scores: list[ItemScore], side: str) -> dict[str, float]:
    return {score.item_id: score.score for score in scores if score.adapter == side}


def test_champion_and_anchor_are_served_from_the_ledger(world: LoopWorld) -> None:
    new_rows(world, 7)
    _, first, chat_1 = cycle_on_a_new_machine(world)
    assert (first.num_from_cache, first.anchor_digest) == (0, None)
    assert len(by_side(chat_1, "challenger")) == NUM_ITEMS

    new_rows(world, 8)
    _, second, chat_2 = cycle_on_a_new_machine(world)
    assert second.champion_digest == first.challenger_digest
    assert second.anchor_digest is None, "with one version there is nothing earlier"
    assert second.num_from_cache == NUM_ITEMS, "every score of the champion, none of the challenger"
    assert by_side(chat_2, "champion") == by_side(chat_1, "challenger")

    new_rows(world, 9)
    folder, third, chat_3 = cycle_on_a_new_machine(world)
    assert third.champion_digest == second.challenger_digest
    assert third.anchor_digest == first.challenger_digest
    assert third.num_from_cache == 2 * NUM_ITEMS
    assert by_side(chat_3, "champion") == by_side(chat_2, "challenger")
    assert by_side(chat_3, "anchor") == by_side(chat_1, "challenger")
    decision = json.loads((folder / "gate.json").read_text())["output"]
    assert [(v["slice"], v["role"]) for v in decision["slices"]] == [
        ("chat", "guard"),
        ("newest", "target"),
        ("chat", "anchor"),
    ]

    check_recheck(world, folder)


def check_recheck(world: LoopWorld, folder: Path) -> None:
    """Folder and ledger give the recorded verdict; a score that was changed does not."""
    assert "recorded verdict" in world.ct_llm("recheck", str(folder))
    found = world.json("recheck", folder.name)
    assert found["same"] and found["problem"] is None
    assert world.ct_llm("recheck", "c00000000000", code=30) == ""

    content = (folder / EVIDENCE).read_bytes()
    table = pq.read_table(io.BytesIO(content))
    rows: list[dict[str, Any]] = table.to_pylist()
    changed = next(row for row in rows if row["slice"] == "chat")
    changed["challenger"] = 1.0 - changed["challenger"]
    sink = io.BytesIO()
    pq.write_table(type(table).from_pylist(rows, table.schema), sink)
    world.api.upload_file(
        path_or_fileobj=sink.getvalue(),
        path_in_repo=evidence_path(folder.name),
        repo_id=world.adapter,
        revision=ledger.BRANCH,
    )
    found = world.json("recheck", folder.name, code=40)
    assert not found["same"] and "does not follow" in found["problem"]

    # On this disk the evidence is whole, but the decision beside it was changed.
    record = json.loads((folder / "gate.json").read_text())
    record["output"] |= {"verdict": "promote", "sentence": "Promote, please."}
    GateDecision.model_validate(record["output"])
    (folder / "gate.json").write_text(json.dumps(record))
    found = world.json("recheck", str(folder), code=40)
    assert "is not the one in" in found["problem"]
