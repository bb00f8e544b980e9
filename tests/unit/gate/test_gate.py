"""The verdict, its reasons, and what is refused before there is one."""

import hashlib
import math
from typing import Any

import pytest

from ct_llm.config import GateConfig
from ct_llm.digests import random_order
from ct_llm.errors import ConfigError, InputError
from ct_llm.gate.gate import decide_verdict, gate
from ct_llm.records import GateDecision, SliceVerdict
from tests.unit.gate.evaluations import ORDER_SEED, Scores, evaluation, right_wrong, score

BETTER = right_wrong(30, 36)
SAME = right_wrong(30, 30)
STEP = {"score_step": 1.0}


def decided(
    slices: dict[str, Scores],
    options: dict[str, dict[str, Any]] | None = None,
    champion_digest: str | None = "c" * 64,
    **config: Any,
) -> GateDecision:
    return gate(GateConfig(**config), *evaluation(slices, options, champion_digest))


def by_name(decision: GateDecision) -> dict[str, SliceVerdict]:
    return {s.slice: s for s in decision.slices}


# ---------------------------------------------------------------- verdicts


def test_promotes_what_improved_without_breaking_anything():
    decision = decided({"coding": right_wrong(36, 34), "newest": BETTER}, {"coding": STEP})
    assert decision.verdict == "promote"
    assert decision.sentence == (
        "Promote: newest improved by 10.0 points; no other slice lost more than its tolerance."
    )
    slices = by_name(decision)
    assert (slices["coding"].role, slices["newest"].role) == ("guard", "target")
    assert slices["coding"].sentence == (
        "coding fell from 60.0 % to 56.7 % (-3.3 points on all 60 items); "
        "at most 5.0 points are allowed."
    )
    assert slices["newest"].sentence == (
        "newest rose from 50.0 % to 60.0 % (+10.0 points on all 60 items); it had to improve."
    )


def test_rejects_a_broken_slice_although_the_mean_rose():
    """The case the gate exists for."""
    decision = decided(
        {
            "coding": right_wrong(36, 25),
            "chat": right_wrong(18, 40),
            "reasoning": SAME,
            "newest": BETTER,
        }
    )
    assert decision.verdict == "reject"
    assert decision.sentence == (
        "Rejected: coding fell by 18.3 points, more than the 5.0 points allowed, although the mean "
        "of guards rose by 6.1 points."
    )
    assert decision.overall_champion_mean == pytest.approx((36 + 18 + 30) / 180)
    assert decision.overall_challenger_mean == pytest.approx((25 + 40 + 30) / 180)


@pytest.mark.parametrize("target", ["pooled", "weighted"])
def test_an_overall_target_is_the_only_mean_that_is_said(target: str):
    slices = {"coding": right_wrong(36, 25), "chat": right_wrong(18, 40), "newest": BETTER}
    decision = gate(GateConfig(target=target), *evaluation(slices))
    assert decision.overall_champion_mean is not None
    assert decision.sentence == (
        "Rejected: coding fell by 18.3 points, more than the 5.0 points allowed."
    )
    coding = by_name(decision)["coding"]
    assert (coding.state, coding.wins, coding.losses, coding.ties) == ("FAIL", 0, 11, 49)
    assert coding.sentence == (
        "coding fell from 60.0 % to 41.7 % (-18.3 points on all 60 items); "
        "at most 5.0 points were allowed."
    )


def test_names_every_fault():
    decision = decided(
        {"coding": right_wrong(36, 25), "chat": right_wrong(36, 30), "newest": SAME},
        {"chat": {"tolerance": 0.0}},
    )
    assert decision.sentence == (
        "Rejected: coding fell by 18.3 points, more than the 5.0 points allowed; "
        "chat fell by 10.0 points, where no loss is allowed; newest did not improve."
    )


@pytest.mark.parametrize(
    ("challenger", "min_gain", "verdict", "sentence"),
    [
        (30, 0.0, "reject", "Rejected: newest did not improve."),
        (29, 0.0, "reject", "Rejected: newest did not improve: it fell by 1.7 points."),
        (31, 0.0, "promote", "Promote: newest improved by 1.7 points; it is the only slice."),
        (
            33,
            0.05,
            "reject",
            "Rejected: newest improved by 5.0 points, not by more than the 5.0 points needed.",
        ),
        (34, 0.05, "promote", "Promote: newest improved by 6.7 points; it is the only slice."),
    ],
)
def test_the_target_must_improve_strictly(
    challenger: int, min_gain: float, verdict: str, sentence: str
):
    decision = decided({"newest": right_wrong(30, challenger)}, min_gain=min_gain)
    assert (decision.verdict, decision.sentence) == (verdict, sentence)
    assert decision.overall_champion_mean is decision.overall_challenger_mean is None


def test_the_target_is_no_guard():
    """Its tolerance does not make up for not having improved."""
    options = {"newest": {"tolerance": 0.5}}
    assert decided({"newest": SAME}, options).verdict == "reject"
    assert decided({"newest": SAME, "chat": BETTER}, options, target="chat").verdict == "promote"


def test_a_loss_of_exactly_the_tolerance_is_allowed():
    options = {"coding": {"tolerance": 0.07}}
    exact = {"coding": right_wrong(60, 53, 100), "newest": BETTER}
    assert decided(exact, options).verdict == "promote"
    more = {"coding": right_wrong(60, 52, 100), "newest": BETTER}
    assert decided(more, options).verdict == "reject"


def test_floor():
    slices = {"coding": right_wrong(30, 29), "newest": BETTER}
    met = decided(slices, {"coding": {"floor": 29 / 60}})
    assert (met.verdict, by_name(met)["coding"].floor_met) == ("promote", True)
    missed = decided(slices, {"coding": {"floor": 0.5}})
    coding = by_name(missed)["coding"]
    assert (missed.verdict, coding.state, coding.floor_met) == ("reject", "PASS", False)
    assert missed.sentence == "Rejected: coding is at 48.3 %, below its floor of 50.0 %."
    assert coding.sentence.endswith("It is below its floor of 50.0 %.")
    assert by_name(missed)["newest"].floor_met is None


def without_sandbox(newest: Scores) -> GateDecision:
    reason = {"not_evaluated": "no sandbox: install bubblewrap.", "num_items": 60}
    return decided({"coding": ((), ()), "newest": newest}, {"coding": reason})


def test_what_was_not_evaluated_is_never_promoted():
    decision = without_sandbox(BETTER)
    assert decision.verdict == "inconclusive"
    assert decision.sentence == (
        "Inconclusive: coding was not evaluated (no sandbox: install bubblewrap)."
    )
    coding = by_name(decision)["coding"]
    assert (coding.state, coding.num_items, coding.num_used) == ("NOT_EVALUATED", 60, 0)
    assert coding.delta is coding.champion_mean is coding.lower is None
    assert coding.sentence == "coding was not evaluated: no sandbox: install bubblewrap."
    assert decision.overall_champion_mean is None
    # A fault that was seen stays one.
    assert without_sandbox(SAME).verdict == "reject"


def test_first_adapter():
    slices = {"newest": BETTER}
    compared = decided(slices, champion_digest=None)
    assert compared.sentence == (
        "Promote: newest improved by 10.0 points over the base model; it is the only slice."
    )
    handed_over = decided(slices, champion_digest=None, without_champion="review")
    assert handed_over.verdict == "inconclusive"
    assert "a human decides" in handed_over.sentence
    # With a champion, the setting has no say; and a fault is a fault, whoever looks.
    assert decided(slices, without_champion="review").verdict == "promote"
    broken = decided({"newest": SAME}, champion_digest=None, without_champion="review")
    assert broken.verdict == "reject"


@pytest.mark.parametrize(
    ("states", "floors", "needs_review", "verdict"),
    [
        (["PASS", "PASS"], [], False, "promote"),
        (["PASS", "PASS"], [True], False, "promote"),
        (["PASS", "UNDECIDED"], [], False, "inconclusive"),
        (["PASS", "NOT_EVALUATED"], [], False, "inconclusive"),
        (["PASS", "PASS"], [True, None], False, "inconclusive"),
        (["UNDECIDED", "FAIL"], [], False, "reject"),
        (["PASS", "PASS"], [True, False], False, "reject"),
        (["PASS", "PASS"], [], True, "inconclusive"),
        (["PASS", "FAIL"], [], True, "reject"),
    ],
)
def test_one_fault_rejects(
    states: list[Any], floors: list[bool | None], needs_review: bool, verdict: str
):
    assert decide_verdict(states, floors, needs_review) == verdict


# ---------------------------------------------------------------- evidence


def test_evidence_of_a_slice():
    slices = {"coding": right_wrong(36, 25), "newest": BETTER, "chat": SAME}
    coding = by_name(decided(slices, {"coding": STEP}))["coding"]
    assert coding.delta == coding.lower == coding.upper == pytest.approx(-11 / 60)
    assert (coding.threshold, coding.strict) == (-0.05, False)
    evidence = coding.evidence
    assert evidence["certain"] is True
    assert (evidence["alpha_pass"], evidence["alpha_fail"]) == (0.05, 0.05 / 3)
    assert (evidence["fraction_used"], evidence["step"], evidence["order_seed"]) == (1.0, 1.0, 7)
    assert (evidence["mode"], evidence["low"], evidence["high"]) == ("finite", -1.0, 1.0)
    ids = [item.item_id for item in evaluation(slices).items if item.slice == "coding"]
    assert evidence["order_digest"] == hashlib.sha256("\0".join(ids).encode()).hexdigest()
    assert isinstance(evidence["decided_after"], int) and evidence["decided_after"] <= 60
    assert evidence["descriptive_figures"] == "fixed-n, not valid under early stopping"
    assert evidence["mcnemar_p"] == pytest.approx(2 / 2**11)
    assert evidence["standard_error_finite"] == 0.0


def test_a_decision_survives_json():
    """Evidence is infinite once the opposite is impossible, and JSON knows no infinity."""
    decision = decided({"coding": right_wrong(36, 25), "newest": right_wrong(0, 60)})
    assert by_name(decision)["newest"].evidence["log_e_pass"] == "inf"
    assert GateDecision.model_validate_json(decision.model_dump_json()) == decision


def test_damaged_items_come_from_slices_at_fault_first():
    losing = ([1.0, 1.0, 0.5, 0.4, 0.0], [0.9, 0.0, 0.2, 0.1, 0.0])
    broken = ([0.3, 0.9, 0.4, 0.5], [0.1, 0.9, 0.2, 0.2])
    slices = {"chat": losing, "coding": broken, "newest": BETTER}
    options = {"chat": {"tolerance": 1.0}}
    decision = decided(slices, options, num_damaged_items=6)
    assert by_name(decision)["chat"].state == "PASS"
    found = [
        (item.slice, item.item_id.split("/")[1], item.delta) for item in decision.damaged_items
    ]
    order = [i.item_id.split("/")[1] for i in evaluation(slices).items if i.slice == "chat"]
    assert (found[0], found[3]) == (("coding", "3", -0.3), ("chat", "1", -1.0))
    assert {*found[1:3]} == {("coding", "0", -0.2), ("coding", "2", -0.2)}
    assert found[4:] == [("chat", index, -0.3) for index in order if index in ("2", "3")]
    worst = decision.damaged_items[0]
    assert worst.prompt == "question 3"
    assert (worst.champion_output, worst.challenger_output) == (
        "champion's answer 3",
        "challenger's answer 3",
    )
    assert decided(slices, options, num_damaged_items=0).damaged_items == ()


def test_a_decision_names_what_it_is_about():
    decision = decided({"newest": BETTER}, alpha=0.01)
    assert (decision.challenger_digest, decision.champion_digest) == ("a" * 64, "c" * 64)
    assert (decision.champion_revision, decision.scores_digest) == ("b" * 40, "5" * 64)
    assert decision.alpha == 0.01


# ---------------------------------------------------------------- what is refused


def test_unknown_target_names_the_slices():
    with pytest.raises(ConfigError, match=r"gate\.target: no slice 'newst'.*coding, newest"):
        decided({"coding": SAME, "newest": BETTER}, target="newst")
    with pytest.raises(ConfigError, match="Slices: none"):
        decided({})


@pytest.mark.parametrize("adapter", ["champion", "challenger", "anchor"])
def test_a_missing_score_names_slice_and_item(adapter: str):
    world = evaluation({"newest": (*BETTER, BETTER[0])})
    gone = next(s for s in world.scores if s.adapter == adapter and "/7/" in s.item_id)
    scores = [s for s in world.scores if s is not gone]
    with pytest.raises(InputError, match=rf"newest: item newest_task/7/abc has no .* {adapter}"):
        gate(GateConfig(), world.result, world.items, scores)


def test_missing_items():
    world = evaluation({"newest": BETTER})
    fewer = random_order(world.items[1:], order_seed=ORDER_SEED)
    with pytest.raises(InputError, match="newest: 59 of 60 items are listed"):
        gate(GateConfig(), world.result, fewer, world.scores)


def test_the_order_is_the_one_that_was_drawn():
    world = evaluation({"newest": BETTER, "chat": SAME})
    swapped = [world.items[1], world.items[0], *world.items[2:]]
    with pytest.raises(InputError, match="not in the random order of seed 7: item 1 is"):
        gate(GateConfig(), world.result, swapped, world.scores)
    other_seed = world.result.model_copy(update={"order_seed": 8})
    with pytest.raises(InputError, match="not in the random order of seed 8"):
        gate(GateConfig(), other_seed, world.items, world.scores)


def test_scores_in_the_order_of_completion_are_refused():
    """A6: what was quick to answer is no sample of all items."""
    world = evaluation({"newest": right_wrong(20, 40)}, {"newest": {"num_scored": 30}})
    prefix = [item.item_id for item in world.items[:30]]
    assert gate(GateConfig(), *world).slices[0].num_used == 30

    last, quick = prefix[-1], world.items[45].item_id
    scores = [
        s.model_copy(update={"item_id": quick}) if s.item_id == last else s for s in world.scores
    ]
    with pytest.raises(InputError, match=rf"{quick} is number 46 of the slice's order"):
        gate(GateConfig(), world.result, world.items, scores)
    # And one that is there beside a whole prefix is not counted silently either.
    more = [*world.scores, score("newest", int(quick.split("/")[1]), "challenger", 1.0)]
    with pytest.raises(InputError, match="only the first 30 are said to be scored"):
        gate(GateConfig(), world.result, world.items, more)


def test_repeated_ids():
    world = evaluation({"newest": BETTER})
    more = [*world.scores, score("newest", 3, "champion", 1.0)]
    with pytest.raises(InputError, match="newest_task/3/abc has more than one score"):
        gate(GateConfig(), world.result, world.items, more)
    with pytest.raises(InputError, match="is there more than once"):
        gate(GateConfig(), world.result, [*world.items, world.items[0]], world.scores)
    twice = world.result.model_copy(update={"slices": world.result.slices * 2})
    with pytest.raises(InputError, match=r"newest: .* more than once"):
        gate(GateConfig(), twice, world.items, world.scores)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.1])
def test_impossible_scores(value: float):
    with pytest.raises(
        InputError, match="newest: the challenger's score of item newest_task/1/abc"
    ):
        decided({"newest": ([0.5, 0.5], [0.5, value])})


def test_a_wrongly_declared_step():
    with pytest.raises(InputError, match=r"newest_task/0/abc is 0\.5, no multiple .* score_step 1"):
        decided({"newest": ([0.5, 1.0], [1.0, 1.0])}, {"newest": STEP})
    thirds = ([1 / 3, 1.0], [2 / 3, 1.0])
    assert decided({"newest": thirds}, {"newest": {"score_step": 1 / 3}}).verdict == "promote"


def test_scores_of_slices_that_have_none():
    world = evaluation({"newest": BETTER})
    with pytest.raises(InputError, match=r"chat: item .* has a score.*no such slice.*newest"):
        more = [*world.scores, score("chat", 0, "champion", 1.0)]
        gate(GateConfig(), world.result, world.items, more)
    with pytest.raises(InputError, match="newest: item other/1/abc has a score of the champion"):
        stray = world.scores[0].model_copy(update={"item_id": "other/1/abc"})
        gate(GateConfig(), world.result, world.items, [*world.scores, stray])
    both = evaluation({"newest": BETTER, "chat": SAME})
    alone = both.result.model_copy(update={"slices": both.result.slices[:1]})
    with pytest.raises(InputError, match=r"chat: item .* listed, but .* no such slice"):
        gate(GateConfig(), alone, both.items, [s for s in both.scores if s.slice == "newest"])
    with pytest.raises(InputError, match="said not to be evaluated"):
        decided({"newest": BETTER}, {"newest": {"not_evaluated": "no sandbox"}})


def test_empty_slices_and_ranges():
    with pytest.raises(ConfigError, match="coding: the slice has no items"):
        decided({"coding": ((), ()), "newest": BETTER})
    same = {"newest": {"score_low": 1.0, "score_high": 1.0}}
    with pytest.raises(ConfigError, match="score_low 1 must be below score_high 1"):
        decided({"newest": ([1.0], [1.0])}, same)


def test_one_item_and_other_ranges_of_scores():
    assert decided({"newest": ([0.0], [1.0])}).verdict == "promote"
    judged = decided(
        {"chat": ([7.0, 8.0], [6.5, 6.5]), "newest": BETTER},
        {"chat": {"score_low": 1.0, "score_high": 10.0, "tolerance": 0.5}},
    )
    assert by_name(judged)["chat"].sentence == (
        "chat fell from 7.50 to 6.50 (-1.00 on all 2 items); at most 0.50 were allowed."
    )
    assert judged.sentence == "Rejected: chat fell by 1.00, more than the 0.50 allowed."
