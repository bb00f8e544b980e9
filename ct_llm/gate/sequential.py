"""What would the full evaluation decide? Answered as early as the scores allow, at a known risk.

One test is about one slice: theta, the mean of challenger minus champion over its N fixed items,
against a threshold c. The items are scored in a random order. After any number of them, the state
is PASS, FAIL or UNDECIDED; it differs from what all N items would say with probability at most
alpha, however often one looks and whenever one stops. At n = N it is exact.

Method: betting test supermartingales for a mean, drawing without replacement (Waudby-Smith and
Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 2024; the same object is
Stark's ALPHA for risk-limiting election audits, 2023). Suppose H0: theta <= m. Somebody who bets
the share f of her money on the next item being above its mean under H0 multiplies her money by
1 - f + f r, where r is at most 1 in the mean. So under H0 her money is a nonnegative
supermartingale that starts at 1, and by Ville's inequality it ever reaches 1/alpha with probability
at most alpha. Nothing is assumed of the scores but their range: the randomness is the order alone.

There is no state to keep: every function takes the scores so far and computes anew.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
State = Literal["PASS", "FAIL", "UNDECIDED"]
Mode = Literal["finite", "superpopulation"]

NUM_BETS = 5
MAX_BET = 0.9
# What is closer than this is equal, means to thresholds (0.07 * 100 is 7.000000000000001) as well as
# scores to each other.
SLACK = 1e-9
LOG_SLACK = 1e-12
# Halvings of a range of 2: bounds are exact to 1e-15.
NUM_BISECTIONS = 52


@dataclass(frozen=True, kw_only=True)
class SequentialTest:
    """What is asked of one slice, fixed before its first score."""

    num_items: int
    """N, all items of the slice. In superpopulation mode, the items that are available."""
    threshold: float
    """c, a difference of means: -tolerance for a guard, +min_gain for the target."""
    strict: bool
    """PASS means theta > c; otherwise theta >= c."""
    low: float = -1.0
    high: float = 1.0
    """Every difference lies in [low, high]."""
    step: float | None = None
    """Every difference is a multiple of it; sharpens the test. 1 for right/wrong scores."""
    alpha_pass: float = 0.05
    alpha_fail: float = 0.05
    """Risk of a wrong PASS and of a wrong FAIL."""
    mode: Mode = "finite"
    """finite: theta is the mean of these N items. superpopulation: the mean of the distribution that
    they were drawn from, independently; then n = N need not decide."""

    def __post_init__(self) -> None:
        if self.num_items < 1:
            raise ValueError(f"num_items must be 1 or more, not {self.num_items}")
        if not (math.isfinite(self.threshold) and -math.inf < self.low < self.high < math.inf):
            raise ValueError(
                f"threshold {self.threshold} must be finite, [{self.low}, {self.high}] a range"
            )
        if not (0 < self.alpha_pass < 1 and 0 < self.alpha_fail < 1):
            raise ValueError(f"alphas must be in (0, 1): {self.alpha_pass}, {self.alpha_fail}")
        if self.step is not None and not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive, not {self.step}")
        if self.step is not None and self.mode == "superpopulation":
            raise ValueError("a step sharpens the mean of N items, not that of a distribution")

    @property
    def edges(self) -> tuple[float, float]:
        """The largest theta that must not pass and the smallest that must: c_pass and c_fail.

        With a step, theta takes only the values K step / N, so the two hypotheses can be moved
        apart to the neighbours of c: 1 to 2 % fewer items, more on small slices.
        """
        if self.step is None:
            return self.threshold, self.threshold
        total = self.num_items * self.threshold
        slack = SLACK * self.num_items
        if self.strict:
            smallest = math.floor((total + slack) / self.step) + 1
        else:
            smallest = math.ceil((total - slack) / self.step)
        unit = self.step / self.num_items
        return (smallest - 1) * unit, smallest * unit


@dataclass(frozen=True, kw_only=True)
class SequentialState:
    """Where a test stands after n items."""

    state: State
    certain: bool
    """No scores of the remaining items could change the state: it holds without any risk."""
    num_used: int
    mean: float | None
    """Of the differences so far; None at n = 0. Biased once the stopping depended on it."""
    lower: float
    upper: float
    """One-sided confidence bounds of theta, at alpha_pass and at alpha_fail; the mean at n = N."""
    log_e_pass: float
    log_e_fail: float
    """Log of the evidence against "does not pass" and against "passes"; inf: impossible."""
    p_pass: float
    p_fail: float
    """Anytime-valid p-values: 1 / the largest evidence so far, at most 1."""


@dataclass(frozen=True, kw_only=True)
class FirstDecision:
    num_used: int
    state: State
    certain: bool


@dataclass(frozen=True, kw_only=True)
class ItemBounds:
    """The range of each single difference, where more is known than the test's `low` and `high`.

    When the champion's scores x_i of all N items are cached, d_i is in [score_low - x_i,
    score_high - x_i]: what remains can lose or win less, so certainty comes earlier.
    """

    low: npt.ArrayLike
    high: npt.ArrayLike
    """Shape [N], in the items' order."""


def decide(
    test: SequentialTest, differences: npt.ArrayLike, item_bounds: ItemBounds | None = None
) -> SequentialState:
    """The state after a prefix of the items, in their random order.

    differences: shape [n], 0 <= n <= N, challenger minus champion. They must be a contiguous prefix
    of the order: taking scores as they finish instead lets slow failures come last, and a wrong PASS
    is then the rule (71 % in simulation), not the exception.

    Raises ValueError when a difference is not finite, out of range or off the step, or when there
    are more than N.
    """
    d = _checked(test, differences)
    curves = _curves(test, d)
    states, certain = _states(test, d, curves, item_bounds)
    lower, upper = _bounds(test, d, item_bounds)
    return SequentialState(
        state=_name(states[-1]),
        certain=bool(certain[-1]),
        num_used=d.size,
        mean=math.fsum(d) / d.size if d.size else None,
        lower=lower,
        upper=upper,
        log_e_pass=float(curves[0][-1]),
        log_e_fail=float(curves[1][-1]),
        p_pass=math.exp(-curves[0].max()),
        p_fail=math.exp(-curves[1].max()),
    )


def state_after(
    test: SequentialTest, differences: npt.ArrayLike, item_bounds: ItemBounds | None = None
) -> tuple[State, bool]:
    """`state` and `certain` of `decide`, without the bounds, which take most of its time."""
    d = _checked(test, differences)
    states, certain = _states(test, d, _curves(test, d), item_bounds)
    return _name(states[-1]), bool(certain[-1])


def first_decision(
    test: SequentialTest,
    differences: npt.ArrayLike,
    *,
    batch_size: int = 1,
    item_bounds: ItemBounds | None = None,
) -> FirstDecision | None:
    """The first look that decides, looking after every batch and at the end; None: undecided.

    Arguments and errors as for `decide`, which gives the same state for that prefix.
    """
    d = _checked(test, differences)
    states, certain = _states(test, d, _curves(test, d), item_bounds)
    looks = np.append(np.arange(0, d.size, batch_size), d.size)
    decided = looks[states[looks] != 0]
    if not decided.size:
        return None
    first = int(decided[0])
    return FirstDecision(num_used=first, state=_name(states[first]), certain=bool(certain[first]))


def log_e_process(
    differences: npt.ArrayLike,
    mean: npt.ArrayLike,
    *,
    low: float,
    num_items: int,
    mode: Mode = "finite",
) -> Floats:
    """Log evidence against H0: theta <= mean, after each item.

    differences: shape [..., n], all >= low; mean: shape [...]. Returns shape [..., n]. Falls as
    `mean` grows. For H0: theta >= mean, negate: (-differences, -mean, low=-high).
    """
    d = np.asarray(differences, dtype=np.float64)
    m = np.asarray(mean, dtype=np.float64)[..., np.newaxis]
    bets = _bets(num_items)
    if mode == "finite":
        before = np.cumsum(d, axis=-1) - d
        num_left = num_items - np.arange(d.shape[-1])
        gap = (num_items * m - before) / num_left - low
        # Late items say more about what is left, so the bets grow; still fixed before the draw.
        bets = np.minimum(bets * num_items / num_left, MAX_BET)
    else:
        gap = np.broadcast_to(m - low, d.shape)

    # gap: how far the mean of what is left lies above the lowest score, if H0 is true at its edge.
    # Below 0, H0 is impossible. At 0, it is possible as long as every score is the lowest one.
    above = d - low
    refuted = (gap < -SLACK) | ((gap <= SLACK) & (above > SLACK))
    ratio = np.divide(above, gap, out=np.ones_like(above), where=gap > SLACK)
    ratio[refuted] = np.inf
    log_wealth = np.cumsum(np.log1p(bets * (ratio[..., np.newaxis, :] - 1)), axis=-1)
    return np.logaddexp.reduce(log_wealth, axis=-2) - math.log(NUM_BETS)


@lru_cache(maxsize=256)
def _bets(num_items: int) -> Floats:
    """Shape [NUM_BETS, 1]: the shares that are bet at the start."""
    bets = np.geomspace(min(0.5, math.sqrt(8 / num_items)), MAX_BET, NUM_BETS)[:, np.newaxis]
    bets.flags.writeable = False
    return bets


def rejects(
    test: SequentialTest, differences: Floats, mean: float, alpha: float, *, upward: bool = False
) -> bool:
    """Did the evidence against H0: theta <= mean (upward: theta >= mean) ever reach 1 / alpha?"""
    sign, low = (-1.0, -test.high) if upward else (1.0, test.low)
    curve = log_e_process(
        sign * differences, sign * mean, low=low, num_items=test.num_items, mode=test.mode
    )
    return _crossing(curve, alpha) < curve.size


def furthest(rejected: Callable[[float], bool], start: float, stop: float) -> float:
    """The furthest mean from `start` towards `stop` that is rejected, else `start`.

    What was rejected at some time: evidence falls from `start` to `stop`, so it is one stretch.
    """
    if not rejected(start):
        return start
    inside, outside = start, stop
    for _ in range(NUM_BISECTIONS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if rejected(middle) else (inside, middle)
    return inside


def _checked(test: SequentialTest, differences: npt.ArrayLike) -> Floats:
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size > test.num_items:
        raise ValueError(f"bad shape {d.shape} for {test.num_items} items")
    if not np.isfinite(d).all():
        raise ValueError("non-finite score")
    if ((d < test.low - SLACK) | (d > test.high + SLACK)).any():
        raise ValueError(f"difference outside [{test.low}, {test.high}]")
    if test.step is not None and off_step(d, test.step).any():
        raise ValueError(f"difference off the declared step {test.step}")
    return np.clip(d, test.low, test.high)


def off_step(values: Floats, step: float) -> npt.NDArray[np.bool_]:
    """Which values are no multiples of the step, up to rounding."""
    return np.abs(values - np.round(values / step) * step) > SLACK


def _curves(test: SequentialTest, d: Floats) -> tuple[Floats, Floats]:
    """Log evidence for PASS and for FAIL after 0, 1, ..., n items: each of shape [n + 1]."""
    at_pass, at_fail = test.edges
    size, mode = test.num_items, test.mode
    passing = log_e_process(d, at_pass, low=test.low, num_items=size, mode=mode)
    failing = log_e_process(-d, -at_fail, low=-test.high, num_items=size, mode=mode)
    return np.append(0.0, passing), np.append(0.0, failing)


def _states(
    test: SequentialTest, d: Floats, curves: tuple[Floats, Floats], bounds: ItemBounds | None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    """After 0, 1, ..., n items, shape [n + 1]: 1 for PASS, -1 FAIL, 0 UNDECIDED; and is it certain?"""
    must_pass, must_fail = _certainties(test, d, bounds)
    pass_at = _crossing(curves[0], test.alpha_pass)
    fail_at = _crossing(curves[1], test.alpha_fail)
    states = np.zeros(d.size + 1, dtype=np.int8)
    # A crossing counts from there on, even if the evidence sinks again; the earlier one wins.
    states[min(pass_at, fail_at) :] = 1 if pass_at <= fail_at else -1
    states[must_pass] = 1
    states[must_fail] = -1
    return states, must_pass | must_fail


def _crossing(curve: Floats, alpha: float) -> int:
    """The first index at which the evidence reaches 1 / alpha, else the length."""
    reached = curve >= -math.log(alpha) - LOG_SLACK
    return int(np.argmax(reached)) if reached.any() else curve.size


def _certainties(
    test: SequentialTest, d: Floats, bounds: ItemBounds | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    if test.mode == "superpopulation":
        never = np.zeros(d.size + 1, dtype=np.bool_)
        return never, never
    smallest, largest = _possible_totals(test, d, bounds)
    return _passes(test, smallest), ~_passes(test, largest)


def _possible_totals(
    test: SequentialTest, d: Floats, bounds: ItemBounds | None
) -> tuple[Floats, Floats]:
    """Smallest and largest total that all N items can still have, after 0, 1, ..., n of them."""
    so_far = np.append(0.0, np.cumsum(d))
    if bounds is None:
        num_left = (test.num_items - np.arange(d.size + 1)).astype(np.float64)
        return so_far + num_left * test.low, so_far + num_left * test.high
    lows, highs = _sums_of_rest(test, bounds.low), _sums_of_rest(test, bounds.high)
    return so_far + lows[: so_far.size], so_far + highs[: so_far.size]


def _sums_of_rest(test: SequentialTest, values: npt.ArrayLike) -> Floats:
    """Shape [N + 1]: sum of all values, of all but the first, ..., of none."""
    v = np.asarray(values, dtype=np.float64)
    if v.shape != (test.num_items,):
        raise ValueError(f"item bounds of shape {v.shape} for {test.num_items} items")
    return np.append(np.cumsum(v[::-1])[::-1], 0.0)


def _passes(test: SequentialTest, totals: Floats) -> npt.NDArray[np.bool_]:
    needed = test.num_items * test.threshold
    slack = SLACK * test.num_items
    return totals > needed + slack if test.strict else totals >= needed - slack


def _bounds(test: SequentialTest, d: Floats, bounds: ItemBounds | None) -> tuple[float, float]:
    lower = furthest(lambda m: rejects(test, d, m, test.alpha_pass), test.low, test.high)
    upper = furthest(
        lambda m: rejects(test, d, m, test.alpha_fail, upward=True), test.high, test.low
    )
    if test.mode == "superpopulation":
        return lower, upper
    # What theta can still be holds for certain, also in the alpha of cases where a bound is wrong.
    smallest, largest = _possible_totals(test, d, bounds)
    least, most = float(smallest[-1]) / test.num_items, float(largest[-1]) / test.num_items
    return min(max(lower, least), most), max(min(upper, most), least)


def _name(code: np.int8) -> State:
    return "PASS" if code > 0 else "FAIL" if code < 0 else "UNDECIDED"
