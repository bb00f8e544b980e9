"""What the ledger holds beside its entries: tables of used files, and the history of decisions."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ct_llm.errors import HubAccessError, InputError
from ct_llm.hub import ledger
from ct_llm.hub.adapter_repo import read_head
from ct_llm.hub.decisions import read_decisions, record_decision
from ct_llm.hub.ledger import entered, read_entry, read_ledger, read_ledger_head
from ct_llm.hub.used_files import read_used_files
from ct_llm.hub_server import RunningHub, add_token
from ct_llm.promote.champion import used_files
from ct_llm.promote.rollback import rollback
from ct_llm.records import DatasetState, LedgerHead, TriggerDecision, TriggerReason, WatchState
from tests.integration.promote.world import Network, World, lose_answer
from tests.unit.promote.cycle_records import snapshot

STATE = WatchState(inputs="0" * 64, datasets=())


def decision(
    new: int = 5, *, revision: str = "a" * 40, at: str = "2026-11-24T16:00:00Z"
) -> TriggerDecision:
    part = DatasetState(
        name="rows",
        repo="acme/rows",
        revision=revision,
        as_of=at,
        num_rows=100,
        num_unseen_rows=new,
        num_new_rows=new,
        counted_by="files",
    )
    reason = TriggerReason(
        rule="volume", value=new, threshold=10, unit="rows", met=new >= 10, sentence=f"{new} rows"
    )
    return TriggerDecision(
        should_train=new >= 10,
        sentence=f"{new} of 10 new rows",
        reasons=(reason,),
        checked_at=at,
        datasets=(part,),
    )


def num_commits(world: World) -> int:
    return len(world.api.list_repo_commits(world.repo, revision=ledger.BRANCH))


# ---------------------------------------------------------------- tables


def test_an_entry_comes_with_the_table_of_what_was_used(world: World):
    world.finish(1, world.cycle(1)())
    expected = used_files(snapshot(100, f"{1:040x}"))
    assert read_used_files(world.api, world.repo, "c1") == expected
    assert read_used_files(world.api, world.repo, "c2") is None
    titles = [c.title for c in world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)]
    assert titles.count("c1: promoted") == 1 and len(titles) == 2, "one commit for both"


def test_a_table_that_is_none(world: World):
    world.finish(1, world.cycle(1)())
    world.api.upload_file(
        path_or_fileobj=b"PAR1 it is not",
        path_in_repo="data/c1.parquet",
        repo_id=world.repo,
        revision=ledger.BRANCH,
    )
    with pytest.raises(InputError, match=r"data/c1.parquet is not a table of used files"):
        read_used_files(world.api, world.repo, "c1")


def test_a_rollback_names_the_cycle_whose_table_it_keeps(world: World):
    for seed in (1, 2):
        world.finish(seed, world.cycle(seed)())
    assert rollback(world.api, world.repo, to=None, reason="bad").data_of == "c2"
    assert rollback(world.api, world.repo, to="v2", reason="good").data_of == "c2"


# ---------------------------------------------------------------- the head


def test_the_head_knows_the_cycles_of_late(world: World, network: Network):
    promotion = world.cycle(1)()
    for seed in range(1, 5):
        world.finish(seed, promotion)
    head = read_ledger_head(world.api, world.repo)
    assert [past.cycle_id for past in head.recent] == ["c4", "c3", "c2", "c1"]
    network.log.clear()
    assert [e.cycle_id for e in read_ledger(world.api, world.repo, 2)] == ["c4", "c3"]
    assert len(network.log) == 3, "the head and what was asked for"


def test_only_the_newest_hundred_are_kept_in_the_head(world: World):
    summary = world.finish(1, world.cycle(1)())
    head = LedgerHead()
    for number in range(130):
        at = f"2026-11-24T16:{number // 60:02d}:{number % 60:02d}Z"
        update: dict[str, Any] = {"cycle_id": f"c{number}", "finished_at": at}
        head = entered(head, summary.model_copy(update=update), STATE, is_known=False)
    assert [past.cycle_id for past in head.recent] == [f"c{n}" for n in range(129, 29, -1)]
    assert head.watch == STATE
    assert len(head.model_dump_json()) < 32 * 1024


# ---------------------------------------------------------------- decisions


def test_a_decision_is_recorded_when_it_is_news(world: World):
    world.finish(1, world.cycle(1)())
    before = num_commits(world)
    first = decision()
    record_decision(world.api, world.repo, first, STATE)
    assert num_commits(world) == before + 1
    assert read_ledger_head(world.api, world.repo).decision == first

    for again in (first, decision(7, at="2026-11-24T17:00:00Z")):
        record_decision(world.api, world.repo, again, STATE)
    assert num_commits(world) == before + 1, "only time and figures differ"

    other_data = decision(7, revision="b" * 40, at="2026-11-24T18:00:00Z")
    due = decision(12, revision="b" * 40, at="2026-12-01T00:00:00Z")
    for news in (other_data, due):
        record_decision(world.api, world.repo, news, STATE)
    assert read_decisions(world.api, world.repo) == [due, other_data, first]
    assert read_decisions(world.api, world.repo, 2) == [due, other_data]
    files = world.api.list_repo_files(world.repo, revision=ledger.BRANCH)
    months = sorted(path for path in files if path.startswith("decisions/"))
    assert months == ["decisions/2026-11.jsonl", "decisions/2026-12.jsonl"]
    last = read_ledger_head(world.api, world.repo).last_attempt
    assert last is not None and last.cycle_id == "c1"


def test_another_state_is_kept_without_a_line(world: World):
    world.finish(1, world.cycle(1)())
    record_decision(world.api, world.repo, decision(), STATE)
    newer = WatchState(inputs="1" * 64, datasets=decision().datasets)
    record_decision(world.api, world.repo, decision(), newer)
    assert len(read_decisions(world.api, world.repo)) == 1
    assert read_ledger_head(world.api, world.repo).watch == newer


def test_a_lost_answer_leaves_one_line(world: World, network: Network):
    world.finish(1, world.cycle(1)())
    network.fault = lose_answer("/commit/ledger", "no answer")
    record_decision(world.api, world.repo, decision(), STATE)
    assert read_decisions(world.api, world.repo) == [decision()]


def test_ticks_and_cycles_at_once_lose_nothing(world: World):
    promotion = world.cycle(1)()
    world.finish(1, promotion)

    def tick(number: int) -> None:
        record_decision(world.api, world.repo, decision(revision=f"{number:040x}"), STATE)

    with ThreadPoolExecutor(8) as pool:
        ticks = [pool.submit(tick, number) for number in range(5)]
        cycles = [pool.submit(world.finish, seed, promotion) for seed in (2, 3, 4)]
        for done in (*ticks, *cycles):
            done.result()
    recorded = {found.datasets[0].revision for found in read_decisions(world.api, world.repo)}
    assert recorded == {f"{number:040x}" for number in range(5)}
    head = read_ledger_head(world.api, world.repo)
    assert {past.cycle_id for past in head.recent} == {"c1", "c2", "c3", "c4"}
    assert all(read_entry(world.api, world.repo, f"c{seed}") for seed in (1, 2, 3, 4))


def test_there_are_no_decisions_before_the_first(world: World):
    assert read_decisions(world.api, world.repo) == []
    world.finish(1, world.cycle(1)())
    assert read_decisions(world.api, world.repo) == []


def test_a_line_that_is_no_decision(world: World):
    world.finish(1, world.cycle(1)())
    world.api.upload_file(
        path_or_fileobj=b'{"should_train": "perhaps"}\n',
        path_in_repo="decisions/2026-11.jsonl",
        repo_id=world.repo,
        revision=ledger.BRANCH,
    )
    with pytest.raises(InputError, match=r"decisions/2026-11.jsonl is not a list of decisions"):
        read_decisions(world.api, world.repo)


def test_a_token_that_may_only_read(world: World, hub: RunningHub):
    world.finish(1, world.cycle(1)())
    world.api.update_repo_settings(world.repo, private=False)
    reader = type(world.api)(
        endpoint=hub.endpoint, token=add_token(hub.root, "ledger-reader", role="read")
    )
    assert read_head(reader, world.repo).last_attempt is not None
    with pytest.raises(HubAccessError, match="write the ledger"):
        record_decision(reader, world.repo, decision(), STATE)
    assert read_decisions(world.api, world.repo) == []
