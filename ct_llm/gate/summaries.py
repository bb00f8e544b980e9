"""Figures that describe a comparison and decide nothing.

They suppose that the number of items was fixed before the first score. Looked at again and again
they are wrong far more often than they say (a paired z test at every look: up to 30 % instead of
5 %), and the record says so beside them. Errors and pairing after Miller, "Adding error bars to
evals" (2024).
"""

import math

import numpy as np
import numpy.typing as npt

LABEL = "fixed-n, not valid under early stopping"

NUM_RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_241_101
CHUNK_CELLS = 2_000_000
"""Resampled items held in memory at a time (24 MB)."""


def describe(
    differences: npt.ArrayLike, num_items: int, confidence: float = 0.95
) -> dict[str, float | int | str | bool | None]:
    """Descriptive figures of n paired differences of a benchmark of N items; shape [n], 1 <= n <= N."""
    d = np.asarray(differences, dtype=np.float64)
    error = standard_error(d)
    lower, upper = bootstrap_interval(d, confidence)
    wins, losses, _ = wins_losses_ties(d)
    return {
        "descriptive_figures": LABEL,
        "mcnemar_p": mcnemar_p(wins, losses),
        "standard_error": error,
        # Once all N are scored, nothing is left to be unsure of: 0.
        "standard_error_finite": None
        if error is None
        else error * math.sqrt(1 - d.size / num_items),
        "bootstrap_lower": lower,
        "bootstrap_upper": upper,
        "bootstrap_confidence": confidence,
    }


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


def bootstrap_interval(differences: npt.ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided percentile interval of the mean: items are drawn again, each with both its scores.

    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. The seed is fixed
    and the items are sorted, so the same differences give the same interval in any order.
    """
    d = np.sort(np.asarray(differences, dtype=np.float64))
    random = np.random.default_rng(BOOTSTRAP_SEED)
    means = np.empty(NUM_RESAMPLES)
    rows = max(1, CHUNK_CELLS // d.size)
    for start in range(0, NUM_RESAMPLES, rows):
        chunk = means[start : start + rows]
        drawn = random.integers(0, d.size, size=(chunk.size, d.size), dtype=np.int32)
        chunk[:] = d[drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(means, [tail, 1 - tail])
    return float(lower), float(upper)
