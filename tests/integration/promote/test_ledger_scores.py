"""Item scores on the ledger: known on every machine, lost to no race, asked for in few requests."""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ct_llm.evaluate.score_store import LocalScores, ScoreStore
from ct_llm.evaluation import LedgerBackedScores, open_scores
from ct_llm.hub import ledger, ledger_scores
from ct_llm.hub.ledger import append_to_ledger, read_entry
from ct_llm.hub.ledger_scores import LedgerScores, changed_files, score_path
from ct_llm.hub.score_files import parse_score_file, score_file
from ct_llm.records import CycleSummary, KnownScore
from tests.integration.promote.world import Network, World, lose_answer

ADAPTER, OTHER = "a" * 64, "b" * 64
CONTEXTS = ("c" * 64, "d" * 64, "e" * 64)
Scores = Mapping[tuple[str, str], Mapping[str, KnownScore]]


def some(num: int, start: int = 0) -> dict[str, KnownScore]:
    return {
        f"sums/{n}\0{n:064x}": KnownScore(n % 2, f"it is {n}") for n in range(start, start + num)
    }


def summary(cycle_id: str) -> CycleSummary:
    return CycleSummary(
        cycle_id=cycle_id,
        outcome="rejected",
        sentence="Rejected.",
        version=None,
        revision=None,
        parent_revision=None,
        challenger_digest=ADAPTER,
        finished_at="2026-11-24T16:00:00Z",
    )


def enter(world: World, scores: Scores, cycle_id: str = "c1", *, texts: bool = True) -> None:
    """A cycle's entry with the scores of its adapters, as `Cycle.finish` makes it."""
    world.api.create_repo(world.repo, exist_ok=True)
    append_to_ledger(
        world.api,
        world.repo,
        summary(cycle_id),
        more=lambda head: changed_files(world.api, world.repo, head, scores, texts=texts),
    )


def machine(world: World, name: str) -> ScoreStore:
    """What a machine with a work_dir of its own opens."""
    return LedgerBackedScores(LocalScores(world.folder / name), LedgerScores(world.api, world.repo))


def num_commits(world: World) -> int:
    return len(world.api.list_repo_commits(world.repo, revision=ledger.BRANCH))


def test_another_machine_knows_what_was_scored(world: World, network: Network) -> None:
    enter(world, {(ADAPTER, CONTEXTS[0]): some(9), (OTHER, CONTEXTS[0]): some(5)})
    titles = [c.title for c in world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)]
    assert titles[0] == "c1: rejected" and titles.count("c1: rejected") == 1, "one commit for both"

    store = machine(world, "two")
    network.log.clear()
    assert store.read(ADAPTER, CONTEXTS[0]) == some(9)
    assert store.read(OTHER, CONTEXTS[0]) == some(5)
    for context in CONTEXTS[1:]:
        assert store.read(ADAPTER, context) == {}
    listed = [line for line in network.log if "/tree/" in line]
    asked = [line for line in network.log if "/resolve/ledger/scores" in line]
    assert len(listed) == 2, "once an adapter"
    assert len(asked) == 2, "what is not there is not asked for"

    network.log.clear()
    assert store.read(ADAPTER, CONTEXTS[0]) == some(9)
    assert network.log == [], "on this disk now"


def test_new_scores_stay_on_the_machine_until_the_cycle_is_entered(world: World) -> None:
    enter(world, {(ADAPTER, CONTEXTS[0]): some(3)})
    before = num_commits(world)
    store = machine(world, "two")
    store.read(ADAPTER, CONTEXTS[0])
    store.write(ADAPTER, CONTEXTS[0], some(4, start=3))
    assert store.read(ADAPTER, CONTEXTS[0]) == some(7)
    assert num_commits(world) == before
    enter(world, {(ADAPTER, CONTEXTS[0]): store.read(ADAPTER, CONTEXTS[0])}, "c2")
    assert machine(world, "three").read(ADAPTER, CONTEXTS[0]) == some(7)


@pytest.mark.parametrize("there", ["no repo", "no branch"])
def test_nothing_is_known_before_the_first_cycle(world: World, there: str) -> None:
    if there == "no branch":
        world.api.create_repo(world.repo)
    assert machine(world, "one").read(ADAPTER, CONTEXTS[0]) == {}


def test_without_a_repo_the_disk_alone_is_asked(world: World, network: Network) -> None:
    store = open_scores(world.folder / "alone")
    store.write(ADAPTER, CONTEXTS[0], some(2))
    assert store.read(ADAPTER, CONTEXTS[0]) == some(2)
    assert network.log == []


@pytest.mark.parametrize(
    "content",
    [
        b"PAR1 it is not",
        score_file(ADAPTER, CONTEXTS[0], some(9))[:-40],
        # Under a name that is the same as far as it goes.
        score_file(ADAPTER[:-1] + "9", CONTEXTS[0], some(9)),
        score_file(ADAPTER, CONTEXTS[0][:-1] + "9", some(9)),
        score_file(ADAPTER, CONTEXTS[0], {**some(9), "k": KnownScore(float("nan"), "x")}),
    ],
)
def test_a_file_that_is_none_is_a_missing_one_and_is_replaced(world: World, content: bytes) -> None:
    enter(world, {(OTHER, CONTEXTS[0]): some(1)})
    world.api.upload_file(
        path_or_fileobj=content,
        path_in_repo=score_path(ADAPTER, CONTEXTS[0]),
        repo_id=world.repo,
        revision=ledger.BRANCH,
    )
    assert machine(world, "one").read(ADAPTER, CONTEXTS[0]) == {}
    assert not LocalScores(world.folder / "one").path(ADAPTER, CONTEXTS[0]).exists()
    enter(world, {(ADAPTER, CONTEXTS[0]): some(2)}, "c2")
    assert machine(world, "two").read(ADAPTER, CONTEXTS[0]) == some(2)


def test_a_damaged_file_on_the_disk_is_fetched_again(world: World) -> None:
    enter(world, {(ADAPTER, CONTEXTS[0]): some(4)})
    machine(world, "one").read(ADAPTER, CONTEXTS[0])
    LocalScores(world.folder / "one").path(ADAPTER, CONTEXTS[0]).write_bytes(b"half")
    assert machine(world, "one").read(ADAPTER, CONTEXTS[0]) == some(4)


def test_what_is_known_already_is_neither_read_nor_sent(world: World, network: Network) -> None:
    scores = {(ADAPTER, context): some(3) for context in CONTEXTS}
    enter(world, scores)
    head = world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)[0].commit_id
    network.log.clear()
    assert changed_files(world.api, world.repo, head, scores) == {}
    assert len(network.log) == 1, "the listing says that the files are the same"
    more = {**scores, (ADAPTER, CONTEXTS[1]): some(4)}
    assert list(changed_files(world.api, world.repo, head, more)) == [
        score_path(ADAPTER, CONTEXTS[1])
    ]


def test_cycles_at_once_lose_no_score(world: World) -> None:
    world.api.create_repo(world.repo)
    key = (ADAPTER, CONTEXTS[0])

    def cycle(number: int) -> None:
        enter(world, {key: some(5, start=5 * number)}, f"c{number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(cycle, range(6)))
    assert machine(world, "one").read(*key) == some(30)
    assert all(read_entry(world.api, world.repo, f"c{number}") for number in range(6))


@pytest.mark.parametrize("loss", ["no answer", "500"])
def test_a_lost_answer_enters_everything_once(world: World, network: Network, loss: str) -> None:
    world.api.create_repo(world.repo)
    network.fault = lose_answer("/commit/ledger", "no answer" if loss == "no answer" else "500")
    enter(world, {(ADAPTER, CONTEXTS[0]): some(3)})
    network.fault = None
    assert machine(world, "one").read(ADAPTER, CONTEXTS[0]) == some(3)
    titles = [c.title for c in world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)]
    assert titles.count("c1: rejected") == 1


def test_long_answers_are_cut_and_their_scores_are_not(world: World) -> None:
    key, long = (ADAPTER, CONTEXTS[0]), KnownScore(0.5, "a" * 4000 + "b" * 4000)
    enter(world, {key: {"k": long, **some(2)}})
    known = machine(world, "two").read(*key)
    assert known == {"k": known["k"], **some(2)} and known["k"].score == 0.5
    output = known["k"].output
    assert output.startswith("aaa") and output.endswith("bbb")
    assert "6,000 characters left out" in output and len(output) < 2_100

    # The machine that made it has it whole, and does not send it again and again.
    head = world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)[0].commit_id
    assert changed_files(world.api, world.repo, head, {key: {"k": long, **some(2)}}) == {}


def test_a_file_with_too_many_answers_holds_scores_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_scores, "MAX_FILE_CHARS", 20)
    enter(world, {(ADAPTER, CONTEXTS[0]): some(9), (ADAPTER, CONTEXTS[1]): some(2)})
    store = machine(world, "two")
    assert store.read(ADAPTER, CONTEXTS[1]) == some(2)
    found = store.read(ADAPTER, CONTEXTS[0])
    assert found == {key: KnownScore(known.score, "") for key, known in some(9).items()}


def test_without_texts_no_answer_leaves_the_machine(world: World) -> None:
    enter(world, {(ADAPTER, CONTEXTS[0]): some(3)}, texts=False)
    path = world.api.hf_hub_download(
        world.repo, score_path(ADAPTER, CONTEXTS[0]), revision=ledger.BRANCH
    )
    content = Path(path).read_bytes()
    known = parse_score_file(content, ADAPTER, CONTEXTS[0])
    assert known is not None and {one.output for one in known.values()} == {""}
    assert {key: one.score for key, one in known.items()} == {
        key: one.score for key, one in some(3).items()
    }


def test_whoever_scored_it_keeps_the_whole_answer(world: World) -> None:
    key, long = (ADAPTER, CONTEXTS[0]), KnownScore(1.0, "x" * 9000)
    machine(world, "one").write(*key, {"k": long})
    enter(world, {key: {"k": long}})
    assert machine(world, "one").read(*key) == {"k": long}
    shutil.rmtree(world.folder / "one")
    assert len(machine(world, "one").read(*key)["k"].output) < 2_100


def test_an_adapter_is_listed_once(world: World, network: Network) -> None:
    enter(world, {(ADAPTER, CONTEXTS[0]): some(1)})
    known = LedgerScores(world.api, world.repo)
    network.log.clear()
    for context in CONTEXTS:
        known.read(ADAPTER, context)
    assert sum("/tree/" in line for line in network.log) == 1
