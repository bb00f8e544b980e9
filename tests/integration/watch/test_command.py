"""`ct-llm watch` and what it records, as a process against the embedded Hub."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from ct_llm.hub_server import RunningHub, add_token
from tests.integration.watch.world import rows
from tests.loop_world import LoopWorld


@pytest.fixture
def world(tmp_path: Path, hub: RunningHub) -> LoopWorld:
    world = LoopWorld(
        tmp_path,
        hub,
        f"cmd-{uuid.uuid4().hex[:8]}",
        {
            "watch": {
                "threshold_samples": 10,
                "max_data_age": "14d",
                "debounce": 0.001,
                "max_cycles_per_day": 3,
            },
            "evaluate": {"suites": []},
        },
    )
    world.push("a.parquet", rows(0, 4))
    return world


def num_ledger_commits(world: LoopWorld) -> int:
    refs = world.api.list_repo_refs(world.adapter)
    if not any(branch.name == "ledger" for branch in refs.branches):
        return 0
    return len(world.api.list_repo_commits(world.adapter, revision="ledger"))


def test_the_sentence_and_the_rules(world: LoopWorld):
    text = world.ct_llm("watch", code=10)
    assert text.startswith("not training: 4 of 10 new rows; age of champion's data is not known")
    table = {line.split()[0]: line for line in text.splitlines() if line.split()[:1]}
    assert table["volume"].split()[1:4] == ["4", "10", "no"]
    assert "14 days" in table["freshness"] and "–" in table["freshness"]
    assert table["budget"].split()[1:4] == ["0", "3", "no"]

    decision = world.json("watch", code=10)["decision"]
    assert decision["should_train"] is False
    assert [reason["rule"] for reason in decision["reasons"]] == [
        "volume",
        "freshness",
        "debounce",
        "budget",
    ]
    [part] = decision["datasets"]
    assert (part["name"], part["num_new_rows"]) == (world.dataset, 4)
    world.push("b.parquet", rows(4, 20))
    world.config["watch"]["debounce"] = 0
    assert world.json("watch")["decision"]["should_train"] is True


def test_the_function_goes_by_its_own_threshold_and_the_configs_other_rules(world: LoopWorld):
    world.config["watch"]["debounce"] = 0  # the push was a moment ago, and would be waited for
    world.write_config()
    code = f"""
from ct_llm import check_for_retraining_trigger
for threshold in (5, 4):
    decision = check_for_retraining_trigger(threshold, config={str(world.config_path)!r})
    print(bool(decision), *[reason.rule for reason in decision.reasons])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=world.env, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "False volume freshness budget",
        "True volume freshness budget",
    ], done.stderr
    assert not (world.folder / "work" / "watch.json").exists()


def test_only_what_is_asked_to_be_recorded_is(world: LoopWorld):
    # Before there is an adapter repo the watch works, and keeps to itself.
    world.ct_llm("watch", code=10)
    world.ct_llm("watch", "--record", code=10)
    assert not world.api.repo_exists(world.adapter)
    world.api.create_repo(world.adapter)
    world.ct_llm("watch", code=10)
    world.ct_llm("run", "--dry-run", code=10)
    assert num_ledger_commits(world) == 0
    assert world.json("history", "--decisions") == {"decisions": []}

    world.ct_llm("watch", "--record", code=10)
    commits = num_ledger_commits(world)
    world.ct_llm("watch", "--record", code=10)
    world.ct_llm("run", code=10)
    world.ct_llm("watch", "--begin", code=10)
    assert num_ledger_commits(world) == commits, "nothing has changed since"

    world.push("b.parquet", rows(4, 9))
    world.ct_llm("run", code=10)
    newer, older = world.json("history", "--decisions")["decisions"]
    assert [d["datasets"][0]["num_new_rows"] for d in (newer, older)] == [9, 4]
    assert world.json("history", "--decisions", "--limit", "1") == {"decisions": [newer]}
    assert "9 of 10 new rows" in world.ct_llm("history", "--decisions")
    assert world.json("status")["last_decision"] == newer


def test_a_token_that_may_only_read_watches_all_the_same(world: LoopWorld):
    world.api.create_repo(world.adapter)
    world.token = add_token(world.hub.root, "only-reads", role="read")
    code, out, err = world.run_to_end("watch", "--record")
    assert code == 10 and out.startswith("not training: 4 of 10")
    assert "the decision was not recorded" in err and "Traceback" not in err


def test_the_plan_of_a_run_that_would_not_start(world: LoopWorld):
    plan = world.json("run", "--dry-run", code=10)
    assert (plan["starts"], plan["resumes"], plan["request"]) == (False, False, None)
    assert plan["decision"]["sentence"].startswith("not training: 4 of 10")
    assert "would start no cycle" in world.ct_llm("run", "--dry-run", code=10)
    forced = world.json("run", "--dry-run", "--force")
    assert forced["starts"] and forced["request"]["cycle_id"].startswith("c")
    assert "would start cycle c" in world.ct_llm("run", "--dry-run", "--force")
