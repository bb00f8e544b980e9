"""Which tests a config and its suites make, and what each of them looks at."""

from typing import Any

import numpy as np
import pytest

from ct_llm.config import GateConfig, Suite, TaskConfig, resolve_target
from ct_llm.errors import ConfigError, InputError
from ct_llm.gate.observed import observed
from ct_llm.gate.sentences import plan_sentence
from ct_llm.gate.sequential import decide
from ct_llm.gate.slice_tests import SliceTest, plan_tests
from ct_llm.gate.stopping import report_of
from ct_llm.records import SlicePrefix, SliceScores
from tests.unit.gate.evaluations import prefix


def scores(name: str, num_items: int = 100, **options: Any) -> SliceScores:
    usual: dict[str, Any] = {"tasks": (name,), "num_scored": 0, "tolerance": 0.02}
    return SliceScores(slice=name, num_items=num_items, **(usual | options))


def plan(*slices: SliceScores, **config: Any) -> dict[tuple[str, str], SliceTest]:
    return {(t.slice, t.role): t for t in plan_tests(GateConfig(**config), slices)}


def test_guards_and_one_target():
    tests = plan(scores("coding", score_step=1.0), scores("newest"), min_gain=0.01, alpha=0.06)
    assert list(tests) == [("coding", "guard"), ("newest", "target")]
    coding, newest = (t.test for t in tests.values())
    assert (coding.threshold, coding.strict, coding.step) == (-0.02, False, 1.0)
    assert (newest.threshold, newest.strict, newest.step) == (0.01, True, None)
    assert (coding.low, coding.high, coding.num_items) == (-1.0, 1.0, 100)
    for test in (coding, newest):
        assert (test.alpha_pass, test.alpha_fail, test.mode) == (0.06, 0.03, "finite")


def test_a_costly_slice_has_a_risk_of_its_own():
    """Of passing wrongly: what it may fail wrongly is shared out among all tests."""
    tests = plan(
        scores("coding", alpha=0.01, against_anchor=True), scores("newest", against_anchor=True)
    )
    assert [t.test.alpha_pass for t in tests.values()] == [0.01, 0.05, 0.01, 0.05]
    assert {t.test.alpha_fail for t in tests.values()} == {0.05 / 4}


def test_anchor_guards():
    tests = plan(
        scores("coding", against_anchor=True), scores("newest"), anchor_tolerance_factor=3.0
    )
    assert list(tests) == [("coding", "guard"), ("newest", "target"), ("coding", "anchor")]
    anchor = tests["coding", "anchor"].test
    assert (anchor.threshold, anchor.strict) == (pytest.approx(-0.06), False)


def test_a_slice_that_is_not_evaluated_is_no_test():
    tests = plan(scores("coding", not_evaluated="no sandbox", num_items=0), scores("newest"))
    assert list(tests) == [("newest", "target")]
    assert tests["newest", "target"].test.alpha_fail == 0.05
    assert not plan(scores("coding", not_evaluated="no sandbox"), target="pooled")


def test_modes():
    slices = scores("newest", score_step=1.0), scores("chat", score_step=1.0)
    full, population = plan(*slices, mode="full"), plan(*slices, mode="population")
    assert all(t.certain_only and t.test.mode == "finite" for t in full.values())
    for test in population.values():
        assert (test.test.mode, test.test.step, test.certain_only) == (
            "superpopulation",
            None,
            False,
        )


def test_pooled_target():
    tests = plan(
        scores("coding", 164, score_step=1.0),
        scores("chat", 541, score_step=1.0, weight=3.0),
        scores("newest", 50, weight=0.0),
        target="pooled",
        min_gain=0.01,
    )
    assert list(tests) == [
        ("coding", "guard"),
        ("chat", "guard"),
        ("newest", "guard"),
        ("pooled", "target"),
    ]
    pooled = tests["pooled", "target"]
    assert (pooled.members, pooled.factors) == (("coding", "chat"), (1.0, 1.0))
    assert (pooled.test.num_items, pooled.test.step) == (705, 1.0)
    assert (pooled.test.threshold, pooled.test.strict) == (0.01, True)
    assert pooled.test.alpha_fail == 0.05 / 4

    # A step only where all have the same one, and the widest range.
    mixed = plan(
        scores("coding", score_step=1.0),
        scores("chat", score_step=0.5, score_low=1.0, score_high=5.0),
        target="pooled",
    )["pooled", "target"].test
    assert (mixed.step, mixed.low, mixed.high) == (None, -4.0, 4.0)


def test_weighted_target():
    weighted = plan(
        scores("coding", 100, weight=3.0, score_step=1.0),
        scores("chat", 300, weight=1.0, score_step=1.0),
        scores("newest", 600, weight=0.0),
        target="weighted",
    )["weighted", "target"]
    assert weighted.members == ("coding", "chat")
    assert weighted.factors == pytest.approx((0.75 * 400 / 100, 0.25 * 400 / 300))
    assert (weighted.test.low, weighted.test.high) == (-3.0, 3.0)
    assert (weighted.test.step, weighted.test.num_items) == (None, 400)
    with pytest.raises(ConfigError, match="weighted needs a slice with a weight above 0"):
        plan(scores("coding", weight=0.0), target="weighted")


def test_plan_in_words():
    tests = plan(
        scores("coding", 164, against_anchor=True),
        scores("newest", 500, tolerance=0.0),
        target="pooled",
        min_gain=0.01,
    )
    assert [plan_sentence(t) for t in tests.values()] == [
        "coding (164 items): may lose at most 2.0 points against the champion; passes wrongly with "
        "at most 5 %, fails wrongly with at most 1.25 %.",
        "newest (500 items): may lose nothing against the champion; passes wrongly with at most 5 %, "
        "fails wrongly with at most 1.25 %.",
        "pooled (664 items of coding, newest): must improve by more than 1.0 points; passes wrongly "
        "with at most 5 %, fails wrongly with at most 1.25 %.",
        "coding (164 items): may lose at most 4.0 points against the anchor; passes wrongly with at "
        "most 5 %, fails wrongly with at most 1.25 %.",
    ]
    weighted = plan(scores("a", 10), scores("b", 90), target="weighted", min_gain=0.01)
    assert plan_sentence(weighted["weighted", "target"]).startswith(
        "weighted (100 items of a, b): must improve by more than 1.0 points;"
    )
    (full,) = plan(scores("newest"), mode="full").values()
    assert plan_sentence(full) == (
        "newest (100 items): must improve; every item is scored, which leaves no risk."
    )
    (one,) = plan(scores("newest", 1), mode="full").values()
    assert plan_sentence(one).startswith("newest (1 item): must improve;")


# ---------------------------------------------------------------- the target's name


def suite(name: str, target: bool = False) -> Suite:
    task = TaskConfig(task=name, metric="acc")
    return Suite(slice=name, tasks=[task], tolerance=0.01, target=target)


def test_the_target_is_named_before_the_first_score():
    suites = [suite("coding"), suite("chat", target=True)]
    assert resolve_target(GateConfig(), suites).target == "chat"
    assert resolve_target(GateConfig(target="coding"), suites).target == "coding"
    assert resolve_target(GateConfig(target="pooled"), suites).target == "pooled"
    assert resolve_target(GateConfig(alpha=0.01), suites[:1]) == GateConfig(
        target="newest", alpha=0.01
    )
    both = [suite("coding", target=True), suite("chat", target=True)]
    assert resolve_target(GateConfig(target="newest"), both).target == "newest"


@pytest.mark.parametrize(
    ("target", "suites", "others", "message"),
    [
        (
            "codign",
            [suite("coding")],
            ("newest",),
            r"no slice 'codign' \(did you mean 'coding'\?\)",
        ),
        (None, [suite("a", True), suite("b", True)], ("newest",), "a and b all say target: true"),
        ("pooled", [suite("pooled")], ("newest",), "slice is called pooled"),
        (None, [suite("coding")], (), "no slice 'newest'.*There are: coding, pooled, weighted"),
    ],
)
def test_targets_that_are_refused(
    target: str | None, suites: list[Suite], others: tuple[str, ...], message: str
):
    with pytest.raises(ConfigError, match=message):
        resolve_target(GateConfig(target=target), suites, others)


# ---------------------------------------------------------------- what a test sees


def overall(target: str, *prefixes: SlicePrefix) -> SliceTest:
    tests = plan_tests(GateConfig(target=target), [p.scores for p in prefixes])
    return next(t for t in tests if t.is_overall)


ORDER = ["b", "a", "x", "b", "a", "b"]
"""x is not evaluated."""


def test_an_overall_target_sees_the_contiguous_prefix_of_the_union():
    a, b = [1.0, 0.0], [0.0, 1.0, 1.0]
    for done_a, done_b, seen in [
        (0, 0, []),
        (0, 3, [0.0]),
        (1, 1, [0.0, 1.0]),
        (2, 1, [0.0, 1.0]),
        (1, 2, [0.0, 1.0, 1.0]),
        (2, 2, [0.0, 1.0, 1.0, 0.0]),
        (2, 3, [0.0, 1.0, 1.0, 0.0, 1.0]),
    ]:
        there = {
            "a": prefix("a", [0.0, 0.0], a, done_a),
            "b": prefix("b", [0.0, 0.0, 0.0], b, done_b),
        }
        found = observed(overall("pooled", *there.values()), ORDER, there)
        assert found.differences.tolist() == seen


def test_weights_make_the_mean_that_of_the_slices():
    rng = np.random.default_rng(0)
    sizes, weights = {"a": 40, "b": 90}, {"a": 3.0, "b": 1.0}
    before = {k: rng.integers(0, 2, n).astype(float) for k, n in sizes.items()}
    after = {k: rng.integers(0, 2, n).astype(float) for k, n in sizes.items()}
    there = {k: prefix(k, before[k].tolist(), after[k].tolist(), weight=weights[k]) for k in sizes}
    order = [str(name) for name in rng.permutation(["a"] * 40 + ["b"] * 90)]
    test = overall("weighted", *there.values())
    found = observed(test, order, there)
    by_weight = 0.75 * (after["a"] - before["a"]).mean() + 0.25 * (after["b"] - before["b"]).mean()
    assert found.differences.mean() == pytest.approx(by_weight)
    assert found.before.mean() == pytest.approx(
        0.75 * before["a"].mean() + 0.25 * before["b"].mean()
    )
    state, report = report_of(test, found)
    assert state == ("PASS" if by_weight > 0 else "FAIL")
    assert report.lower == pytest.approx(by_weight)


def test_known_scores_of_the_champion_narrow_what_is_left():
    champion = [0.0, 1.0, 0.0, 0.0]
    (test,) = plan_tests(GateConfig(), [scores("newest", 4)])
    part = prefix("newest", champion, [1.0, 0.0, 0.0, 0.0], 1, known_rest=True)
    seen = observed(test, ["newest"] * 4, {"newest": part})
    assert seen.item_bounds is not None
    assert np.asarray(seen.item_bounds.low).tolist() == [0, -1, 0, 0]
    assert np.asarray(seen.item_bounds.high).tolist() == [1, 0, 1, 1]
    # +1 so far and at most -1 to come, so 0 at least: with a tolerance that is certain.
    guard = plan_tests(GateConfig(target="a"), [scores("newest", 4, tolerance=0.0)])[0]
    state = decide(guard.test, seen.differences, seen.item_bounds)
    assert (state.state, state.certain) == ("PASS", True)
    assert decide(guard.test, seen.differences).state == "UNDECIDED"


def test_known_scores_in_an_overall_target():
    there = {
        "a": prefix("a", [1.0, 0.0], [1.0, 0.0], 0, known_rest=True, weight=1.0),
        "b": prefix("b", [0.0, 1.0, 1.0], [0.0, 1.0, 1.0], 1, known_rest=True, weight=1.0),
    }
    seen = observed(overall("weighted", *there.values()), ORDER, there)
    assert seen.item_bounds is not None
    wide, narrow = 0.5 * 5 / 2, 0.5 * 5 / 3
    assert np.asarray(seen.item_bounds.low) == pytest.approx([0, -wide, -narrow, 0, -narrow])
    assert np.asarray(seen.item_bounds.high) == pytest.approx([narrow, 0, 0, wide, 0])
    there["b"] = there["b"]._replace(champion_rest=None)
    assert observed(overall("weighted", *there.values()), ORDER, there).item_bounds is None


def test_prefixes_that_are_refused():
    (test,) = plan_tests(GateConfig(), [scores("newest", 3, score_step=1.0)])
    for challenger, message in [
        ([1.0, 0.5], r"newest: the challenger's score of item 2 of its order is 0\.5, no multiple"),
        ([2.0, 0.0], r"item 1 of its order is 2\.0, outside"),
        ([0.0, float("nan")], r"item 2 of its order is nan\. A failed item"),
        ([0.0], "1 items are scored for the challenger and 2 for the champion"),
    ]:
        bad = prefix("newest", [1.0, 1.0, 1.0], [0.0] * 3, 2, score_step=1.0)
        bad = bad._replace(challenger=tuple(challenger))
        with pytest.raises(InputError, match=message):
            observed(test, ["newest"] * 3, {"newest": bad})
    there = {"a": prefix("a", [0.0], [0.0]), "b": prefix("b", [0.0], [0.0])}
    with pytest.raises(InputError, match="a: the order of all items holds 0 of its 1 items"):
        observed(overall("pooled", *there.values()), ["b"], there)
