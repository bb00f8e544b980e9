"""When an evaluation stops, and that the gate then finds what the rule has found."""

from typing import Any

import numpy as np
import pytest

from ct_llm.config import GateConfig
from ct_llm.errors import InputError
from ct_llm.gate.gate import gate
from ct_llm.gate.stopping import check_floor, stopping_rule
from ct_llm.records import GateDecision
from tests.unit.gate.evaluations import Evaluated, Scores, evaluation, prefix, right_wrong
from tests.unit.gate.runs import full_prefixes, run_until_decided, stopped

STEP = {"score_step": 1.0}


def noisy(num_items: int, wins: int, losses: int, right: int | None = None) -> Scores:
    """So many items won and lost, of a champion that is right on `right` of them."""
    right = num_items // 2 if right is None else right
    champion = np.array([1.0] * right + [0.0] * (num_items - right))
    challenger = champion.copy()
    challenger[:losses] = 0.0
    challenger[right : right + wins] = 1.0
    return champion.tolist(), challenger.tolist()


def run(
    world: Evaluated, config: GateConfig, **how: Any
) -> tuple[dict[str, int], GateDecision, Evaluated]:
    """Scored items, the decision, and what the run left."""
    known = bool(how.get("known"))
    order = [item.slice for item in world.items]
    scored = run_until_decided(config, order, full_prefixes(world), **how)
    left = stopped(world, scored, known, "budget" if how.get("budget") else "decided")
    return scored, gate(config, *left), left


def states(decision: GateDecision) -> dict[tuple[str, str], str]:
    return {(s.slice, s.role): s.state for s in decision.slices}


# ---------------------------------------------------------------- slices


def test_a_promotion_takes_a_part_of_the_items():
    world = evaluation(
        {"coding": noisy(1319, 60, 10), "newest": noisy(1000, 120, 20)},
        {"coding": STEP | {"tolerance": 0.01}, "newest": STEP},
    )
    scored, decision, _ = run(world, GateConfig())
    assert decision.verdict == "promote"
    assert set(states(decision).values()) == {"PASS"}
    assert scored["coding"] < 600 and scored["newest"] < 400
    newest = next(s for s in decision.slices if s.slice == "newest")
    assert newest.lower is not None and newest.lower > 0
    assert decision.sentence == (
        f"Promote: newest improved (+{100 * (newest.delta or 0):.1f} points after "
        f"{newest.num_used} of 1000 items, at least +{100 * newest.lower:.1f} points over all of "
        "them with 95 % confidence); no other slice lost more than its tolerance."
    )


def test_a_decided_slice_is_wanted_no_more():
    rule = stopping_rule(GateConfig())
    order = ["coding"] * 200 + ["newest"] * 200
    won, tied = prefix("coding", [0.0] * 200, [1.0] * 200, 16), [0.0] * 200
    open_ = prefix("newest", tied, tied, 16)
    assert rule(order, [won, open_]) == ("newest",)
    assert rule(order, [prefix("coding", tied, tied, 0), open_]) == ("coding", "newest")


def test_one_failure_stops_everything():
    lost = prefix("coding", [1.0] * 200, [0.0] * 200, 32)
    tied = [0.0] * 200
    order = ["coding"] * 200 + ["newest"] * 200
    assert stopping_rule(GateConfig())(order, [lost, prefix("newest", tied, tied, 0)]) == ()

    world = evaluation({"coding": noisy(400, 0, 200), "newest": noisy(400, 100, 0)})
    scored, decision, _ = run(world, GateConfig())
    assert decision.verdict == "reject"
    assert states(decision)["coding", "guard"] == "FAIL"
    assert sum(scored.values()) < 200
    assert decision.sentence.startswith(
        "Rejected: coding fell by more than the 5.0 points allowed (-"
    )


def test_a_slice_that_is_not_evaluated_is_never_wanted_and_stops_nothing():
    """Nobody is promoted, but a person sees the other slices decided."""
    tied = [0.0] * 200
    missing = prefix("coding", tied, tied, 0, not_evaluated="no sandbox")
    newest = prefix("newest", tied, tied, 16)
    rule = stopping_rule(GateConfig())
    order = ["coding"] * 200 + ["newest"] * 200
    assert rule(order, [missing, newest]) == ("newest",)
    assert rule(["newest"] * 200, [newest]) == ("newest",)

    options = {"coding": {"not_evaluated": "no sandbox", "num_items": 200, "num_scored": 0}}
    world = evaluation({"coding": ((), ()), "newest": noisy(400, 100, 0)}, options)
    scored, decision, _ = run(world, GateConfig())
    assert decision.verdict == "inconclusive" and not decision.budget_reached
    assert states(decision) == {("coding", "guard"): "NOT_EVALUATED", ("newest", "target"): "PASS"}
    assert scored["newest"] < 400


def test_without_a_target_slice_the_guards_are_still_decided():
    options = {"newest": {"not_evaluated": "no rows", "num_items": 0}}
    world = evaluation({"coding": noisy(400, 100, 0), "newest": ((), ())}, options)
    scored, decision, _ = run(world, GateConfig())
    assert scored["coding"] < 400 and decision.verdict == "inconclusive"
    assert states(decision) == {("coding", "guard"): "PASS", ("newest", "target"): "NOT_EVALUATED"}


def test_full_mode_scores_everything_and_takes_no_risk():
    world = evaluation({"coding": noisy(300, 0, 150), "newest": noisy(300, 150, 0)})
    scored, decision, _ = run(world, GateConfig(mode="full"))
    assert scored == {"coding": 300, "newest": 300}
    assert (decision.verdict, decision.mode) == ("reject", "full")

    # Cut off by a budget: what is not certain is not decided, whatever the evidence says.
    world = evaluation({"newest": noisy(300, 150, 0)})
    scored, decision, left = run(world, GateConfig(mode="full"), budget=96)
    assert (decision.verdict, decision.budget_reached) == ("inconclusive", True)
    assert float(decision.slices[0].evidence["log_e_pass"] or 0) > 10
    assert gate(GateConfig(), *left).verdict == "promote"


def test_a_budget_leaves_the_rest_undecided():
    world = evaluation({"coding": noisy(400, 20, 20), "newest": noisy(400, 20, 20)})
    scored, decision, _ = run(world, GateConfig(), budget=64)
    assert sum(scored.values()) == 64
    assert (decision.verdict, decision.budget_reached) == ("inconclusive", True)
    assert decision.sentence == (
        "Inconclusive: coding is not decided after 32 of 400 items; newest is not decided after 32 "
        "of 400 items, when the evaluation's budget ran out."
    )
    # The same scores, but nobody said that a budget had run out.
    _, _, left = run(world, GateConfig(), budget=64)
    decided = left.result.model_copy(update={"stopped": "decided"})
    again = gate(GateConfig(), decided, left.items, left.scores)
    assert (again.verdict, again.budget_reached) == ("inconclusive", False)
    assert "budget" not in again.sentence


def test_nothing_scored_yet():
    world = evaluation({"newest": noisy(40, 5, 5)})
    decision = gate(GateConfig(), *stopped(world, {"newest": 0}, why="budget"))
    (newest,) = decision.slices
    assert (newest.state, newest.num_used, newest.delta) == ("UNDECIDED", 0, None)
    assert newest.sentence == "newest: none of 40 items is scored."
    assert (newest.lower, newest.upper) == (-1.0, 1.0)
    assert decision.sentence.startswith("Inconclusive: newest is not decided after 0 of 40 items")


def test_known_scores_of_the_champion_make_a_verdict_certain_earlier():
    """A champion that is wrong nearly everywhere leaves little to lose."""
    world = evaluation(
        {"coding": noisy(400, 2, 2, right=10), "newest": noisy(400, 100, 0)}, {"coding": STEP}
    )
    blind, _, _ = run(world, GateConfig())
    knowing, decision, left = run(world, GateConfig(), known=True)
    assert knowing["coding"] == 0 < blind["coding"]
    assert decision.verdict == "promote"
    coding = decision.slices[0]
    assert (coding.state, coding.num_used, coding.evidence["certain"]) == ("PASS", 0, True)
    # With some of the champion's other scores missing, nothing is known of the rest.
    gone = next(s for s in left.scores if s.slice == "coding")
    fewer = [s for s in left.scores if s is not gone]
    assert gate(GateConfig(), left.result, left.items, fewer).verdict == "inconclusive"


def test_a_wrong_score_is_named_at_the_first_look():
    bad = prefix("newest", [0.0] * 50, [0.5] * 50, 16, score_step=1.0)
    with pytest.raises(InputError, match=r"newest: .* item 1 .* 0\.5, no multiple"):
        stopping_rule(GateConfig())(["newest"] * 50, [bad])


# ---------------------------------------------------------------- floors


@pytest.mark.parametrize(
    ("num_right", "num_scored", "floor", "met"),
    [
        (50, 50, 0.5, True),
        (49, 50, 0.5, None),
        (49, 98, 0.5, None),
        (0, 50, 0.5, None),
        (0, 51, 0.5, False),
        (50, 100, 0.5, True),
        (49, 100, 0.5, False),
        (0, 100, None, None),
    ],
)
def test_a_floor_is_checked_once_it_is_certain(
    num_right: int, num_scored: int, floor: float | None, met: bool | None
):
    challenger = [1.0] * num_right + [0.0] * (100 - num_right)
    part = prefix("newest", [0.0] * 100, challenger, num_scored, floor=floor)
    assert check_floor(part) is met


def test_a_floor_keeps_its_slice_going_and_rejects():
    world = evaluation(
        {"coding": noisy(200, 60, 0, right=100), "newest": noisy(200, 100, 0)},
        {"coding": {"floor": 0.7}},
    )
    scored, decision, _ = run(world, GateConfig())
    assert scored["coding"] > 128 and decision.verdict == "promote"
    assert decision.slices[0].floor_met is True

    missed = evaluation(
        {"coding": noisy(200, 60, 0, right=100), "newest": noisy(200, 100, 0)},
        {"coding": {"floor": 0.9}},
    )
    scored, decision, _ = run(missed, GateConfig())
    assert (decision.verdict, decision.slices[0].state) == ("reject", "PASS")
    assert scored["coding"] < 200
    assert decision.sentence == (
        "Rejected: coding can no longer reach its floor of 90.0 % after "
        f"{scored['coding']} of 200 items."
    )


def test_an_open_floor_is_no_promotion():
    world = evaluation(
        {"coding": noisy(200, 60, 0), "newest": noisy(200, 100, 0)}, {"coding": {"floor": 0.7}}
    )
    _, decision, _ = run(world, GateConfig(), budget=96)
    assert {s.state for s in decision.slices} == {"PASS"}
    assert (decision.verdict, decision.budget_reached) == ("inconclusive", True)
    assert decision.slices[0].floor_met is None
    assert "coding is not decided after" in decision.sentence
    assert decision.slices[0].sentence.endswith(
        "Whether it reaches its floor of 70.0 % is still open."
    )


# ---------------------------------------------------------------- overall targets


@pytest.mark.parametrize("target", ["pooled", "weighted"])
@pytest.mark.parametrize("by_one_order", [True, False])
def test_an_overall_target_keeps_decided_slices_going(target: str, by_one_order: bool):
    world = evaluation(
        {"coding": noisy(164, 20, 3), "chat": noisy(541, 60, 10), "newest": noisy(300, 30, 20)},
        {name: STEP | {"tolerance": 0.2} for name in ("coding", "chat", "newest")},
    )
    config = GateConfig(target=target)
    scored, decision, _ = run(world, config, pooled=by_one_order)
    assert decision.verdict == "promote"
    assert [(s.slice, s.role) for s in decision.slices] == [
        ("coding", "guard"),
        ("chat", "guard"),
        ("newest", "guard"),
        (target, "target"),
    ]
    overall = decision.slices[-1]
    assert overall.num_items == 1005
    assert sum(scored.values()) >= overall.num_used
    assert overall.state == "PASS" and (overall.lower or -1) > 0
    assert overall.num_used < 1005
    name = "all items" if target == "pooled" else "the slices by weight"
    assert decision.sentence.startswith(f"Promote: the mean of {name} improved (+")
    assert decision.sentence.endswith("; no slice lost more than its tolerance.")
    assert overall.evidence["slices"] == "coding, chat, newest"


def test_a_guard_can_fail_under_an_overall_target():
    world = evaluation({"coding": noisy(300, 0, 100), "chat": noisy(3000, 600, 0)})
    _, decision, _ = run(world, GateConfig(target="pooled"), pooled=True)
    assert decision.verdict == "reject"
    assert states(decision)["coding", "guard"] == "FAIL"


def test_all_items_decide_an_overall_target_exactly():
    world = evaluation({"coding": noisy(60, 3, 3), "chat": noisy(60, 4, 3)})
    decision = gate(GateConfig(target="pooled"), *world)
    overall = decision.slices[-1]
    assert overall.delta == overall.lower == overall.upper == pytest.approx(1 / 120)
    assert decision.sentence == (
        "Promote: the mean of all items improved by 0.8 points; no slice lost more than its "
        "tolerance."
    )
    # By weight, another slice counts more: the gain of chat is outweighed.
    weights = {"coding": {"weight": 3.0}, "chat": {"weight": 1.0}}
    world = evaluation({"coding": noisy(60, 3, 4), "chat": noisy(60, 5, 3)}, weights)
    decision = gate(GateConfig(target="weighted"), *world)
    assert decision.slices[-1].delta == pytest.approx(-0.75 / 60 + 0.25 * 2 / 60)
    assert decision.sentence == (
        "Rejected: the mean of the slices by weight did not improve: it fell by 0.4 points."
    )


# ---------------------------------------------------------------- anchor


def test_slow_loss_over_many_promotions_is_stopped_by_the_anchor():
    """Five challengers, each losing 0.9 of the tolerance against the one before."""
    num_items, tolerance = 1000, 0.05
    lost_each = int(0.9 * tolerance * num_items)
    options = {"coding": STEP | {"tolerance": tolerance}, "newest": STEP}

    def lineage(generation: int) -> list[float]:
        right = 800 - lost_each * generation
        return [1.0] * right + [0.0] * (num_items - right)

    def evaluated(generation: int, *, anchored: bool) -> Evaluated:
        coding = lineage(generation - 1), lineage(generation)
        sides = (*coding, lineage(0)) if anchored else coding
        return evaluation({"coding": sides, "newest": noisy(200, 60, 0)}, options)

    blind = [run(evaluated(g, anchored=False), GateConfig())[1] for g in range(1, 6)]
    assert [decision.verdict for decision in blind] == ["promote"] * 5

    guarded = [run(evaluated(g, anchored=True), GateConfig())[1] for g in range(1, 4)]
    # 4.5 and 9 points lost of the 10 allowed in total, then 13.5.
    assert [decision.verdict for decision in guarded] == ["promote", "promote", "reject"]
    decision = guarded[-1]
    anchor = next(s for s in decision.slices if s.role == "anchor")
    assert (anchor.slice, anchor.state, anchor.threshold) == ("coding", "FAIL", -0.1)
    assert states(decision)["coding", "guard"] != "FAIL"
    assert decision.sentence.startswith(
        "Rejected: coding is below the anchor by more than the 10.0 points allowed (-"
    )
    assert (
        anchor.sentence.startswith("coding is at 6") and " % and the anchor at 7" in anchor.sentence
    )

    exact = gate(GateConfig(), *evaluated(3, anchored=True))
    assert exact.sentence == (
        "Rejected: coding is 13.5 points below the anchor, more than the 10.0 points allowed."
    )
    told = next(s for s in exact.slices if s.role == "anchor").sentence
    assert told == (
        "coding is at 66.5 % and the anchor at 80.0 % (-13.5 points on all 1000 items); at most "
        "10.0 points below it were allowed."
    )


def test_a_promotion_says_that_the_anchor_was_held():
    same = right_wrong(30, 30)
    world = evaluation({"coding": (*same, same[0]), "newest": right_wrong(30, 36)})
    assert gate(GateConfig(), *world).sentence == (
        "Promote: newest improved by 10.0 points; no other slice lost more than its tolerance; "
        "against the anchor, no slice lost more than is allowed."
    )
    open_ = evaluation(
        {"newest": (*right_wrong(30, 60), [1.0] * 60)},
        {"newest": {"tolerance": 0.0}},
        anchor_digest="e" * 64,
        anchor_revision="f" * 40,
    )
    decision = gate(GateConfig(), *stopped(open_, {"newest": 30}, why="budget"))
    assert (decision.anchor_digest, decision.anchor_revision) == ("e" * 64, "f" * 40)
    assert "newest against the anchor is not decided after 30 of 60 items" in decision.sentence
