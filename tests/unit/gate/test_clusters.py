"""About a distribution, items that share a passage are one draw: the cluster is the unit."""

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ct_llm.config import GateConfig
from ct_llm.gate.clusters import (
    cluster_decide,
    cluster_labels,
    cluster_state_after,
    find_clusters,
)
from ct_llm.gate.gate import gate
from ct_llm.gate.sequential import SequentialTest, decide, rejects, state_after
from ct_llm.gate.stopping import stopping_rule
from tests.unit.gate.evaluations import evaluation, prefix
from tests.unit.gate.runs import full_prefixes, run_until_decided, stopped

SLOW = bool(os.environ.get("CT_LLM_SLOW_TESTS"))


def population_test(num_items: int, threshold: float = 0.0, alpha: float = 0.05, **more: Any):
    return SequentialTest(
        num_items=num_items,
        threshold=threshold,
        strict=False,
        alpha_pass=alpha,
        alpha_fail=alpha,
        mode="superpopulation",
        **more,
    )


# ---------------------------------------------------------------- units


def test_a_cluster_counts_once_it_is_complete_and_all_before_it_are():
    labels = ("a", "b", None, "a", "b", "b")
    clusters = find_clusters(labels)
    assert sorted(clusters.sizes.tolist()) == [1, 2, 3]
    assert [clusters.sizes[g] for g in clusters.index] == [2, 3, 1, 2, 3, 3]

    d = np.array([1.0, 0.0, 1.0, 0.0, -1.0, 0.0])
    c, test = -0.1, population_test(6, -0.1)
    z_of_item = {0: (1.0 - 2 * c) / 3, 1: (-1.0 - 3 * c) / 3, 2: (1.0 - c) / 3}
    first = {int(clusters.index[i]): z for i, z in z_of_item.items()}
    ends = {int(clusters.index[0]): 4, int(clusters.index[1]): 6, int(clusters.index[2]): 3}
    units = population_test(3, 0.0, low=-1 - c, high=1 - c)
    for n in range(7):
        leading = [first[g] for g in range(3) if all(ends[h] <= n for h in range(g + 1))]
        found = cluster_decide(test, d[:n], clusters)
        expected = decide(units, leading)
        assert (found.log_e_pass, found.log_e_fail) == pytest.approx(
            (expected.log_e_pass, expected.log_e_fail)
        )
        assert (found.num_used, found.state) == (n, expected.state)
        assert cluster_state_after(test, d[:n], clusters) == (expected.state, False)


def test_the_clusters_order_is_no_matter_of_their_size():
    """Small ones are complete sooner: taken as they come, they would stand for all."""
    labels = [f"small{g}" for g in range(5)] + [f"large{g}" for g in range(5) for _ in range(9)]
    first = []
    for seed in range(300):
        shuffled = np.random.default_rng(seed).permutation(labels)
        clusters = find_clusters(tuple(str(label) for label in shuffled))
        first.append(int(clusters.sizes[0]))
    assert 0.4 < np.mean(np.array(first) == 1) < 0.6
    assert find_clusters(("a", "b", "a")) is find_clusters(("a", "b", "a"))


def test_items_that_are_all_their_own_cluster_need_none_of_this():
    assert cluster_labels(None) is None
    assert cluster_labels((None, "a", "b")) is None
    assert cluster_labels((None, "a", "a")) is not None


def test_bounds_are_of_the_items_mean():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 6, 200)
    labels = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    d = rng.choice([1.0, 0.0, -1.0], len(labels), p=[0.3, 0.65, 0.05])
    clusters = find_clusters(tuple(labels))
    test = population_test(len(labels), 0.0)
    state = cluster_decide(test, d, clusters)
    assert state.state == "PASS" and not state.certain
    assert 0 < state.lower < d.mean() < state.upper < 1
    # The bound is where the test would begin to pass.
    for threshold, passes in ((state.lower - 1e-9, True), (state.lower + 1e-9, False)):
        at = population_test(len(labels), threshold)
        assert (cluster_state_after(at, d, clusters)[0] == "PASS") is passes
    for threshold, fails in ((state.upper + 1e-9, True), (state.upper - 1e-9, False)):
        at = population_test(len(labels), threshold)
        assert (cluster_state_after(at, d, clusters)[0] == "FAIL") is fails


def test_a_threshold_below_every_difference():
    """lo - c > 0: 0 is then added to the range, since a small cluster's z is closer to it."""
    test = population_test(4, -1.5)
    clusters = find_clusters(("a", "a", "a", "b"))
    state = cluster_decide(test, np.array([-1.0, -1.0, -1.0, -1.0]), clusters)
    # H0 (theta <= -1.5) is impossible: whatever is above it refutes it.
    assert (state.state, state.lower) == ("PASS", -1.0)


# ---------------------------------------------------------------- risk, simulated


def test_by_items_clustered_scores_pass_wrongly_by_clusters_they_do_not():
    """A passage is understood or it is not: ten items of a cluster share their difference.

    Specified: 70 % wrong passes by items where whole clusters come one after another, at most alpha by
    clusters (2.7 % in the specification's simulation). Items in random order soften it, no more.
    """
    num_gates, alpha, num_clusters, size = (2000 if SLOW else 200), 0.05, 100, 10
    rng = np.random.default_rng(20_260_202)
    labels = [f"g{g}" for g in range(num_clusters) for _ in range(size)]
    test = population_test(num_clusters * size, 0.0, alpha)
    only_pass = replace(test, alpha_fail=1e-12)
    by_item = by_item_permuted = by_cluster = 0
    for _ in range(num_gates):
        d = np.repeat(rng.choice([1.0, -1.0], num_clusters), size)
        order = rng.permutation(d.size)
        clusters = find_clusters(tuple(labels[i] for i in order))
        by_item += rejects(test, d, 0.0, alpha)
        by_item_permuted += rejects(test, d[order], 0.0, alpha)
        by_cluster += cluster_state_after(only_pass, d[order], clusters)[0] == "PASS"
    assert by_item / num_gates > 0.6
    assert by_item_permuted / num_gates > 0.12
    assert by_cluster / num_gates <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / num_gates)


def test_large_clusters_that_differ_from_small_ones():
    """The order of completion would see the small ones first, and they are the better ones."""
    num_gates, alpha = (2000 if SLOW else 300), 0.05
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(num_gates):
        sizes = np.where(rng.random(150) < 0.5, 1, 4)
        # An item of a small cluster wins, four of a large one lose a quarter each: mean 0.
        values = np.where(sizes == 1, 1.0, -0.25)
        labels = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
        d = np.repeat(values, sizes)
        order = rng.permutation(d.size)
        clusters = find_clusters(tuple(labels[i] for i in order))
        test = population_test(d.size, 0.0, alpha)
        for share in (0.25, 0.5, 0.75, 1.0):
            n = int(share * d.size)
            if cluster_state_after(test, d[order][:n], clusters)[0] == "PASS":
                wrong += 1
                break
    assert wrong / num_gates <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / num_gates)


# ---------------------------------------------------------------- the gate's mode


def test_population_mode_without_clusters_is_the_plain_test():
    d = [1.0, 0.0, 0.0, 1.0, -1.0] * 40
    part = prefix("newest", [0.0] * 200, [max(x, 0.0) for x in d], 120)
    rule = stopping_rule(GateConfig(mode="population"))
    assert rule(["newest"] * 200, [part]) == ()
    test = population_test(200, 0.0)
    assert state_after(test, [max(x, 0.0) for x in d[:120]])[0] == "PASS"


def test_population_mode_may_end_undecided_and_says_so():
    champion = [1.0, 0.0] * 100
    world = evaluation({"newest": (champion, champion)})
    config = GateConfig(mode="population")
    scored = run_until_decided(config, ["newest"] * 200, full_prefixes(world))
    assert scored == {"newest": 200}
    decision = gate(config, *world)
    (newest,) = decision.slices
    assert (decision.verdict, decision.mode) == ("inconclusive", "population")
    assert (newest.state, newest.evidence["certain"]) == ("UNDECIDED", False)
    assert newest.evidence["mode"] == "superpopulation"
    assert not decision.budget_reached
    assert decision.sentence == "Inconclusive: newest is not decided after 200 of 200 items."
    assert "for items like these with 90 % confidence" in newest.sentence
    # Of these very items the same scores are no gain for certain.
    assert gate(GateConfig(), *world).verdict == "reject"


def test_a_gate_with_clusters_takes_them_as_units():
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 5, 150)
    won = rng.random(150) < 0.5
    clusters = [f"p{g}" for g, size in enumerate(sizes) for _ in range(size)]
    gained = np.repeat(won, sizes).astype(float).tolist()
    world = evaluation(
        {"newest": ([0.0] * len(gained), gained)},
        clusters={"newest": clusters},
    )
    config = GateConfig(mode="population")
    order = ["newest"] * len(gained)
    scored = run_until_decided(config, order, full_prefixes(world))
    decision = gate(config, *stopped(world, scored))
    (newest,) = decision.slices
    assert decision.verdict == "promote" and newest.lower is not None and newest.lower > 0
    assert newest.evidence["num_clusters"] == len(
        {i.cluster for i in world.items[: newest.num_used]}
    )
    assert newest.evidence["bootstrap_unit"] == "cluster"
    # About these very items, the clusters change nothing but the descriptive figures.
    finite = gate(GateConfig(), *world).slices[0]
    blind = gate(GateConfig(), *evaluation({"newest": ([0.0] * len(gained), gained)})).slices[0]
    assert finite.evidence["mode"] == "finite"
    assert (finite.lower, finite.state) == (blind.lower, blind.state)
    assert finite.evidence["cluster_standard_error"] is not None


def test_the_same_word_in_two_slices_is_two_clusters():
    half = [0.0, 0.0, 0.0, 0.0]
    world = evaluation(
        {"coding": (half, [1.0, 1.0, 0.0, 0.0]), "newest": (half, half)},
        clusters={"coding": ["p", "p", "q", "q"], "newest": ["p", "p", "q", "q"]},
    )
    decision = gate(GateConfig(mode="population", target="pooled"), *world)
    assert decision.slices[-1].evidence["num_clusters"] == 4
