"""Figures that describe a comparison and decide nothing.

They suppose that the number of items was fixed before the first score. Looked at again and again
they are wrong far more often than they say (a paired z test at every look: up to 30 % instead of
5 %), and the record says so beside them. Errors and pairing after Miller, "Adding error bars to
evals" (2024).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LABEL = "fixed-n, not valid under early stopping"

NUM_RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_241_101
CHUNK_CELLS = 2_000_000
"""Resampled items held in memory at a time (24 MB)."""


def describe(
    differences: npt.ArrayLike,
    num_items: int,
    confidence: float = 0.95,
    clusters: Sequence[str | None] | None = None,
) -> dict[str, float | int | str | bool | None]:
    """Descriptive figures of n paired differences of a benchmark of N items; shape [n], 1 <= n <= N.

    clusters: shape [n]; items of one cluster share a passage, so their scores move together. They
    are then resampled together, and there is a second standard error that knows of it.
    """
    d = np.asarray(differences, dtype=np.float64)
    # Once all N are scored, nothing is left to be unsure of: 0.
    finite = math.sqrt(1 - d.size / num_items)
    error = standard_error(d)
    groups = None if clusters is None else _group_numbers(clusters)
    lower, upper = bootstrap_interval(d, confidence, groups)
    wins, losses, _ = wins_losses_ties(d)
    figures: dict[str, float | int | str | bool | None] = {
        "descriptive_figures": LABEL,
        "mcnemar_p": mcnemar_p(wins, losses),
        "standard_error": error,
        "standard_error_finite": None if error is None else error * finite,
        "bootstrap_lower": lower,
        "bootstrap_upper": upper,
        "bootstrap_confidence": confidence,
        "bootstrap_unit": "item" if groups is None else "cluster",
    }
    if groups is not None:
        clustered = cluster_standard_error(d, groups)
        figures |= {
            "num_clusters": int(groups.max()) + 1,
            "cluster_standard_error": clustered,
            "cluster_standard_error_finite": None if clustered is None else clustered * finite,
        }
    return figures


def wins_losses_ties(differences: npt.ArrayLike) -> tuple[int, int, int]:
    """How many items got better, worse, neither; a change below 1e-9 is rounding."""
    d = np.asarray(differences, dtype=np.float64)
    wins, losses = int((d > 1e-9).sum()), int((d < -1e-9).sum())
    return wins, losses, d.size - wins - losses


def mcnemar_p(wins: int, losses: int) -> float:
    """Exact two-sided p-value of "a change is as often a win as a loss" (McNemar 1947).

    min(1, 2 P(X <= min(wins, losses))) for X ~ Binomial(wins + losses, 1/2); 1 without any change.
    For scores that are more than right or wrong, this is the sign test.
    """
    n = wins + losses
    log_half = n * math.log(0.5)
    # In logs: 2 ** n is no float beyond 1,023 changes.
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + log_half)
        for k in range(min(wins, losses) + 1)
    )
    return min(1.0, 2 * tail)


def standard_error(differences: npt.ArrayLike) -> float | None:
    """Of the mean: sd / sqrt(n) of the paired differences; a single item tells nothing of it.

    Pairing takes out what makes an item easy or hard for both adapters.
    """
    d = np.asarray(differences, dtype=np.float64)
    return float(d.std(ddof=1) / math.sqrt(d.size)) if d.size > 1 else None


def cluster_standard_error(
    differences: npt.ArrayLike, groups: npt.NDArray[np.int64]
) -> float | None:
    """Of the mean, when items of one cluster move together; a single cluster tells nothing of it.

    sqrt(sum over clusters g of (sum over i in g of (d_i - mean))^2) / n; groups: shape [n], from 0.
    """
    d = np.asarray(differences, dtype=np.float64)
    sums = np.bincount(groups, weights=d - d.mean())
    return float(np.sqrt((sums**2).sum()) / d.size) if sums.size > 1 else None


def bootstrap_interval(
    differences: npt.ArrayLike,
    confidence: float = 0.95,
    groups: npt.NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Two-sided percentile interval of the mean: items are drawn again, each with both its scores.

    groups: shape [n], the cluster of each item, from 0; whole clusters are drawn then. Efron and
    Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. The seed is fixed and what is
    drawn from is sorted, so the same differences give the same interval in any order.
    """
    d = np.asarray(differences, dtype=np.float64)
    if groups is None:
        sums, sizes = np.sort(d), np.ones(d.size)
    else:
        sums, sizes = np.bincount(groups, weights=d), np.bincount(groups).astype(np.float64)
        order = np.lexsort((sums, sizes))
        sums, sizes = sums[order], sizes[order]
    random = np.random.default_rng(BOOTSTRAP_SEED)
    means = np.empty(NUM_RESAMPLES)
    rows = max(1, CHUNK_CELLS // sums.size)
    for start in range(0, NUM_RESAMPLES, rows):
        chunk = means[start : start + rows]
        drawn = random.integers(0, sums.size, size=(chunk.size, sums.size), dtype=np.int32)
        chunk[:] = (
            sums[drawn].mean(axis=1)
            if groups is None
            else sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
        )
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(means, [tail, 1 - tail])
    return float(lower), float(upper)


def _group_numbers(clusters: Sequence[str | None]) -> npt.NDArray[np.int64]:
    """Shape [n]: 0, 1, 2, ... for the clusters as they appear; None is an item of its own."""
    numbers: dict[str | int, int] = {}
    return np.array(
        [
            numbers.setdefault(position if cluster is None else cluster, len(numbers))
            for position, cluster in enumerate(clusters)
        ],
        dtype=np.int64,
    )
