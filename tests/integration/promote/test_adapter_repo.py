"""Head, versions and ledger of the adapter repo, through the real client on a real Hub."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import HfApi

from ct_llm.errors import AdapterError, HubAccessError, InputError
from ct_llm.hub import ledger
from ct_llm.hub.adapter_repo import download_adapter, read_head, read_versions
from ct_llm.hub.ledger import append_to_ledger, read_ledger, read_ledger_head
from ct_llm.hub_server import RunningHub
from ct_llm.promote.settle import settle
from tests.integration.promote.world import Network, World, lose_answer
from tests.unit.promote.cycle_records import write_adapter


def test_the_head_costs_at_most_three_requests(world: World, network: Network) -> None:
    world.finish(1, world.cycle(1)())
    network.log.clear()
    head = read_head(world.api, world.repo)
    assert len(network.log) == 3
    assert head.champion is not None
    assert head.last_attempt is not None and head.last_attempt.cycle_id == "c1"


def test_without_a_token_a_private_repo_is_not_taken_for_a_missing_one(
    world: World, hub: RunningHub
) -> None:
    world.cycle(1)()
    with pytest.raises(HubAccessError, match="HF_TOKEN"):
        read_head(HfApi(endpoint=hub.endpoint, token=False), world.repo)
    with pytest.raises(HubAccessError, match="token"):
        read_head(HfApi(endpoint=hub.endpoint, token="hf_wrong"), world.repo)


def test_adapters_put_there_by_other_means(world: World) -> None:
    world.api.create_repo(world.repo, repo_type="model")
    world.put("adapter_config.json", b"{}")
    with pytest.raises(AdapterError, match="safetensors"):
        read_head(world.api, world.repo)

    foreign = write_adapter(world.folder / "foreign", 9)
    world.api.upload_folder(repo_id=world.repo, folder_path=foreign)
    head = read_head(world.api, world.repo)
    assert head.champion is not None
    assert (head.champion.version, head.champion.lineage) == (0, None)
    assert world.cycle(1)().version == 1

    # Weights replaced by hand beside a lineage that speaks of others.
    other = write_adapter(world.folder / "other", 10)
    world.api.upload_folder(repo_id=world.repo, folder_path=other)
    head = read_head(world.api, world.repo)
    assert head.revision is not None
    with pytest.raises(AdapterError, match="replaced by hand"):
        download_adapter(world.api, world.repo, head.revision)

    world.put("ct/lineage.json", b'{"a": 1}')
    with pytest.raises(InputError, match="Restore the file"):
        read_head(world.api, world.repo)


def test_settle_sets_a_lost_tag_once(world: World) -> None:
    record = world.cycle(1)()
    world.api.delete_tag(world.repo, tag="v1")
    settle(world.api, read_head(world.api, world.repo))
    assert read_versions(world.api, world.repo) == {1: record.revision}
    world.put("NOTICE", b"x")
    settle(world.api, read_head(world.api, world.repo))
    assert read_versions(world.api, world.repo) == {1: record.revision}


def test_settle_enters_a_cycle_whose_machine_was_lost_before_the_ledger(
    world: World, network: Network
) -> None:
    record = world.cycle(1)()
    assert read_ledger_head(world.api, world.repo).last_attempt is None
    settle(world.api, read_head(world.api, world.repo))
    (entry,) = read_ledger(world.api, world.repo)
    assert (entry.cycle_id, entry.outcome, entry.version) == ("c1", "promoted", 1)
    assert entry.revision == record.revision
    assert entry.slices
    network.log.clear()
    settle(world.api, read_head(world.api, world.repo))
    assert len(network.log) == 4, "settled already: nothing but the head and its tags is read"


def test_a_race_for_the_ledger_loses_nothing(world: World) -> None:
    promotion = world.cycle(1)()
    with ThreadPoolExecutor(6) as pool:
        entered = list(pool.map(lambda seed: world.finish(seed, promotion), range(1, 7)))
    entries = read_ledger(world.api, world.repo)
    assert entries == sorted(entered, key=lambda e: e.finished_at, reverse=True)
    assert read_ledger(world.api, world.repo, 2) == entries[:2]
    assert read_ledger_head(world.api, world.repo).last_attempt in entered
    assert [c.title for c in world.api.list_repo_commits(world.repo)][:-1] == world.titles()


def test_a_cycle_has_one_entry_however_often_it_is_entered(world: World, network: Network) -> None:
    promotion = world.cycle(1)()
    first, second = world.finish(1, promotion), world.finish(2, promotion)
    num_commits = len(world.api.list_repo_commits(world.repo, revision=ledger.BRANCH))
    again = second.model_copy(update={"finished_at": "2026-11-24T17:00:00Z"})
    append_to_ledger(world.api, world.repo, again)
    assert len(world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)) == num_commits

    corrected = first.model_copy(update={"num_train": 7})
    network.fault = lose_answer("/commit/ledger", "no answer")
    append_to_ledger(world.api, world.repo, corrected)
    assert read_ledger(world.api, world.repo) == [second, corrected]
    assert read_ledger_head(world.api, world.repo).last_attempt == second
    assert len(world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)) == num_commits + 1


def test_there_is_no_ledger_before_the_first_cycle(world: World) -> None:
    assert read_ledger(world.api, world.repo) == []
    assert read_ledger_head(world.api, world.repo).last_attempt is None
