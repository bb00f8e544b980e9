"""What must hold of the gate for any scores."""

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ct_llm.config import GateConfig
from ct_llm.gate.gate import gate
from ct_llm.gate.sequential import SequentialTest, decide, first_decision, log_e_process
from tests.unit.gate.evaluations import Scores, evaluation

# Two whole decisions an example, on machines that others use too.
FEW = settings(deadline=None, max_examples=30)

QUARTERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
TOLERANCE = st.sampled_from([0.0, 0.05, 0.1, 0.25])


@st.composite
def sides(draw: st.DrawFn, values: Any = QUARTERS) -> Scores:
    pairs = draw(st.lists(st.tuples(values, values), min_size=1, max_size=25))
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@st.composite
def evaluations(draw: st.DrawFn):
    slices = {name: draw(sides()) for name in ("coding", "chat", "newest")}
    options = {name: {"tolerance": draw(TOLERANCE), "score_step": 0.25} for name in slices}
    return slices, options


@st.composite
def sequences(draw: st.DrawFn) -> tuple[SequentialTest, list[float]]:
    d = draw(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=30))
    test = SequentialTest(
        num_items=len(d),
        threshold=draw(st.sampled_from([-0.25, -0.1, -0.01, 0.0, 0.1])),
        strict=draw(st.booleans()),
        step=draw(st.sampled_from([None, 0.5])),
    )
    return test, d


@FEW
@given(evaluations(), st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_change_the_decision(world: Any, random: Any):
    slices, options = world
    result, scores = evaluation(slices, options)
    shuffled = list(scores)
    random.shuffle(shuffled)
    first, second = (gate(GateConfig(), result, s) for s in (scores, shuffled))
    assert (second.verdict, second.sentence) == (first.verdict, first.sentence)
    for a, b in zip(first.slices, second.slices, strict=True):
        assert (b.state, b.delta, b.sentence) == (a.state, a.delta, a.sentence)
        for name in ("mcnemar_p", "standard_error", "bootstrap_lower", "bootstrap_upper"):
            assert np.isclose(float(a.evidence[name] or 0), float(b.evidence[name] or 0))


@FEW
@given(evaluations(), st.data())
def test_a_better_answer_never_turns_a_promotion_into_a_rejection(world: Any, data: st.DataObject):
    slices, options = world
    before = gate(GateConfig(), *evaluation(slices, options))
    name = data.draw(st.sampled_from(sorted(slices)))
    champion, challenger = slices[name]
    index = data.draw(st.integers(0, len(challenger) - 1))
    better = list(challenger)
    better[index] = min(1.0, better[index] + 0.25)
    after = gate(GateConfig(), *evaluation(slices | {name: (champion, better)}, options))
    ranks = {"reject": 0, "inconclusive": 1, "promote": 2}
    assert ranks[after.verdict] >= ranks[before.verdict]


@FEW
@given(sequences())
def test_all_items_decide_by_their_plain_total(world: tuple[SequentialTest, list[float]]):
    test, d = world
    total, needed = math.fsum(d), test.threshold * len(d)
    passes = not test.strict if abs(total - needed) < 1e-6 else total > needed
    state = decide(test, d)
    assert (state.state, state.certain) == ("PASS" if passes else "FAIL", True)
    assert math.isclose(state.lower, total / len(d), abs_tol=1e-9)
    assert math.isclose(state.upper, total / len(d), abs_tol=1e-9)


@FEW
@given(sequences(), st.integers(0, 30))
def test_the_state_is_a_function_of_the_prefix(
    world: tuple[SequentialTest, list[float]], length: int
):
    test, d = world
    n = min(length, len(d))
    decision = first_decision(test, d)
    assert decision is not None
    state = decide(test, d[:n])
    if n < decision.num_used:
        assert state.state == "UNDECIDED"
    if n == decision.num_used:
        assert (state.state, state.certain) == (decision.state, decision.certain)
    least, most = (math.fsum(d[:n]) + side * (len(d) - n) for side in (-1, 1))
    for bound in (state.lower, state.upper):
        assert least / len(d) - 1e-9 <= bound <= most / len(d) + 1e-9


@FEW
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=20),
    st.integers(0, 50),
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.sampled_from(["finite", "superpopulation"]),
)
def test_evidence_falls_as_the_hypothesis_allows_more(
    d: list[float], rest: int, one: float, other: float, mode: Any
):
    curves = [
        log_e_process(d, m, low=-1, num_items=len(d) + rest, mode=mode)
        for m in sorted((one, other))
    ]
    assert not np.isnan(curves).any()
    assert (curves[0] >= curves[1] - 1e-6).all()
