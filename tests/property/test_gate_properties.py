"""What must hold of the gate for any scores."""

import math
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ct_llm.config import GateConfig
from ct_llm.gate.evidence import evidence_bytes, evidence_of, read_evidence, recompute
from ct_llm.gate.gate import gate
from ct_llm.gate.sequential import SequentialTest, decide, first_decision, log_e_process
from ct_llm.gate.stopping import stopping_rule
from tests.unit.gate.evaluations import Evaluated, Scores, evaluation
from tests.unit.gate.runs import cut, full_prefixes, run_until_decided, stopped

# Two whole decisions an example, on machines that others use too.
FEW = settings(deadline=None, max_examples=30)

QUARTERS = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
TOLERANCE = st.sampled_from([0.0, 0.05, 0.1, 0.25])


@st.composite
def sides(draw: st.DrawFn, values: Any = QUARTERS, max_size: int = 25) -> Scores:
    pairs = draw(st.lists(st.tuples(values, values), min_size=1, max_size=max_size))
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
def test_the_order_of_rows_does_not_change_the_decision(world: Any, random: Any):
    """An item's place is that in the items' order, wherever its row stands."""
    result, items, scores = evaluation(*world)
    shuffled = list(scores)
    random.shuffle(shuffled)
    assert gate(GateConfig(), result, items, shuffled) == gate(GateConfig(), result, items, scores)


@FEW
@given(evaluations(), st.integers(0, 2**32))
def test_over_all_items_the_drawn_order_does_not_matter(world: Any, seed: int):
    slices, options = world
    first = gate(GateConfig(), *evaluation(slices, options))
    second = gate(GateConfig(), *evaluation(slices, options, order_seed=seed))
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


# ---------------------------------------------------------------- stopping rule and gate


@st.composite
def runs(draw: st.DrawFn) -> tuple[GateConfig, Evaluated, dict[str, Any]]:
    """Three slices, some with an anchor, a floor or clusters, and a way to evaluate them."""
    slices, options, clusters = {}, {}, {}
    for name in ("coding", "chat", "newest"):
        sides_of = draw(sides(st.sampled_from([0.0, 1.0]), max_size=40))
        if draw(st.booleans()):
            sides_of = (*sides_of, draw(st.permutations(sides_of[0])))
        slices[name] = sides_of
        options[name] = {
            "tolerance": draw(TOLERANCE),
            "score_step": draw(st.sampled_from([None, 1.0])),
            "floor": draw(st.sampled_from([None, None, 0.3])),
            "alpha": draw(st.sampled_from([None, 0.2])),
            "weight": draw(st.sampled_from([0.5, 1.0, 2.0])),
        }
        if draw(st.booleans()):
            clusters[name] = [
                draw(st.sampled_from([None, "p", "q", "r", "s"])) for _ in sides_of[0]
            ]
    config = GateConfig(
        target=draw(st.sampled_from(["newest", "pooled", "weighted"])),
        mode=draw(st.sampled_from(["sequential", "sequential", "full", "population"])),
        alpha=draw(st.sampled_from([0.05, 0.3])),
    )
    how = {
        "batch": draw(st.integers(1, 9)),
        "pooled": draw(st.booleans()),
        "known": draw(st.booleans()),
        "budget": draw(st.sampled_from([None, None, 20])),
    }
    return config, evaluation(slices, options, clusters=clusters), how


@FEW
@given(runs())
def test_the_gate_finds_what_made_the_rule_stop(world: tuple[GateConfig, Evaluated, Any]):
    config, whole, how = world
    order = [item.slice for item in whole.items]
    scored = run_until_decided(config, order, full_prefixes(whole), **how)
    left = stopped(whole, scored, how["known"], "budget" if how["budget"] else "decided")
    decision = gate(config, *left)

    failed = any(s.state == "FAIL" or s.floor_met is False for s in decision.slices)
    assert (decision.verdict == "reject") is failed
    everything = all(scored[s.slice] == s.num_items for s in whole.result.slices)
    out_of_budget = how["budget"] is not None and sum(scored.values()) >= how["budget"]
    if decision.verdict == "inconclusive":
        assert everything or out_of_budget
    if everything and config.mode != "population":
        assert decision.verdict != "inconclusive"
    if config.mode == "full" and not out_of_budget:
        assert everything
    for verdict in decision.slices:
        assert verdict.evidence["certain"] or verdict.state == "UNDECIDED" or config.mode != "full"

    # And a stranger finds the same.
    evidence = evidence_of(config, *left, decision)
    assert recompute(read_evidence(evidence_bytes(evidence))) == evidence.decision


@FEW
@given(runs(), st.data())
def test_what_lies_beyond_the_prefix_never_counts(
    world: tuple[GateConfig, Evaluated, Any], data: st.DataObject
):
    """Other answers of the challenger to what is not scored yet, and other scores of the champion
    unless all of them are known, change neither what is wanted nor what is decided."""
    config, whole, _ = world
    prefixes = full_prefixes(whole)
    scored = {name: data.draw(st.integers(0, len(p.challenger))) for name, p in prefixes.items()}
    order = [item.slice for item in whole.items]
    inside: set[tuple[str, str]] = set()
    for name, n in scored.items():
        inside |= {(name, i.item_id) for i in [i for i in whole.items if i.slice == name][:n]}
    other = [
        s if (s.slice, s.item_id) in inside else s.model_copy(update={"score": 1.0 - s.score})
        for s in whole.scores
    ]
    changed = full_prefixes(Evaluated(whole.result, whole.items, other))
    rule = stopping_rule(config)
    wanted = [rule(order, [cut(p[n], scored[n]) for n in p]) for p in (prefixes, changed)]
    assert wanted[0] == wanted[1]

    left = stopped(whole, scored)
    decision = gate(config, *left)
    # Some scores of the champion beyond the prefix, but not all of them.
    for name, n in scored.items():
        rest = [i.item_id for i in [i for i in whole.items if i.slice == name][n:]]
        extra = [
            s
            for s in other
            if s.slice == name and s.adapter == "champion" and s.item_id in rest[1:]
        ]
        left.scores.extend(extra)
    assert gate(config, *left) == decision


@FEW
@given(runs())
def test_what_is_decided_stays_decided(world: tuple[GateConfig, Evaluated, Any]):
    """With more items, a state changes only where it has become certain that it was wrong."""
    config, whole, _ = world
    config = config.model_copy(update={"mode": "sequential"})
    before: dict[tuple[str, str], str] = {}
    longest = max(s.num_items for s in whole.result.slices)
    for n in range(0, longest + 1, 5):
        left = stopped(whole, {s.slice: min(n, s.num_items) for s in whole.result.slices})
        for verdict in gate(config, *left).slices:
            key = verdict.slice, verdict.role
            if before.get(key, "UNDECIDED") != "UNDECIDED" and verdict.state != before[key]:
                assert verdict.evidence["certain"]
            before[key] = verdict.state


# ---------------------------------------------------------------- one test


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
