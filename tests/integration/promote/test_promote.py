"""Promotion and review through the real client, on a real Hub, over a network that fails."""

import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from huggingface_hub import HfApi

from ct_llm.config import HubConfig, PromoteConfig
from ct_llm.digests import ADAPTER_FILES, adapter_digest
from ct_llm.errors import (
    ChampionMovedError,
    HubAccessError,
    HubUnavailableError,
    InputError,
    SecurityError,
)
from ct_llm.hub.adapter_repo import download_adapter, read_head, read_versions
from ct_llm.hub.ledger import read_ledger, read_ledger_head
from ct_llm.hub_server import RunningHub, add_token
from ct_llm.promote.promote import promote
from ct_llm.promote.settle import settle
from ct_llm.records import PromotionRecord, Verdict
from tests.integration.promote.world import Killed, Loss, Network, World, lose_answer
from tests.unit.promote.cycle_records import (
    damaged_item,
    decide,
    prepared,
    request,
    trained,
    write_adapter,
)

# ---------------------------------------------------------------- promotion


def test_first_promotion_makes_a_private_repo_with_everything_in_one_commit(world: World) -> None:
    head = read_head(world.api, world.repo)
    assert (head.revision, head.champion, head.last_attempt) == (None, None, None)

    record = world.cycle(1, extra={"tokenizer.json": "{}", "training_args.bin": "pickle"})()

    assert (record.outcome, record.version, record.tag) == ("promoted", 1, "v1")
    assert world.titles() == ["Promote v1 (c1)"]
    assert read_versions(world.api, world.repo) == {1: record.revision}
    assert world.api.model_info(world.repo).private
    assert set(world.files()) == {
        ".gitattributes", "README.md", *ADAPTER_FILES, "tokenizer.json",
        "ct/lineage.json", "ct/scores.json",
    }  # fmt: skip
    head = read_head(world.api, world.repo)
    assert head.champion is not None and head.champion.lineage is not None
    assert head.champion.lineage.cycle_id == "c1"
    folder = download_adapter(world.api, world.repo, head.champion.revision)
    assert adapter_digest(folder) == head.champion.lineage.adapter_digest


def test_second_promotion_replaces_the_first_and_keeps_what_is_not_its_own(world: World) -> None:
    world.cycle(1, extra={"added_tokens.json": "{}"})()
    world.put("NOTICE", b"ours")
    record = world.cycle(2)()

    assert record.version == 2
    assert sorted(read_versions(world.api, world.repo)) == [1, 2]
    assert "added_tokens.json" not in world.files() and "NOTICE" in world.files()
    assert "Compared with v1" in world.read("README.md", "v2")


def test_a_taken_tag_is_passed_over(world: World) -> None:
    world.cycle(1)()
    world.api.create_tag(world.repo, tag="v2")
    assert world.cycle(2)().tag == "v3"


def test_a_champion_that_moved_voids_the_verdict(world: World) -> None:
    world.cycle(1)()
    late = world.cycle(2)
    world.cycle(3)()
    with pytest.raises(ChampionMovedError, match=r"v2 at .* was promoted since the comparison"):
        late()
    assert world.titles() == ["Promote v1 (c1)", "Promote v2 (c3)"]


def test_a_race_for_the_first_promotion_has_one_winner(world: World) -> None:
    attempts = [world.cycle(seed) for seed in (1, 2, 3, 4)]

    def attempt(run: Callable[[], PromotionRecord]) -> str:
        try:
            return run().outcome
        except ChampionMovedError:
            return "moved"

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(attempt, attempts))
    assert sorted(outcomes) == ["moved", "moved", "moved", "promoted"]
    assert len(world.titles()) == 1 and list(read_versions(world.api, world.repo)) == [1]


def test_only_the_evaluated_bytes_go_to_the_hub(world: World, network: Network) -> None:
    world.cycle(1)()
    folder = write_adapter(world.folder / "swapped", 5)
    decision, adapter = decide(adapter_digest(folder)), trained(folder)
    asked = request(read_head(world.api, world.repo), "c5")

    def run() -> PromotionRecord:
        return promote(
            PromoteConfig(),
            api=world.api,
            hub=HubConfig(),
            request=asked,
            data=prepared(),
            snapshot=asked.data,
            adapter=adapter,
            adapter_folder=folder,
            decision=decision,
        )

    def swap(request: str, arrived: bool) -> None:
        # After the digest was checked, before the weights are read for the upload.
        if "/preupload/" in request and not arrived:
            other = write_adapter(world.folder / uuid.uuid4().hex, 6)
            os.replace(other / ADAPTER_FILES[1], folder / ADAPTER_FILES[1])  # noqa: PTH105

    network.fault = swap
    with pytest.raises(SecurityError, match="changed while they were uploaded"):
        run()
    network.fault = None
    with pytest.raises(SecurityError, match="evaluated"):
        run()
    assert world.titles() == ["Promote v1 (c1)"]


def test_a_token_that_may_only_read_is_named_as_the_cause(world: World, hub: RunningHub) -> None:
    reader = HfApi(endpoint=hub.endpoint, token=add_token(hub.root, "reader"))
    with pytest.raises(HubAccessError, match="a write token is needed"):
        World(world.folder, reader, f"reader/{uuid.uuid4().hex[:12]}").cycle(1)()


def test_a_license_that_the_hub_refuses_is_named_as_the_cause(
    world: World, network: Network
) -> None:
    run = world.cycle(1, config=PromoteConfig(license="nonsense"))

    def refuse(request: str, arrived: bool) -> httpx2.Response | None:
        if "validate-yaml" not in request:
            return None
        errors = [{"message": '"license" must be one of [...]'}]
        return httpx2.Response(
            400, json={"errors": errors}, request=httpx2.Request("POST", world.api.endpoint)
        )

    network.fault = refuse
    with pytest.raises(InputError, match=r"promote\.license"):
        run()


def test_the_license_is_the_base_models_where_none_is_configured(world: World) -> None:
    world.api.create_repo("acme/base", repo_type="model", exist_ok=True)
    world.api.upload_file(
        path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id="acme/base"
    )
    revision = world.api.model_info("acme/base").sha
    world.cycle(1, config=PromoteConfig(), base_revision=revision)()
    world.cycle(2, config=PromoteConfig(), base_revision="e" * 40)()
    licenses = [world.api.model_info(world.repo, revision=tag).card_data for tag in ("v1", "v2")]
    assert [card.get("license") if card else None for card in licenses] == ["mit", None]


# ---------------------------------------------------------------- a network that fails


@pytest.mark.parametrize("loss", ["no answer", "500"])
def test_a_lost_answer_to_the_commit_is_looked_up(
    world: World, network: Network, loss: Loss
) -> None:
    world.cycle(1)()
    run = world.cycle(2)
    network.fault = lose_answer("/commit/main", loss)
    record = run()
    assert world.titles() == ["Promote v1 (c1)", "Promote v2 (c2)"]
    assert read_versions(world.api, world.repo)[2] == record.revision


def test_a_commit_that_never_arrived_is_tried_again_until_it_is_hopeless(
    world: World, network: Network
) -> None:
    world.cycle(1)()
    run = world.cycle(2)

    def unreachable(request: str, arrived: bool) -> None:
        if "/commit/main" in request and not arrived:
            raise httpx2.ConnectError("no route")

    network.fault = unreachable
    with pytest.raises(HubUnavailableError):
        run()
    assert sum("/commit/main" in line for line in network.log) == 1 + 3
    network.fault = None
    run()
    assert len(world.titles()) == 2


def test_a_failing_upload_of_weights_is_a_failing_hub(world: World, network: Network) -> None:
    run = world.cycle(1)

    def refuse(request: str, arrived: bool) -> None:
        if "objects/batch" in request:
            raise httpx2.RemoteProtocolError("closed")

    network.fault = refuse
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        with pytest.raises(HubUnavailableError):
            run()


@pytest.mark.parametrize("verdict", ["promote", "reject"])
def test_killed_at_any_request_ends_with_one_promotion_or_one_review(
    world: World, network: Network, verdict: Verdict
) -> None:
    run = world.cycle(1, verdict)
    network.log.clear()
    run()
    num_requests = len(network.log)
    assert num_requests > 8

    # To die before a request is to die after the one before it.
    for number in range(num_requests + 1):
        world.repo = f"promote/{uuid.uuid4().hex[:12]}"
        run = world.cycle(1, verdict)
        network.log.clear()

        def kill(request: str, arrived: bool, number: int = number) -> None:
            if len(network.log) >= number and arrived is (number > 0):
                raise Killed

        network.fault = kill
        with pytest.raises(Killed):
            run()
        network.fault = None
        record = run()
        assert run() == record
        promoted = verdict == "promote"
        assert world.titles() == (["Promote v1 (c1)"] if promoted else [])
        tags = {1: record.revision} if promoted else {}
        assert read_versions(world.api, world.repo) == tags
        assert len(world.reviews()) == (0 if promoted else 1)


def test_our_promotion_is_found_below_later_commits(world: World) -> None:
    run = world.cycle(1)
    first = run()
    world.put("NOTICE", b"edited")
    world.cycle(2)()
    assert run() == first


# ---------------------------------------------------------------- review


def test_a_rejected_challenger_waits_in_one_pull_request(world: World) -> None:
    world.cycle(1)()
    before = world.files()
    run = world.cycle(2, "reject", damaged_items=(damaged_item(),))
    record = run()

    assert (record.outcome, record.version, record.tag) == ("review", None, None)
    assert run() == record and len(world.reviews()) == 1
    assert world.files() == before
    review = world.reviews()[0]
    assert (review.num, review.title) == (
        record.review_number,
        "Rejected: challenger of cycle c2",
    )
    details = world.api.get_discussion_details(world.repo, review.num)
    description = details.events[0]._event["data"]["latest"]["raw"]
    assert "SECRET-PROMPT" in description and "merge this pull request" in description
    # On the Hub for good, and perhaps in public: never with text of items.
    assert "SECRET" not in world.read("ct/scores.json", f"refs/pr/{review.num}")


def test_a_merged_review_is_a_champion_like_any_other(world: World) -> None:
    world.cycle(1, extra={"added_tokens.json": "{}"})()
    run = world.cycle(2, "inconclusive")
    number = run().review_number
    assert number is not None
    world.api.merge_pull_request(world.repo, number)

    head = read_head(world.api, world.repo)
    assert head.champion is not None and head.champion.version == 2
    settle(world.api, head)
    settle(world.api, head)
    assert read_versions(world.api, world.repo)[2] == head.revision
    (entry,) = [e for e in read_ledger(world.api, world.repo) if e.cycle_id == "c2"]
    assert (entry.outcome, entry.version) == ("promoted", 2)
    assert "person merged" in entry.sentence
    assert "added_tokens.json" not in world.files()
    assert "a person approved it" in world.read("README.md")
    assert run().review_number == number and len(world.reviews()) == 1


@pytest.mark.parametrize("decision_is_there", [True, False])
def test_a_merge_keeps_what_the_cycle_had_entered(world: World, decision_is_there: bool) -> None:
    world.finish(1, world.cycle(1)())
    record = world.cycle(2, "reject")()
    before = world.finish(2, record, "reject", seconds_by_step={"train": 7.0})
    assert record.review_number is not None and before.slices
    world.api.merge_pull_request(world.repo, record.review_number)
    if not decision_is_there:
        world.api.delete_file("ct/scores.json", world.repo)

    head = read_head(world.api, world.repo)
    assert settle(world.api, head)
    ledger = read_ledger_head(world.api, world.repo)
    after = ledger.last_attempt
    assert after is not None and head.champion is not None
    assert (after.outcome, after.version, after.revision) == ("promoted", 2, head.revision)
    assert after.review_number == record.review_number
    assert (after.num_train, after.seconds_by_step) == (before.num_train, {"train": 7.0})
    assert [verdict.slice for verdict in after.slices] == [v.slice for v in before.slices]
    # Budgets count the cycle on its day, not the merge.
    assert after.finished_at == before.finished_at == ledger.recent[0].finished_at
    assert not settle(world.api, read_head(world.api, world.repo))


def test_a_first_challenger_that_is_rejected_makes_the_repo_too(world: World) -> None:
    record = world.cycle(1, "reject")()
    assert record.review_number == 1
    head = read_head(world.api, world.repo)
    assert head.revision is not None and head.champion is None


def test_a_lost_answer_opens_no_second_review(world: World, network: Network) -> None:
    world.cycle(1)()
    run = world.cycle(2, "reject")
    network.fault = lose_answer("/commit/main", "no answer")
    assert run().review_number == 1
    assert len(world.reviews()) == 1


def test_somebody_elses_pull_request_of_that_name_is_not_ours(world: World) -> None:
    world.cycle(1)()
    world.api.create_pull_request(world.repo, "Rejected: challenger of cycle c2")
    assert world.cycle(2, "reject")().review_number == 2
