"""Whole gates, simulated: how often they are wrong, and how much of the items they need.

Four slices of 164, 1319, 541 and 1000 items, 10 % of the answers changed, looks after batches of 16:
the setting of the specification's own simulation. CT_LLM_SLOW_TESTS=1 runs 2,000 gates a case.
"""

import math
import os
from typing import NamedTuple

import numpy as np
import pytest

from ct_llm.config import GateConfig
from ct_llm.gate.sequential import first_decision
from ct_llm.gate.slice_tests import SliceTest, plan_tests
from ct_llm.gate.stopping import stopping_rule
from ct_llm.records import SlicePrefix, SliceScores
from tests.unit.gate.runs import run_until_decided

SLOW = bool(os.environ.get("CT_LLM_SLOW_TESTS"))
NUM_GATES = 2000 if SLOW else 100
BATCH = 16
ALPHA = 0.05
SIZES = {"coding": 164, "reasoning": 1319, "chat": 541, "newest": 1000}
TOLERANCE = 0.01


def population(num_items: int, delta: int) -> np.ndarray:
    """`delta` more wins than losses, 10 % of the items changed."""
    changed = max(round(0.1 * num_items), abs(delta))
    wins = (changed + delta) // 2
    losses = wins - delta
    return np.repeat([1.0, -1.0, 0.0], [wins, losses, num_items - wins - losses])


def plan_of(sizes: dict[str, int]) -> dict[str, SliceTest]:
    slices = [
        SliceScores(
            slice=name,
            tasks=(name,),
            num_items=size,
            num_scored=0,
            tolerance=TOLERANCE,
            score_step=1.0,
        )
        for name, size in sizes.items()
    ]
    return {t.slice: t for t in plan_tests(GateConfig(alpha=ALPHA), slices)}


class Outcome(NamedTuple):
    promoted: bool
    num_used: int


def one_gate(tests: dict[str, SliceTest], worlds: dict[str, np.ndarray]) -> Outcome:
    """As the stopping rule does it, but every slice is computed once: each goes on, a batch a round
    in turn, until it is decided, and the first FAIL ends it all. (Below: that this is the same.)"""
    decided = {}
    for name, d in worlds.items():
        found = first_decision(tests[name].test, d, batch_size=BATCH)
        assert found is not None
        decided[name] = found
    rounds = {name: math.ceil(f.num_used / BATCH) for name, f in decided.items()}
    failures = [(rounds[n], i) for i, n in enumerate(worlds) if decided[n].state == "FAIL"]
    if not failures:
        return Outcome(True, sum(f.num_used for f in decided.values()))
    last_round, last_slice = min(failures)
    used = 0
    for i, (name, d) in enumerate(worlds.items()):
        done = last_round if i <= last_slice else last_round - 1
        used += min(min(rounds[name], done) * BATCH, d.size)
    return Outcome(False, used)


def simulate(deltas: dict[str, int], num_gates: int = NUM_GATES, seed: int = 20_260_303):
    """Share of gates that promote, and mean share of the items they use."""
    rng = np.random.default_rng(seed)
    tests = plan_of(SIZES)
    fixed = {name: population(size, deltas.get(name, 0)) for name, size in SIZES.items()}
    outcomes = [
        one_gate(tests, {name: rng.permutation(d) for name, d in fixed.items()})
        for _ in range(num_gates)
    ]
    promoted = np.mean([o.promoted for o in outcomes])
    return float(promoted), float(np.mean([o.num_used for o in outcomes]) / sum(SIZES.values()))


def within(alpha: float) -> float:
    """The largest share of wrong decisions that chance explains."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / NUM_GATES)


@pytest.mark.parametrize("newest", [40, 0])
@pytest.mark.parametrize("coding", [8, -10])
def test_the_shortcut_is_the_rule(coding: int, newest: int):
    """What is simulated below runs as the stopping rule would run it, look by look."""
    rng = np.random.default_rng([coding + 10, newest])
    sizes = {"coding": 164, "chat": 240, "newest": 300}
    deltas = {"coding": coding, "chat": 8, "newest": newest}
    tests = plan_of(sizes)
    for _ in range(3):
        worlds = {
            name: rng.permutation(population(size, deltas[name])) for name, size in sizes.items()
        }
        whole = {
            name: SlicePrefix(
                scores=SliceScores(
                    slice=name,
                    tasks=(name,),
                    num_items=d.size,
                    num_scored=0,
                    tolerance=TOLERANCE,
                    score_step=1.0,
                ),
                champion=tuple((d < 0).astype(float).tolist()),
                challenger=tuple((d > 0).astype(float).tolist()),
            )
            for name, d in worlds.items()
        }
        order = [name for name, size in sizes.items() for _ in range(size)]
        config = GateConfig(alpha=ALPHA)
        scored = run_until_decided(config, order, whole, batch=BATCH)
        outcome = one_gate(tests, worlds)
        assert outcome.num_used == sum(scored.values())
        assert stopping_rule(config)(order, list(whole.values())) == ()


@pytest.mark.parametrize(
    ("deltas", "most"),
    [
        # The specification's 53 % and 31 %; it does not say how the guards did in them.
        ({"newest": 40, "coding": 2, "reasoning": 13, "chat": 5}, 0.53),
        ({"newest": 80, "coding": 5, "reasoning": 39, "chat": 16}, 0.31),
    ],
)
def test_a_good_challenger_is_promoted_early(deltas: dict[str, int], most: float):
    promoted, share = simulate(deltas)
    assert 1 - promoted <= 0.01
    assert share <= most


def test_a_broken_slice_ends_it_early():
    """6 points lost in coding, the smallest slice; the others gain."""
    promoted, share = simulate({"newest": 40, "coding": -10, "reasoning": 13, "chat": 5})
    assert promoted <= 0.01
    assert share <= 0.16


def test_every_test_at_its_boundary():
    """All pass, and only just: the hardest case, which needs nearly all items and says so."""
    promoted, share = simulate({"coding": -1, "reasoning": -13, "chat": -5, "newest": 1})
    assert 1 - promoted <= within(ALPHA)
    assert share > 0.85


@pytest.mark.parametrize(
    "failing", [{"coding": -2}, {"reasoning": -14}, {"chat": -6}, {"newest": 0}]
)
def test_one_test_that_only_just_fails_among_easy_ones(failing: dict[str, int]):
    """The only way to a wrong promotion: that this one test passes."""
    easy = {"coding": 10, "reasoning": 53, "chat": 22, "newest": 80}
    promoted, _ = simulate(easy | failing)
    assert promoted <= within(ALPHA)
