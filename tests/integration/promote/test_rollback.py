"""Rollback through the real client, on a real Hub, over a network that fails."""

import pytest

from ct_llm.errors import ChampionMovedError, HubNotFoundError, InputError
from ct_llm.hub.adapter_repo import download_adapter, read_head, read_versions
from ct_llm.hub.ledger import read_ledger, read_ledger_head
from ct_llm.promote.rollback import find_target, rollback
from tests.integration.promote.world import Killed, Network, World, lose_answer


def test_rollback_brings_the_same_bytes_back_under_a_new_number(
    world: World, network: Network
) -> None:
    for seed in (1, 2):
        world.finish(seed, world.cycle(seed, extra={"merges.txt": f"of {seed}"})())
    network.log.clear()
    summary = rollback(world.api, world.repo, to=None, reason="worse | in <production>")

    assert not [line for line in network.log if "/lfs" in line], "weights do not travel"
    assert (summary.kind, summary.outcome, summary.version) == ("rollback", "rolled_back", 3)
    assert summary.sentence == "v3 is v1 again: worse | in <production>"
    assert read_versions(world.api, world.repo)[3] == summary.revision
    old, new = world.files("v1"), world.files("main")
    changed = {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}
    assert changed == {"README.md", "ct/lineage.json"}
    card = world.read("README.md", "v3")
    assert "**v3 is v1 again**" in card and r"worse \| in &lt;production&gt;" in card

    head = read_head(world.api, world.repo)
    assert head.champion is not None and head.champion.lineage is not None
    lineage = head.champion.lineage
    assert (lineage.cycle_id, lineage.rolled_back_to) == ("c1", 1)
    assert lineage.datasets[0].num_rows == 100, "what version 1 has seen"
    assert head.last_attempt is not None
    assert head.last_attempt.datasets[0].num_rows == 200, "what the last cycle has tried"
    download_adapter(world.api, world.repo, head.champion.revision)
    assert world.cycle(4)().version == 4


def test_rollback_of_a_promotion_that_its_ledger_does_not_know(world: World) -> None:
    world.finish(1, world.cycle(1)())
    world.cycle(2)()  # the machine was lost before the entry

    summary = rollback(world.api, world.repo, to=None, reason="bad")
    assert (summary.version, summary.data_of) == (3, "c2")
    head = read_head(world.api, world.repo)
    assert head.last_attempt == summary
    assert summary.datasets[0].num_rows == 200, "what was tried, so that it is not tried again"
    entered = {entry.cycle_id: entry.outcome for entry in read_ledger(world.api, world.repo)}
    assert entered["c2"] == "promoted" and len(entered) == 3


def test_rollback_by_default_never_returns_to_what_was_rolled_back(world: World) -> None:
    for seed in (1, 2, 3):
        world.cycle(seed)()
    assert rollback(world.api, world.repo, to=None, reason="bad").version == 4
    assert find_target(world.api, world.repo, None).tag == "v1"
    with pytest.raises(InputError, match="v2 is the head already"):
        rollback(world.api, world.repo, to="v2", reason="again")
    assert rollback(world.api, world.repo, to=None, reason="too").sentence == "v5 is v1 again: too"
    with pytest.raises(HubNotFoundError, match="no version before v5"):
        rollback(world.api, world.repo, to=None, reason="more")
    with pytest.raises(HubNotFoundError, match="Versions: v1, v2, v3, v4, v5"):
        rollback(world.api, world.repo, to="v9", reason="typo")
    assert rollback(world.api, world.repo, to="v3", reason="after all").version == 6


def test_rollback_of_nothing(world: World) -> None:
    with pytest.raises(InputError, match="no champion yet"):
        rollback(world.api, world.repo, to=None, reason="?")


@pytest.mark.parametrize("to", [None, "v1"])
def test_a_rollback_killed_after_its_commit_is_completed(
    world: World, network: Network, to: str | None
) -> None:
    for seed in (1, 2):
        world.finish(seed, world.cycle(seed)())

    network.fault = lose_answer("/commit/main", "kill")
    with pytest.raises(Killed):
        rollback(world.api, world.repo, to=to, reason="bad")
    summary = rollback(world.api, world.repo, to=to, reason="bad")
    assert (summary.version, summary.sentence) == (3, "v3 is v1 again: bad")
    assert read_versions(world.api, world.repo)[3] == summary.revision
    assert len(world.titles()) == 3
    assert read_ledger(world.api, world.repo)[0].kind == "rollback"


def test_killed_at_any_request_a_rollback_happens_once(world: World, network: Network) -> None:
    for seed in (1, 2):
        world.finish(seed, world.cycle(seed)())
    network.log.clear()
    rollback(world.api, world.repo, to="v1", reason="bad")
    num_requests = len(network.log)

    for number in range(1, num_requests + 1):
        # To and fro, so that one repo serves for all.
        to = "v2" if number % 2 else "v1"
        network.log.clear()

        def kill(request: str, arrived: bool, number: int = number) -> None:
            if len(network.log) >= number and arrived:
                raise Killed

        network.fault = kill
        with pytest.raises(Killed):
            rollback(world.api, world.repo, to=to, reason="bad")
        network.fault = None
        try:
            rollback(world.api, world.repo, to=to, reason="bad")
        except InputError as error:
            # Killed after its entry in the ledger: then it had happened.
            assert "is the head already" in str(error)
        version = 3 + number
        assert len(world.titles()) == version
        assert sorted(read_versions(world.api, world.repo)) == list(range(1, version + 1))
        latest = read_ledger_head(world.api, world.repo).last_attempt
        assert latest is not None and latest.version == version
    assert len(read_ledger(world.api, world.repo)) == 3 + num_requests


def test_a_lost_answer_to_a_rollback_is_looked_up(world: World, network: Network) -> None:
    for seed in (1, 2):
        world.cycle(seed)()
    network.fault = lose_answer("/commit/main", "no answer")
    assert rollback(world.api, world.repo, to="v1", reason="bad").version == 3
    assert len(world.titles()) == 3


def test_a_promotion_during_a_rollback_wins(world: World, network: Network) -> None:
    for seed in (1, 2):
        world.cycle(seed)()
    run = world.cycle(3)
    pending = [run]

    def promote_meanwhile(request: str, arrived: bool) -> None:
        if "/commit/main" in request and not arrived and pending:
            pending.pop()()

    network.fault = promote_meanwhile
    with pytest.raises(ChampionMovedError):
        rollback(world.api, world.repo, to="v1", reason="bad")
    assert world.titles()[-1] == "Promote v3 (c3)"
