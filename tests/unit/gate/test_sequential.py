"""The sequential test against reference values, against all orders there are, and in simulation.

The acceptance tests A1 to A5 of the method's specification. CT_LLM_SLOW_TESTS=1 runs the simulations
with 2,000 gates a cell instead of a few hundred.
"""

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ct_llm.gate.gate import decide_verdict
from ct_llm.gate.sequential import (
    FirstDecision,
    ItemBounds,
    SequentialState,
    SequentialTest,
    decide,
    first_decision,
    log_e_process,
)
from ct_llm.records import SliceState

VECTORS = json.loads((Path(__file__).parent / "gate_vectors.json").read_text())
SLOW = bool(os.environ.get("CT_LLM_SLOW_TESTS"))
BATCH = 16


def guard(num_items: int, tolerance: float, alpha: float = 0.05, **more: Any) -> SequentialTest:
    options: dict[str, Any] = {"strict": False, "step": 1} | more
    return SequentialTest(
        num_items=num_items, threshold=-tolerance, alpha_pass=alpha, alpha_fail=alpha, **options
    )


def marks(num: int, wins: tuple[int, int] | None = None, losses: tuple[int, int] | None = None):
    """+1 where i % wins[0] == wins[1], -1 for losses, 0 elsewhere; shape [num]."""
    i = np.arange(num)
    d = np.zeros(num)
    if losses:
        d[i % losses[0] == losses[1]] = -1
    if wins:
        d[i % wins[0] == wins[1]] = 1
    return d


def assert_reference(state: SequentialState, reference: dict[str, Any]) -> None:
    assert (state.state, state.certain) == (reference["state"], reference["certain"])
    assert state.num_used == reference["n"]
    for name in ("mean", "lower", "upper", "log_e_pass", "log_e_fail", "p_pass", "p_fail"):
        assert getattr(state, name) == pytest.approx(reference[name], rel=1e-12, abs=1e-12), name


def assert_first(decision: FirstDecision | None, reference: list[Any]) -> None:
    assert decision is not None
    assert [decision.num_used, decision.state, decision.certain] == reference


# ---------------------------------------------------------------- A1: reference values


def test_evidence_after_each_of_five_items():
    d = np.array([1, 0, -1, 1, 1])
    passing = log_e_process(d, 0, low=-1, num_items=100)
    failing = log_e_process(-d, 0, low=-1, num_items=100)
    # Printed to six digits in the reference.
    assert passing == pytest.approx(VECTORS["V1"]["log_e_pass"], abs=1e-6)
    assert failing == pytest.approx(VECTORS["V1"]["log_e_fail"], abs=1e-6)


def test_undecided_slice_with_and_without_a_step():
    d = marks(60, wins=(10, 0), losses=(25, 7))
    test = guard(164, 0.01)
    assert test.edges == pytest.approx(VECTORS["V2"]["th"], abs=1e-15)
    assert_reference(decide(test, d), VECTORS["V2"]["out"])
    assert_reference(decide(guard(164, 0.01, step=None), d), VECTORS["V2b"]["out"])


def test_step_of_a_quarter():
    d = np.resize([0.25, 0, -0.25, 0.5, 0, 0, 0.25, -0.25], 200)
    test = guard(541, 0.02, step=0.25)
    assert test.edges == pytest.approx(VECTORS["V8"]["th"], abs=1e-15)
    assert_reference(decide(test, d), VECTORS["V8"]["out"])


def test_superpopulation():
    d = marks(300, wins=(10, 0))
    test = guard(1000, 0.01, step=None, mode="superpopulation")
    assert_reference(decide(test, d), VECTORS["V9"]["out"])
    assert_first(first_decision(test, d), VECTORS["V9"]["first"])


@pytest.mark.parametrize(
    ("group", "name", "test", "d"),
    [
        ("V3", "nonstrict05", guard(164, 0), marks(164)),
        ("V3", "nonstrict01", guard(164, 0, alpha=0.01), marks(164)),
        ("V3", "nonstrict_nostep", guard(164, 0, step=None), marks(164)),
        ("V3", "strict05", guard(164, 0, strict=True), marks(164)),
        ("V4", "a05", guard(164, 0), np.ones(164)),
        ("V4", "a01", guard(164, 0, alpha=0.01), np.ones(164)),
        ("V4", "losses05", guard(164, 0), -np.ones(164)),
        ("V5", "a05", guard(1319, 0.01), marks(1319)),
        ("V5", "a01", guard(1319, 0.01, alpha=0.01), marks(1319)),
        ("V6", "a05", guard(1319, 0.01), marks(1319, wins=(20, 4))),
        ("V6", "a01", guard(1319, 0.01, alpha=0.01), marks(1319, wins=(20, 4))),
        ("V7", "a05", guard(1319, 0.01), marks(1319, wins=(20, 4), losses=(10, 9))),
        ("V10", "N1_loss_tol0", guard(1, 0), [-1]),
        ("V10", "N1_tie_tol0", guard(1, 0), [0]),
        ("V10", "N1_tie_strict", guard(1, 0, strict=True), [0]),
        ("V10", "N3_tol1", guard(3, 1.0), []),
    ],
)
def test_first_decision(group: str, name: str, test: SequentialTest, d: Any):
    reference = VECTORS[group][name]
    assert_first(first_decision(test, d), reference)
    # The state is a function of the prefix: undecided before, the same at it.
    n = reference[0]
    assert decide(test, d[:n]).state == reference[1]
    if n:
        assert decide(test, d[: n - 1]).state == "UNDECIDED"


def test_states_on_the_way():
    assert_reference(decide(guard(1319, 0.01), marks(100, wins=(20, 4))), VECTORS["V6"]["at100"])
    assert_reference(
        decide(guard(1319, 0.01), marks(200, wins=(20, 4), losses=(10, 9))), VECTORS["V7"]["at200"]
    )


def test_worse_by_exactly_the_tolerance_is_not_more_than_it():
    d = np.append(-np.ones(7), np.zeros(93))
    for strict, name in ((False, "N100_tol7_exact"), (True, "N100_tol7_strict")):
        state = decide(guard(100, 0.07, strict=strict), d)
        assert (state.state, state.certain) == (VECTORS["V10"][name], True)


def test_bets():
    """Read off a first win: E = mean of 1 - f + f r, with r known."""
    for num_items, name in ((164, "grid_N164"), (1319, "grid_N1319")):
        e = math.exp(log_e_process([1.0], 0.0, low=-1, num_items=num_items)[0])
        assert e - 1 == pytest.approx(np.mean(VECTORS[name]), abs=1e-6)


@pytest.mark.parametrize("n", [48, 80, 96, 112])
def test_gate_of_a_guard_and_a_target(n: int):
    verdict, states = VECTORS["V12"]["states"][str(n)]
    options: dict[str, Any] = {"step": 1, "alpha_fail": 0.05 / 2}
    coding = SequentialTest(num_items=1319, threshold=-0.01, strict=False, **options)
    newest = SequentialTest(num_items=1000, threshold=0, strict=True, **options)
    found: list[SliceState] = [
        decide(coding, marks(n, wins=(20, 4))).state,
        decide(newest, marks(n, wins=(8, 0))).state,
    ]
    assert found == states
    assert decide_verdict(found) == {"CONTINUE": "inconclusive", "PROMOTE": "promote"}[verdict]


@pytest.mark.parametrize(
    ("name", "test", "d"),
    [
        ("nan", guard(10, 0), [math.nan]),
        ("nan", guard(10, 0), [math.inf]),
        ("oob", guard(10, 0), [2.0]),
        ("off", guard(10, 0), [0.5]),
    ],
)
def test_scores_that_are_refused(name: str, test: SequentialTest, d: list[float]):
    # The reference's message, up to where ours goes on with the numbers.
    reason = VECTORS["V11"][name].partition(" [")[0]
    with pytest.raises(ValueError, match=reason):
        decide(test, d)
    with pytest.raises(ValueError, match=reason):
        first_decision(test, d)


@pytest.mark.parametrize("d", [np.zeros(11), np.zeros((2, 2)), 0.0])
def test_shapes_that_are_refused(d: Any):
    with pytest.raises(ValueError, match="bad shape"):
        decide(guard(10, 0), d)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_items": 0},
        {"low": 1.0},
        {"high": math.inf},
        {"threshold": math.nan},
        {"alpha_pass": 0.0},
        {"alpha_fail": 1.0},
        {"step": 0.0},
        {"step": 1.0, "mode": "superpopulation"},
    ],
)
def test_tests_that_are_refused(wrong: dict[str, Any]):
    right: dict[str, Any] = {"num_items": 10, "threshold": 0.0, "strict": False}
    with pytest.raises(ValueError):
        SequentialTest(**(right | wrong))


# ---------------------------------------------------------------- bounds, certainty


def test_bounds_close_in_on_the_mean_and_meet_it():
    rng = np.random.default_rng(3)
    d = rng.permutation(np.repeat([1.0, -1.0, 0.0], [30, 20, 150]))
    test = guard(200, 0.01)
    widths = []
    for n in (0, 20, 100, 199, 200):
        state = decide(test, d[:n])
        assert -1 <= state.lower <= d.mean() + 1e-12
        assert d.mean() - 1e-12 <= state.upper <= 1
        widths.append(state.upper - state.lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[0] == 2 and widths[-1] == pytest.approx(0, abs=1e-12)


def test_a_passed_test_has_its_threshold_below_the_lower_bound():
    d = marks(100, wins=(20, 4))
    test = guard(1319, 0.01, step=None)
    decision = first_decision(test, d)
    assert decision is not None and decision.state == "PASS"
    assert decide(test, d[: decision.num_used]).lower >= -0.01
    assert decide(test, d[: decision.num_used - 1]).lower < -0.01


def test_known_champion_scores_make_certain_earlier():
    """All items that the champion fails anyway cannot be lost."""
    champion = np.repeat([1.0, 0.0], [20, 80])
    d = np.zeros(100)
    bounds = ItemBounds(low=-champion, high=1 - champion)
    test = guard(100, 0.05, alpha=1e-9)
    blind, knowing = first_decision(test, d), first_decision(test, d, item_bounds=bounds)
    assert blind is not None and (blind.num_used, blind.certain) == (95, True)
    assert knowing is not None and (knowing.num_used, knowing.certain) == (15, True)
    assert decide(test, d[:15], bounds).lower == -0.05
    with pytest.raises(ValueError, match="item bounds"):
        decide(test, d, ItemBounds(low=-champion[:9], high=1 - champion))


def test_looks_happen_after_batches_and_at_the_end():
    d = np.ones(164)
    for batch_size, num_used in ((1, 7), (5, 10), (16, 16), (500, 164)):
        decision = first_decision(guard(164, 0), d, batch_size=batch_size)
        assert decision is not None and decision.num_used == num_used
    assert first_decision(guard(164, 0), np.zeros(20)) is None


def test_certainty_overrules_a_crossing():
    """Evidence that passed by bad luck does not outlive the proof of the contrary."""
    d = np.append(np.ones(20), -np.ones(144))
    test = guard(164, 0)
    assert decide(test, d[:20]).state == "PASS"
    state = decide(test, d[:120])
    assert (state.state, state.certain) == ("FAIL", True)
    # So does the bound: it may be wrong once in 1 / alpha, but never impossible.
    assert decide(test, d).lower == decide(test, d).upper == pytest.approx(d.mean())


def test_a_population_of_lowest_scores_is_possible():
    """With H0's mean at the lowest score, such scores are no evidence against it, any other is all."""
    e = log_e_process([-1, -1, -1], -1.0, low=-1, num_items=3)
    assert e == pytest.approx([0, 0, 0], abs=1e-12)
    assert log_e_process([-1, 0, -1], -1.0, low=-1, num_items=3)[1:].tolist() == [math.inf] * 2


# ---------------------------------------------------------------- A2: exact, over all orders


@pytest.mark.parametrize("num_items", [6, 8, 10])
def test_every_order_of_every_small_population(num_items: int):
    """Under H0 the mean evidence is at most 1, and crossing 1 / alpha as rare as promised."""
    d = np.array(list(itertools.product((-1, 0, 1), repeat=num_items)), dtype=np.float64)
    log_e = log_e_process(d, d.mean(axis=1), low=-1, num_items=num_items)
    populations = ((d == 1).sum(axis=1) * (num_items + 1) + (d == 0).sum(axis=1)).astype(int)
    num_orders = np.maximum(np.bincount(populations), 1)

    for n in range(num_items):
        means = np.bincount(populations, weights=np.exp(log_e[:, n])) / num_orders
        assert means.max() <= 1 + 1e-9

    largest = np.maximum(log_e.max(axis=1), 0)
    reference = {0.01: 0.0048, 0.05: 0.0278, 0.1: 0.0667, 0.2: 0.1444, 0.5: 0.4429}
    for alpha, worst in reference.items():
        crossed = largest >= -math.log(alpha) - 1e-12
        risk = (np.bincount(populations, weights=crossed) / num_orders).max()
        assert risk <= alpha
        if num_items == 10:
            assert risk == pytest.approx(worst, abs=5e-5)


# ---------------------------------------------------------------- A3 to A5: simulated


def population(num_items: int, wins: int, losses: int) -> np.ndarray:
    return np.repeat([1.0, -1.0, 0.0], [wins, losses, num_items - wins - losses])


def simulate(test: SequentialTest, d: np.ndarray, num_gates: int) -> list[FirstDecision]:
    rng = np.random.default_rng(20_260_101)
    decisions = [
        first_decision(test, rng.permutation(d), batch_size=BATCH) for _ in range(num_gates)
    ]
    return [decision for decision in decisions if decision is not None]


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize(
    ("num_items", "tolerance", "wins", "losses", "truth"),
    [
        (1319, 0.01, 59, 73, "FAIL"),  # theta = c_pass = -14/1319
        (1319, 0.01, 59, 72, "PASS"),  # theta = c_fail = -13/1319
        (541, 0.02, 0, 11, "FAIL"),
        (541, 0.02, 0, 10, "PASS"),
    ],
)
def test_wrong_decisions_at_the_boundary_are_rare(
    num_items: int, tolerance: float, wins: int, losses: int, truth: str, alpha: float
):
    num_gates = 2000 if SLOW else 250
    test = guard(num_items, tolerance, alpha)
    edge = test.edges[0] if truth == "FAIL" else test.edges[1]
    assert (wins - losses) / num_items == pytest.approx(edge)
    decisions = simulate(test, population(num_items, wins, losses), num_gates)
    assert len(decisions) == num_gates
    wrong = sum(decision.state != truth for decision in decisions) / num_gates
    assert wrong <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / num_gates)


@pytest.mark.parametrize(
    ("num_items", "alpha", "most"),
    [
        (164, 0.05, 0.72),
        (541, 0.05, 0.46),
        (1319, 0.05, 0.27),
        (5000, 0.05, 0.11),
        (1319, 0.01, 0.35),
    ],
)
def test_clear_gains_take_few_items(num_items: int, alpha: float, most: float):
    num_gates = 2000 if SLOW else 300
    changed, gain = round(0.1 * num_items), round(0.03 * num_items)
    wins = (changed + gain) // 2
    d = population(num_items, wins, wins - gain)
    decisions = simulate(guard(num_items, 0.01, alpha), d, num_gates)
    fractions = np.array([decision.num_used for decision in decisions]) / num_items
    assert np.mean([decision.state != "PASS" for decision in decisions]) <= alpha
    assert fractions.mean() <= most
    if (num_items, alpha) == (1319, 0.05):
        assert np.quantile(fractions, 0.9) <= 0.45


def test_the_simulation_would_notice_a_careless_test():
    """A paired z test at every look is wrong far more often than 5 %: the harness can see that."""
    num_items, num_gates = 5000, 300
    d = population(num_items, 725, 775)  # theta = -1 point, 30 % changed
    rng = np.random.default_rng(7)
    wrong = 0
    looks = np.arange(BATCH, num_items, BATCH)
    for _ in range(num_gates):
        x = rng.permutation(d)
        mean = np.cumsum(x)[looks - 1] / looks
        variance = np.cumsum(x**2)[looks - 1] / looks - mean**2
        z = (mean + 0.01) / np.sqrt(np.maximum(variance, 1e-12) / looks)
        enough = np.abs(z) > 1.645
        # theta is exactly at the threshold, so the truth is PASS.
        wrong += bool(enough.any() and z[np.argmax(enough)] < 0)
    assert wrong / num_gates > 0.2
