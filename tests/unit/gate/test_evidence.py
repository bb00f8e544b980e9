"""A verdict computed again from its evidence, and every way in which evidence can be false."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.config import GateConfig
from ct_llm.errors import InputError
from ct_llm.gate.evidence import (
    Evidence,
    evidence_bytes,
    evidence_of,
    read_evidence,
    recompute,
    write_evidence,
)
from ct_llm.gate.gate import gate
from ct_llm.records import SliceVerdict
from tests.unit.gate.evaluations import Evaluated, evaluation, right_wrong
from tests.unit.gate.runs import full_prefixes, run_until_decided, stopped

CLUSTERS = {"coding": [f"p{i // 3}" for i in range(300)]}


def world() -> Evaluated:
    same = right_wrong(150, 145, 300)
    return evaluation(
        {"coding": (*same, same[0]), "newest": right_wrong(150, 200, 300)},
        {"coding": {"score_step": 1.0}, "newest": {"score_step": 1.0}},
        clusters=CLUSTERS,
    )


def evidence(config: GateConfig) -> Evidence:
    whole = world()
    order = [item.slice for item in whole.items]
    scored = run_until_decided(config, order, full_prefixes(whole), known=True)
    left = stopped(whole, scored, known=True)
    return evidence_of(config, *left, gate(config, *left))


@pytest.fixture(scope="module")
def made() -> Evidence:
    return evidence(GateConfig())


@pytest.mark.parametrize(
    "config",
    [
        GateConfig(),
        GateConfig(target="pooled", min_gain=0.01, alpha=0.01),
        GateConfig(target="weighted"),
        GateConfig(mode="full"),
        GateConfig(mode="population"),
    ],
)
def test_a_stranger_finds_the_same_verdict(tmp_path: Path, config: GateConfig):
    made = evidence(config)
    write_evidence(tmp_path / "evidence.parquet", made)
    found = read_evidence(tmp_path / "evidence.parquet")
    assert (found.config, found.result, found.items) == (made.config, made.result, made.items)
    assert found.decision == made.decision
    assert sorted(found.scores, key=str) == sorted(made.scores, key=str)
    assert recompute(found) == made.decision
    assert read_evidence(evidence_bytes(made)).decision == made.decision


def test_all_items_stand_in_it_and_no_text(made: Evidence, tmp_path: Path):
    content = evidence_bytes(made)
    (tmp_path / "evidence.parquet").write_bytes(content)
    table = pq.read_table(tmp_path / "evidence.parquet")
    assert table.num_rows == 600
    assert table.column_names == [
        *("slice", "item_id", "task", "cluster"),
        *("champion", "challenger", "anchor"),
    ]
    assert table["challenger"].null_count > 0 == table["champion"].null_count
    assert table["anchor"].null_count == 300
    assert made.decision.damaged_items and b"question" not in content
    assert b"scores.parquet" not in content and b"answer" not in content
    # 600 items, most of it ids and metadata.
    assert len(content) < 40_000


# ---------------------------------------------------------------- what does not follow


def verdict_changed(number: int, **fields: Any) -> Callable[[Evidence], Evidence]:
    def change(made: Evidence) -> Evidence:
        slices: list[SliceVerdict] = list(made.decision.slices)
        slices[number] = slices[number].model_copy(update=fields)
        return replace(made, decision=made.decision.model_copy(update={"slices": tuple(slices)}))

    return change


def decision_changed(**fields: Any) -> Callable[[Evidence], Evidence]:
    return lambda made: replace(made, decision=made.decision.model_copy(update=fields))


def config_changed(**fields: Any) -> Callable[[Evidence], Evidence]:
    return lambda made: replace(made, config=made.config.model_copy(update=fields))


def result_changed(**fields: Any) -> Callable[[Evidence], Evidence]:
    return lambda made: replace(made, result=made.result.model_copy(update=fields))


def slice_changed(**fields: Any) -> Callable[[Evidence], Evidence]:
    def change(made: Evidence) -> Evidence:
        first, *rest = made.result.slices
        return result_changed(slices=(first.model_copy(update=fields), *rest))(made)

    return change


def order_changed(made: Evidence) -> Evidence:
    return replace(made, items=(*made.items[1:], made.items[0]))


def score_changed(made: Evidence) -> Evidence:
    """One answer of the challenger becomes right."""
    index = next(
        i
        for i, s in enumerate(made.scores)
        if (s.slice, s.adapter, s.score) == ("newest", "challenger", 0.0)
    )
    scores = list(made.scores)
    scores[index] = scores[index].model_copy(update={"score": 1.0})
    return replace(made, scores=tuple(scores))


def score_dropped(made: Evidence) -> Evidence:
    gone = next(s for s in made.scores if (s.slice, s.adapter) == ("newest", "challenger"))
    return replace(made, scores=tuple(s for s in made.scores if s is not gone))


def item_dropped(made: Evidence) -> Evidence:
    return replace(made, items=made.items[:-1])


def number_changed(name: str, by: float) -> Callable[[Evidence], Evidence]:
    """Of the target: one of its numbers, or of its evidence's, becomes larger."""

    def change(made: Evidence) -> Evidence:
        newest = made.decision.slices[1]
        if name in newest.evidence:
            more = {name: float(newest.evidence[name] or 0.0) + by}
            return verdict_changed(1, evidence=newest.evidence | more)(made)
        return verdict_changed(1, **{name: getattr(newest, name) + by})(made)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (decision_changed(verdict="reject"), "verdict is 'reject' in the decision, but 'promote'"),
        (decision_changed(alpha=0.1), "alpha is 0.1"),
        (decision_changed(mode="full"), "mode is 'full'"),
        (decision_changed(budget_reached=True), "budget_reached is True"),
        (decision_changed(challenger_digest="f" * 64), "challenger_digest is 'ffff"),
        (decision_changed(champion_revision="f" * 40), "champion_revision is 'ffff"),
        (decision_changed(slices=()), "the list of tests is '' in the decision, but 'coding"),
        (verdict_changed(0, threshold=-0.5), r"coding \(guard\): threshold is -0\.5"),
        (verdict_changed(0, ties=0), r"coding \(guard\): ties is 0"),
        (verdict_changed(1, state="UNDECIDED"), r"newest \(target\): state is 'UNDECIDED'"),
        (verdict_changed(1, lower=0.15), r"newest \(target\): lower is 0\.15"),
        (verdict_changed(1, floor_met=True), r"newest \(target\): floor_met is True"),
        (verdict_changed(2, num_used=300), r"coding \(anchor\): num_used is 300"),
        (verdict_changed(1, evidence={}), r"newest \(target\): order_digest is None"),
        (config_changed(alpha=0.2), r"coding \(guard\): \w+"),
        (config_changed(min_gain=0.01), r"newest \(target\): threshold is 0\.0 .* 0\.01 by"),
        (config_changed(target="coding"), r"'coding \(anchor\), coding \(guard\), .* but .*target"),
        (config_changed(target="chat"), "no slice 'chat' was evaluated"),
        (slice_changed(tolerance=0.2), r"coding \(guard\): threshold is -0\.05 .* -0\.2 by"),
        (slice_changed(num_scored=3), "only the first 3 are said to be scored"),
        (slice_changed(num_items=299), "300 of 299 items are listed"),
        (result_changed(order_seed=8), "not in the random order of seed 8"),
        (order_changed, "not in the random order of seed 7"),
        (item_dropped, "not in the random order|items are listed"),
        (score_changed, r"newest \(target\): challenger_mean"),
        (score_dropped, "has no score of the challenger"),
    ],
)
def test_what_does_not_follow_is_named(
    made: Evidence, change: Callable[[Evidence], Evidence], message: str
):
    changed = read_evidence(evidence_bytes(change(made)))
    with pytest.raises(InputError, match=message) as error:
        recompute(changed)
    assert str(error.value).startswith("The verdict does not follow from its evidence")
    assert str(error.value).count("follow") == 1


@pytest.mark.parametrize(
    ("name", "fine", "too_much"),
    [
        ("delta", 1e-10, 1e-8),
        ("champion_mean", 1e-10, 1e-8),
        ("lower", 1e-7, 1e-5),
        ("log_e_pass", 1e-7, 1e-3),
    ],
)
def test_another_machines_rounding_is_no_difference(
    made: Evidence, name: str, fine: float, too_much: float
):
    assert recompute(number_changed(name, fine)(made)) == made.decision
    with pytest.raises(InputError, match=rf"newest \(target\): {name} is"):
        recompute(number_changed(name, too_much)(made))


def without_clusters(made: Evidence) -> Evidence:
    """In a fixed benchmark they only change what is described."""
    return replace(made, items=tuple(i._replace(cluster=None) for i in made.items))


def other_descriptions(made: Evidence) -> Evidence:
    decided = {"mode", "order_digest", "alpha_pass", "alpha_fail", "log_e_pass", "log_e_fail"}
    slices = tuple(
        s.model_copy(update={"evidence": {k: v for k, v in s.evidence.items() if k in decided}})
        for s in made.decision.slices
    )
    return decision_changed(slices=slices)(made)


@pytest.mark.parametrize(
    "change",
    [
        decision_changed(sentence="Said otherwise."),
        decision_changed(overall_champion_mean=None, overall_challenger_mean=0.1),
        decision_changed(damaged_items=()),
        verdict_changed(0, sentence="Said otherwise.", in_percent=False),
        config_changed(num_damaged_items=0),
        without_clusters,
        other_descriptions,
    ],
)
def test_what_only_describes_may_be_said_otherwise(
    made: Evidence, change: Callable[[Evidence], Evidence]
):
    """Another version of ct_llm may count or word it in another way: no forgery."""
    found = recompute(read_evidence(evidence_bytes(change(made))))
    assert found.verdict == made.decision.verdict
    assert found.sentence == made.decision.sentence


# ---------------------------------------------------------------- files that are something else


def test_files_that_are_no_evidence(made: Evidence, tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_evidence(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match=r"text\.parquet is not a readable Parquet file"):
        read_evidence(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="the evidence is not a readable Parquet file"):
        read_evidence(b"")

    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"slice": ["coding"]}), other)
    with pytest.raises(InputError, match="not a verdict's evidence in format 1: columns slice"):
        read_evidence(other)

    (tmp_path / "made.parquet").write_bytes(evidence_bytes(made))
    table = pq.read_table(tmp_path / "made.parquet")
    metadata = {**table.schema.metadata, b"ct_llm.config": b'{"alpha": 7}'}
    pq.write_table(table.replace_schema_metadata(metadata), other)
    with pytest.raises(InputError, match="its metadata cannot be read by this version"):
        read_evidence(other)
