"""The watch step on a real ledger: what it costs where nothing changed, and what cycles leave for it."""

import uuid
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd

from ct_llm.config import load_config
from ct_llm.hub.adapter_repo import read_head
from ct_llm.hub.used_files import read_used_files
from ct_llm.hub_server import RunningHub
from ct_llm.pipeline import find_cycle, record_decision
from ct_llm.promote.rollback import rollback
from tests.integration.watch.loop import config_of, end_cycle, tick
from tests.integration.watch.world import Wire, counts
from tests.integration.watch.world import rows as rows_of
from tests.loop_world import LoopWorld

NUM_SHARDS = 300
rows = partial(rows_of, column="instruction", output="Well said.")


@pytest.fixture
def world(tmp_path: Path, hub: RunningHub, wire: Wire) -> LoopWorld:
    del wire
    world = LoopWorld(
        tmp_path,
        hub,
        f"tick-{uuid.uuid4().hex[:8]}",
        {"watch": {"threshold_samples": 50}, "evaluate": {"suites": []}},
    )
    # Where rows are read, whether the base's template renders tool calls is asked first.
    world.api.create_repo(f"{world.owner}/base")
    world.api.upload_file(
        path_or_fileobj=b"{}", path_in_repo="tokenizer_config.json", repo_id=f"{world.owner}/base"
    )
    return world


def push(world: LoopWorld, **files: bytes) -> None:
    operations = [CommitOperationAdd(f"{name}.parquet", data) for name, data in files.items()]
    world.api.create_commit(world.dataset, operations, commit_message="rows", repo_type="dataset")


def cheap_tick(world: LoopWorld, wire: Wire) -> tuple[int, int, int]:
    wire.reset()
    watched = tick(world)
    assert len(wire.requests) <= 4, wire.requests
    assert wire.num_bytes <= 64 * 1024
    assert not wire.asked("/tree/")
    return counts(watched.state.datasets[0])


def test_a_tick_without_news_is_flat(world: LoopWorld, wire: Wire):
    push(world, **{f"shard{i}": rows(2 * i, 2 * i + 2) for i in range(NUM_SHARDS)})
    end_cycle(world)
    assert cheap_tick(world, wire) == (600, 0, 0)

    push(world, more=rows(1_000, 1_060))
    end_cycle(world, "reject")
    assert cheap_tick(world, wire) == (660, 60, 0)

    push(world, few=rows(2_000, 2_005))
    assert counts(tick(world).state.datasets[0]) == (665, 65, 5)
    assert cheap_tick(world, wire) == (665, 65, 5)

    # Another machine, or a runner that keeps nothing: the state is on the ledger too.
    watched = tick(world)
    record_decision(world.api, config_of(world), watched.decision, watched.state)
    world.config["work_dir"] = "elsewhere"
    assert cheap_tick(world, wire) == (665, 65, 5)


def test_tables_hold_what_the_champions_have_used(world: LoopWorld):
    push(world, a=rows(0, 60), b=rows(60, 70))
    first = end_cycle(world)
    world.api.delete_file("a.parquet", world.dataset, repo_type="dataset")
    push(world, c=rows(100, 160))
    second = end_cycle(world, "reject")
    tables = [
        {
            file.path: file.num_rows
            for file in read_used_files(world.api, world.adapter, cycle) or ()
        }
        for cycle in (first, second)
    ]
    assert tables == [
        {"a.parquet": 60, "b.parquet": 10},
        {"a.parquet": 60, "b.parquet": 10, "c.parquet": 60},
    ]
    assert read_used_files(world.api, world.adapter, "c0") is None

    # Squashed, and the removed shard is back under another name: nothing of it is new.
    world.api.super_squash_history(world.dataset, repo_type="dataset")
    push(world, back=rows(0, 60), d=rows(200, 203))
    assert counts(tick(world).state.datasets[0]) == (133, 63, 3)


def test_after_a_rollback_the_rows_wait_for_newer_ones(world: LoopWorld):
    push(world, a=rows(0, 60))
    end_cycle(world)
    push(world, b=rows(60, 180))
    second = end_cycle(world)
    assert rollback(world.api, world.adapter, to=None, reason="bad").data_of == second
    assert counts(tick(world).state.datasets[0]) == (180, 120, 0)
    push(world, c=rows(180, 181))
    assert counts(tick(world).state.datasets[0]) == (181, 121, 1)


def test_rewritten_shards_are_compared_row_by_row(world: LoopWorld):
    push(world, a=rows(0, 60), b=rows(60, 120))
    end_cycle(world)
    world.api.delete_file("b.parquet", world.dataset, repo_type="dataset")
    push(world, a=rows(0, 130, language="en"))
    watched = tick(world)
    assert counts(watched.state.datasets[0]) == (130, 10, 10)
    assert watched.state.datasets[0].counted_by == "rows"
    assert watched.decision.sentence.startswith("not training: 10 of 50 new rows")


def test_drift_reads_rows_of_both_sides(world: LoopWorld):
    world.config["watch"] = {"drift": {"enabled": True, "min_new_rows": 40}}
    push(world, a=rows(0, 60))
    end_cycle(world)
    push(world, b=rows(0, 50, text="Zeile Nummer {} erzählt von ganz anderen Dingen"))
    report = tick(world).decision.drift
    assert report is not None
    assert (report.num_new, report.num_reference, report.drifted) == (50, 60, True)


def test_a_forced_cycle_says_so(world: LoopWorld):
    push(world, a=rows(0, 7))
    config = config_of(world)
    head = read_head(world.api, world.adapter)
    assert find_cycle(config, world.api, head).request is None
    request = find_cycle(config, world.api, head, force=True).request
    assert request is not None
    assert [reason.rule for reason in request.decision.reasons] == ["volume", "forced"]
    assert [file.path for file in request.data.datasets[0].files] == ["a.parquet"]


def test_the_same_look_begins_the_same_cycle(world: LoopWorld):
    push(world, a=rows(0, 70))
    ids = set()
    for folder in ("work", "elsewhere"):
        world.config["work_dir"] = folder
        world.write_config()
        found = find_cycle(
            load_config(world.config_path), world.api, read_head(world.api, world.adapter)
        )
        assert found.request is not None
        ids.add(found.request.cycle_id)
    assert len(ids) == 1


def test_cooldown_and_budget_know_the_cycles_of_the_ledger(world: LoopWorld):
    push(world, a=rows(0, 60))
    end_cycle(world, "reject")
    push(world, b=rows(60, 180))
    assert tick(world).decision.should_train
    world.config["watch"] = {
        "threshold_samples": 50,
        "cooldown": "1d",
        "max_cycles_per_week": 1,
    }
    decision = tick(world).decision
    assert not decision.should_train
    assert [r.rule for r in decision.reasons if r.kind == "brake" and r.met] == [
        "cooldown",
        "budget",
    ]


def test_a_state_that_cannot_be_read_is_looked_up_again(world: LoopWorld):
    push(world, a=rows(0, 7))
    first = tick(world)
    (world.folder / "work" / "watch.json").write_text('{"should_train": true}')
    again = tick(world)
    assert again.state == first.state
    assert counts(again.state.datasets[0]) == (7, 7, 7)
