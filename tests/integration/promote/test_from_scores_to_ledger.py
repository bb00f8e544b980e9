"""From the scores of a cycle to its entry on the ledger: anchor, verdict, evidence, known scores."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ct_llm.cli import loop, recheck
from ct_llm.config import BaseModelConfig, CTConfig, DatasetConfig, EvaluateConfig, GateConfig
from ct_llm.cycle import Cycle
from ct_llm.cycle_dir import CycleDir
from ct_llm.digests import adapter_digest, file_sha256
from ct_llm.errors import ConfigError, InputError, SecurityError
from ct_llm.evaluate.score_store import LocalScores, adapter_key
from ct_llm.evaluate.scores import write_items, write_scores
from ct_llm.evaluation import EVIDENCE, gate_cycle_files, gate_digest
from ct_llm.gate.evidence import read_evidence, recompute, write_evidence
from ct_llm.hub import ledger
from ct_llm.hub.adapter_repo import read_head, read_versions
from ct_llm.hub.anchor import find_anchor
from ct_llm.hub.client import BaseModelFolder, read_file
from ct_llm.hub.ledger import evidence_path, read_entry
from ct_llm.hub.ledger_scores import LedgerScores, score_path
from ct_llm.promote.rollback import rollback
from ct_llm.records import EvalResult, KnownScore, PreparedData, TrainedAdapter
from tests.integration.promote.world import World
from tests.unit.gate.evaluations import evaluation, right_wrong
from tests.unit.promote.cycle_records import prepared, request, snapshot, trained, write_adapter

BASE = BaseModelFolder(Path("base"), "acme/base", "b" * 40)
CONTEXT = "c" * 64
KNOWN = {"coding_task/0/abc\0" + "f" * 64: KnownScore(1.0, "4")}


def config(world: World, **gate: Any) -> CTConfig:
    return CTConfig(
        base_model=BaseModelConfig(repo="acme/base"),
        datasets=[DatasetConfig(repo="acme/rows", name="rows")],
        adapter_repo=world.repo,
        work_dir=world.folder / "work",
        evaluate=EvaluateConfig(suites=[]),
        gate=GateConfig(**gate),
    )


def cycle_of(world: World, seed: int, **gate: Any) -> Cycle:
    """A cycle that is trained; nothing of it is evaluated yet."""
    folder = CycleDir(world.folder / "work" / "cycles" / f"c{seed}")
    data = snapshot(100 * seed, f"{seed:040x}")
    folder.begin(request(read_head(world.api, world.repo), f"c{seed}", data))
    chosen = config(world, **gate)
    folder.write_config(chosen)
    adapter = write_adapter(folder.path / "adapter", seed)
    with_inputs: dict[str, Any] = {"config": chosen.train, "inputs": []}
    folder.step("prepare", output=PreparedData, run=prepared, **with_inputs)
    folder.step("train", output=TrainedAdapter, run=lambda: trained(adapter), **with_inputs)
    return Cycle(chosen, folder, world.api, lambda _: None)


def evaluated(cycle: Cycle, newest: int = 50, **more: Any) -> EvalResult:
    """As the step leaves it: `newest` of 60 right answers, where the champion has 20."""
    champion, folder = cycle.request.champion, cycle.dir.path
    lineage = champion.lineage if champion else None
    result, items, scores = evaluation(
        {"coding": right_wrong(40, 40), "newest": right_wrong(20, newest)},
        champion_digest=lineage.adapter_digest if lineage else None,
    )
    write_items(folder / result.items_path, items)
    write_scores(folder / result.scores_path, scores)
    fields = {
        "items_digest": file_sha256(folder / result.items_path),
        "scores_digest": file_sha256(folder / result.scores_path),
        "challenger_digest": adapter_digest(folder / "adapter"),
        "champion_revision": champion.revision if champion else None,
        "base_revision": "b" * 40,
        "gate_digest": gate_digest(cycle.config.gate.model_copy(update={"target": "newest"})),
    }
    result = result.model_copy(update=fields | more)
    cycle.dir.step(
        "evaluate",
        config=cycle.config.evaluate,
        inputs=[],
        output=EvalResult,
        run=lambda: result,
    )
    return result


def through(world: World, seed: int, newest: int = 50, **gate: Any) -> Cycle:
    cycle = cycle_of(world, seed, **gate)
    result = evaluated(cycle, newest)
    store = LocalScores(world.folder / "work" / "cache" / "scores")
    for digest in (result.challenger_digest, result.champion_digest):
        store.write(adapter_key(digest, result.base_revision), CONTEXT, KNOWN)
    cycle.gate()
    cycle.promote()
    cycle.finish()
    return cycle


# ---------------------------------------------------------------- evidence and scores


@pytest.mark.parametrize(("newest", "verdict"), [(50, "promote"), (10, "reject")])
def test_the_entry_comes_with_evidence_and_scores(world: World, newest: int, verdict: str) -> None:
    cycle = through(world, 1, newest)
    titles = [c.title for c in world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)]
    assert len(titles) == 2, "one commit for all of it, after the first one"

    content = read_file(world.api, world.repo, evidence_path("c1"), ledger.BRANCH, "model")
    assert content is not None and b"'s answer" not in content
    evidence, entry = read_evidence(content), read_entry(world.api, world.repo, "c1")
    assert entry is not None and entry.slices == evidence.decision.slices
    assert recompute(evidence).verdict == verdict
    # For whoever compares next: the challenger, and the base model that was the champion.
    known = LedgerScores(world.api, world.repo)
    assert known.read(adapter_digest(cycle.dir.path / "adapter"), CONTEXT) == KNOWN
    assert known.read("base:" + "b" * 40, CONTEXT) == KNOWN

    cycle.finish()
    (cycle.dir.path / "outcome.json").unlink()
    cycle.finish()
    again = [c.title for c in world.api.list_repo_commits(world.repo, revision=ledger.BRANCH)]
    assert again == titles, "entered once, however often it is finished"


def test_scores_stay_here_where_the_config_says_so(world: World) -> None:
    cycle = cycle_of(world, 1)
    off = cycle.config.evaluate.model_copy(update={"cache_scores": False})
    cycle.config = cycle.config.model_copy(update={"evaluate": off})
    result = evaluated(cycle)
    store = LocalScores(world.folder / "work" / "cache" / "scores")
    store.write(result.challenger_digest, CONTEXT, KNOWN)
    for step in (cycle.gate, cycle.promote, cycle.finish):
        step()
    files = world.api.list_repo_files(world.repo, revision=ledger.BRANCH)
    assert evidence_path("c1") in files
    assert score_path(result.challenger_digest, CONTEXT) not in files


def test_texts_of_items_stay_here_where_samples_may_not_be_shown(world: World) -> None:
    cycle = cycle_of(world, 1)
    silent = cycle.config.promote.model_copy(update={"include_samples": False})
    cycle.config = cycle.config.model_copy(update={"promote": silent})
    result = evaluated(cycle)
    store = LocalScores(world.folder / "work" / "cache" / "scores")
    store.write(result.challenger_digest, CONTEXT, KNOWN)
    for step in (cycle.gate, cycle.promote, cycle.finish):
        step()
    known = LedgerScores(world.api, world.repo).read(result.challenger_digest, CONTEXT)
    assert known == {key: one._replace(output="") for key, one in KNOWN.items()}


def test_evidence_of_another_decision_is_not_entered(world: World) -> None:
    good = cycle_of(world, 1)
    evaluated(good)
    good.gate()
    bad = cycle_of(world, 2)
    evaluated(bad, newest=10)
    bad.gate()
    bad.promote()
    shutil.copy(good.dir.path / EVIDENCE, bad.dir.path / EVIDENCE)
    with pytest.raises(InputError, match="not the evidence of this cycle's decision"):
        bad.finish()
    assert read_entry(world.api, world.repo, "c2") is None


# ---------------------------------------------------------------- digest on disk = evaluated = decided


@pytest.mark.parametrize(
    "changes",
    [{"challenger_digest": "0" * 64}, {"champion_revision": "0" * 40}],
)
def test_a_verdict_on_others_is_not_carried_out(world: World, changes: dict[str, Any]) -> None:
    cycle = cycle_of(world, 1)
    evaluated(cycle, **changes)
    cycle.gate()
    with pytest.raises(SecurityError):
        cycle.promote()
    assert read_head(world.api, world.repo).revision is None


def test_weights_that_changed_after_the_verdict_are_not_uploaded(world: World) -> None:
    cycle = cycle_of(world, 1)
    evaluated(cycle)
    cycle.gate()
    other = write_adapter(world.folder / "other", 9)
    shutil.copy(other / "adapter_model.safetensors", cycle.dir.path / "adapter")
    with pytest.raises(SecurityError, match="Nothing was uploaded"):
        cycle.promote()


@pytest.mark.parametrize("name", ["scores.parquet", "items.parquet"])
def test_files_that_changed_after_the_evaluation_are_not_decided_on(
    world: World, name: str
) -> None:
    cycle = cycle_of(world, 1)
    evaluated(cycle)
    path = cycle.dir.path / name
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="was changed after it was evaluated"):
        cycle.gate()


# ---------------------------------------------------------------- the anchor


def anchor(world: World, name: str | None = "first") -> tuple[int, str] | None:
    """Its version and the digest of what was downloaded."""
    champion = read_head(world.api, world.repo).champion
    found = find_anchor(world.api, name, champion, BASE)
    return (found.version, adapter_digest(found.folder)) if found else None


def test_the_anchor(world: World, tmp_path: Path) -> None:
    digest = {
        seed: adapter_digest(write_adapter(tmp_path / "same" / str(seed), seed))
        for seed in (1, 2, 3)
    }
    assert anchor(world) is None, "no champion yet"
    for seed in (1, 2, 3):
        if seed == 2:
            assert anchor(world) is None, "the one version is the champion"
        world.finish(seed, world.cycle(seed)())
    assert anchor(world) == (1, digest[1])
    assert anchor(world, "v2") == (2, digest[2])
    assert anchor(world, "v3") is None, "that is the champion"
    assert anchor(world, None) is None
    for name in ("v7", "v0", "second", "v-1"):
        with pytest.raises(ConfigError, match="Versions: v1, v2, v3"):
            anchor(world, name)

    rollback(world.api, world.repo, to="v1", reason="bad")
    assert sorted(read_versions(world.api, world.repo)) == [1, 2, 3, 4]
    assert anchor(world) is None, "the champion is the first version's adapter"


def test_a_champion_without_lineage_is_known_by_its_bytes(world: World, tmp_path: Path) -> None:
    for seed in (1, 2):
        world.finish(seed, world.cycle(seed)())
    for seed in (3, 1):
        folder = write_adapter(tmp_path / str(seed), seed)
        world.api.upload_folder(
            repo_id=world.repo, folder_path=folder, delete_patterns="ct/lineage.json"
        )
        found = anchor(world)
        assert (found is not None and found[0] == 1) if seed == 3 else found is None


def test_an_anchor_of_another_base_is_said(world: World) -> None:
    for seed in (1, 2):
        world.finish(seed, world.cycle(seed)())
    champion = read_head(world.api, world.repo).champion
    other = BaseModelFolder(world.folder, "acme/base", "e" * 40)
    with pytest.raises(InputError, match=r"gate.anchor: v1 sits on base model acme/base"):
        find_anchor(world.api, "first", champion, other)


# ---------------------------------------------------------------- commands


def test_another_gate_than_the_one_that_stopped_decides_nothing(world: World) -> None:
    """Or whoever saw the scores could choose alpha by them."""
    cycle = cycle_of(world, 1)
    evaluated(cycle)
    looser = cycle.config.model_copy(update={"gate": GateConfig(alpha=0.4)})
    with pytest.raises(InputError, match="until another gate was sure"):
        Cycle(looser, cycle.dir, world.api, lambda _: None).gate()
    assert cycle.dir.record("gate") is None
    more = cycle.config.model_copy(update={"gate": GateConfig(num_damaged_items=3)})
    assert Cycle(more, cycle.dir, world.api, lambda _: None).gate().verdict == "promote"
    # What it would have said may be asked.
    result = cycle.dir.output("evaluate", EvalResult)
    what_if = gate_cycle_files(GateConfig(target="newest", alpha=0.4), result, cycle.dir.path)
    assert what_if.alpha == 0.4


def test_gate_dry_run_says_what_is_asked_and_writes_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    cycle = cycle_of(world, 1)
    evaluated(cycle)
    assert loop.gate_dry_run(cycle.dir.path, None, [], as_json=False) == 0
    said = capsys.readouterr().out
    assert "coding (60 items): may lose at most 5.0 points against the champion" in said
    assert "newest (60 items): must improve" in said
    assert "would promote the challenger. Nothing was written." in said
    assert not (cycle.dir.path / "gate.json").exists()
    assert not (cycle.dir.path / EVIDENCE).exists()

    assert loop.gate_dry_run(cycle.dir.path, None, [], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "promote"


@pytest.fixture
def by_this_client(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """`ct-llm recheck` with the test's own client, which speaks to the test's Hub."""
    path = world.folder / "ct.yaml"
    path.write_text(config(world).model_dump_json())
    monkeypatch.setattr(recheck, "hub_api", lambda _: world.api)
    return lambda cycle: recheck.recheck(cycle, path, [], as_json=True)


def test_recheck_of_folder_and_ledger(
    world: World, capsys: pytest.CaptureFixture[str], by_this_client: Callable[[str], int]
) -> None:
    cycle = through(world, 1)
    for name in (str(cycle.dir.path), "c1"):
        assert by_this_client(name) == 0
        assert json.loads(capsys.readouterr().out)["recorded_verdict"] == "promote"
    with pytest.raises(InputError, match="neither a cycle's folder here"):
        by_this_client("c2")


def test_recheck_sees_another_cycles_evidence(
    world: World, capsys: pytest.CaptureFixture[str], by_this_client: Callable[[str], int]
) -> None:
    through(world, 1, newest=10)
    good = cycle_of(world, 2)
    evaluated(good)
    good.gate()
    world.api.upload_file(
        path_or_fileobj=(good.dir.path / EVIDENCE).read_bytes(),
        path_in_repo=evidence_path("c1"),
        repo_id=world.repo,
        revision=ledger.BRANCH,
    )
    assert by_this_client("c1") == 40
    assert "not the one in the ledger's entry" in json.loads(capsys.readouterr().out)["problem"]


def test_recheck_compares_what_decides_and_says_a_difference_once(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another version may word a verdict otherwise; it may not find another one."""
    folder = through(world, 1).dir
    made = read_evidence(folder.path / EVIDENCE)
    record = json.loads((folder.path / "gate.json").read_text())

    def rechecked(**fields: Any) -> tuple[int, str]:
        changed = made.decision.model_copy(update=fields)
        write_evidence(folder.path / EVIDENCE, replace(made, decision=changed))
        output = record["output"] | changed.model_dump(mode="json")
        (folder.path / "gate.json").write_text(json.dumps(record | {"output": output}))
        code = recheck.recheck(str(folder.path), folder.path, [], as_json=False)
        return code, capsys.readouterr().out

    code, said = rechecked(sentence="In older words.", overall_challenger_mean=0.0)
    assert code == 0 and said.splitlines()[1] == made.decision.sentence
    code, said = rechecked(verdict="reject")
    assert code == 40 and said.count("follow") == said.count(str(folder.path)) == 1
    assert "verdict is 'reject' in the decision, but 'promote' by the scores" in said


def test_recheck_of_a_folder_without_a_verdict(
    world: World, by_this_client: Callable[[str], int]
) -> None:
    cycle = cycle_of(world, 1)
    with pytest.raises(InputError, match="no such file"):
        by_this_client(str(cycle.dir.path))
