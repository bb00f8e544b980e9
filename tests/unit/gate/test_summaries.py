"""Descriptive figures against scipy and against closed forms."""

import math

import numpy as np
import pytest

from ct_llm.gate.summaries import (
    bootstrap_interval,
    cluster_standard_error,
    describe,
    mcnemar_p,
    standard_error,
    wins_losses_ties,
)


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (1, 0), (0, 7), (5, 5), (12, 3), (100, 131), (2900, 3100)]
)
def test_mcnemar_against_scipy(wins: int, losses: int):
    stats = pytest.importorskip("scipy.stats")
    fewer, changed = min(wins, losses), wins + losses
    expected = min(1.0, 2 * stats.binom.cdf(fewer, changed, 0.5))
    assert mcnemar_p(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(0, 5) == mcnemar_p(5, 0) == pytest.approx(2 / 32)
    assert mcnemar_p(1, 3) == pytest.approx(2 * 5 / 16)


def test_standard_error():
    assert standard_error([1.0, -1.0, 0.0, 0.0]) == pytest.approx(math.sqrt(2 / 3) / 2)
    assert standard_error([0.2, 0.2]) == 0.0
    assert standard_error([1.0]) is None


def test_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(0)
    for d in (rng.choice([-1.0, 0.0, 1.0], 1000, p=[0.1, 0.75, 0.15]), rng.normal(0.1, 0.2, 400)):
        lower, upper = bootstrap_interval(d)
        error = standard_error(d)
        assert error is not None
        # 10,000 resamples place a 2.5 % quantile to within about 3 % of an error.
        assert lower == pytest.approx(d.mean() - 1.96 * error, abs=0.15 * error)
        assert upper == pytest.approx(d.mean() + 1.96 * error, abs=0.15 * error)
        narrower = bootstrap_interval(d, confidence=0.8)
        assert lower < narrower[0] < d.mean() < narrower[1] < upper


def test_bootstrap_does_not_depend_on_order_or_chunks(monkeypatch: pytest.MonkeyPatch):
    d = np.random.default_rng(1).normal(size=50)
    whole = bootstrap_interval(d)
    assert bootstrap_interval(d[::-1]) == whole
    monkeypatch.setattr("ct_llm.gate.summaries.CHUNK_CELLS", 7)
    assert bootstrap_interval(d) == pytest.approx(whole, abs=0.05)
    assert bootstrap_interval([0.25]) == (0.25, 0.25)


def test_description_of_a_part_and_of_all():
    d = [1.0, -1.0, 0.0, 1e-12, 1.0]
    assert wins_losses_ties(d) == (2, 1, 2)
    part, whole = describe(d, 20), describe(d, 5)
    error = standard_error(d)
    assert error is not None
    assert part["standard_error_finite"] == pytest.approx(error * math.sqrt(0.75))
    assert whole["standard_error_finite"] == 0.0
    assert part["descriptive_figures"] == "fixed-n, not valid under early stopping"
    assert describe([1.0], 5)["standard_error_finite"] is None


# ---------------------------------------------------------------- clusters


def test_clustered_error_by_hand():
    d, groups = [1.0, 1.0, 0.0, -1.0], np.array([0, 0, 1, 2])
    # Residuals .75, .75 | -.25 | -1.25; their sums over clusters squared: 2.25, .0625, 1.5625.
    assert cluster_standard_error(d, groups) == pytest.approx(math.sqrt(3.875) / 4)
    assert cluster_standard_error([1.0, 0.0], np.array([0, 0])) is None
    # Alone in its cluster, an item is as good as without: sd / sqrt(n), but for n against n - 1.
    plain = standard_error(d)
    assert plain is not None
    assert cluster_standard_error(d, np.arange(4)) == pytest.approx(plain * math.sqrt(3 / 4))


def test_description_with_clusters():
    rng = np.random.default_rng(2)
    values = rng.choice([-1.0, 0.0, 1.0], 100, p=[0.1, 0.6, 0.3])
    d, clusters = np.repeat(values, 8), [f"g{g}" for g in range(100) for _ in range(8)]
    whole, plain = describe(d, 1600, clusters=clusters), describe(d, 1600)
    error = whole["cluster_standard_error"]
    assert isinstance(error, float) and isinstance(plain["standard_error"], float)
    # Eight copies are no eight items: the error is sqrt(8) times as large as it looks.
    assert error == pytest.approx(math.sqrt(8) * plain["standard_error"], rel=0.01)
    assert whole["cluster_standard_error_finite"] == pytest.approx(error * math.sqrt(0.5))
    assert whole["standard_error"] == plain["standard_error"]
    assert (whole["num_clusters"], whole["bootstrap_unit"]) == (100, "cluster")
    assert (plain["bootstrap_unit"], "num_clusters" in plain) == ("item", False)
    lower, upper = whole["bootstrap_lower"], whole["bootstrap_upper"]
    assert isinstance(lower, float) and isinstance(upper, float)
    assert lower == pytest.approx(d.mean() - 1.96 * error, abs=0.15 * error)
    assert upper == pytest.approx(d.mean() + 1.96 * error, abs=0.15 * error)
    # In whatever order they come, and None is a cluster of its own.
    order = rng.permutation(800)
    shuffled = describe(d[order], 1600, clusters=[clusters[i] for i in order])
    assert shuffled["bootstrap_lower"] == pytest.approx(lower)
    assert describe([1.0, 0.0, 1.0], 3, clusters=[None, "a", None])["num_clusters"] == 3
