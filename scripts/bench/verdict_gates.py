"""Many gates on scores that are there: what share of the items they look at, how often they are wrong.

No model runs here. The rule and the gate are the product's own, batch after batch.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ct_llm.config import GateConfig
from ct_llm.gate.stopping import stopping_rule
from ct_llm.records import SlicePrefix, SliceScores
from scripts.bench.figures import Figure, say

ALPHA = 0.05
A4_BATCH = 16
A4 = {164: 0.72, 541: 0.46, 1319: 0.27, 5000: 0.11}
"""Items to the largest mean share of them: true gain 3 points, 10 % discordant, tolerance 1."""
A4_AT_ONE_PERCENT = (1319, 0.35)
A4_NINE_OF_TEN = (1319, 0.45)
Scores = Sequence[tuple[float, float]]
"""(champion, challenger) of every item."""


def share_of_items(num_gates: int) -> Iterator[Figure]:
    """The acceptance test A4 of the gate, with its populations."""
    for num_items, reach in A4.items():
        shares = _shares(num_items, num_gates, ALPHA)
        name = f"share of N = {num_items:,} used, gain 3, tolerance 1"
        yield Figure(f"{name}: mean of {num_gates:,} gates", float(np.mean(shares)), reach)
        if num_items == A4_NINE_OF_TEN[0]:
            at_most = float(np.quantile(shares, 0.9))
            yield Figure("… in nine of ten gates at most", at_most, A4_NINE_OF_TEN[1])
    num_items, reach = A4_AT_ONE_PERCENT
    shares = _shares(num_items, num_gates, 0.01)
    yield Figure(f"share of N = {num_items:,} used, alpha 0.01", float(np.mean(shares)), reach)


def _shares(num_items: int, num_gates: int, alpha: float) -> list[float]:
    wins, losses = round(0.065 * num_items), round(0.035 * num_items)
    ties = num_items - wins - losses
    scores: Scores = [(0.0, 1.0)] * wins + [(1.0, 0.0)] * losses + [(1.0, 1.0)] * ties
    config = GateConfig(alpha=alpha, target="another")  # so this slice is a guard
    rng = np.random.default_rng(num_items)
    shares: list[float] = []
    for _ in range(num_gates):
        used, _ = run_gate(config, shuffled(scores, rng), batch=A4_BATCH)
        shares.append(used / num_items)
    return shares


def false_promotions(scores: Scores, num_gates: int, batch: int = 64) -> Iterator[Figure]:
    """A/A: two models of the same data and other seeds; the target asks for strictly more.

    Twice. Balanced: the surplus of wins or losses is left out, so the models are equal on the whole
    population to the item, which is the boundary, where a false promotion is likeliest. Swapped: for
    each gate a coin decides for every item which model is the challenger; a promotion is false when
    the gate over all items would not promote.
    """
    rng = np.random.default_rng(0)
    wins = [n for n, (old, new) in enumerate(scores) if new > old]
    losses = [n for n, (old, new) in enumerate(scores) if new < old]
    rest = [n for n, (old, new) in enumerate(scores) if new == old]
    pairs = min(len(wins), len(losses))
    say(f"A/A: {len(scores):,} items, {len(wins)} wins, {len(losses)} losses")
    balanced = [scores[n] for n in [*wins[:pairs], *losses[:pairs], *rest]]
    config = GateConfig(alpha=ALPHA, target="reasoning", min_gain=0.0)
    for name, population, swap in (("balanced", balanced, False), ("swapped", scores, True)):
        wrong = 0
        for _ in range(num_gates):
            order = shuffled(population, rng)
            if swap:
                coins = rng.random(len(order)) < 0.5
                order = [
                    (b, a) if coin else (a, b) for (a, b), coin in zip(order, coins, strict=True)
                ]
            _, promoted = run_gate(config, order, batch=batch)
            wrong += promoted and sum(new - old for old, new in order) <= 0
        lower, upper = clopper_pearson(wrong, num_gates)
        disagree = 2 * pairs / len(balanced)
        yield Figure(f"A/A {name}, {num_gates:,} gates: false promotions", wrong / num_gates, ALPHA)
        yield Figure("… 95 % interval, from", lower, None)
        yield Figure("… 95 % interval, to", upper, None)
        yield Figure("… items on which the two disagree, share", disagree, None)


def run_gate(config: GateConfig, scores: Scores, *, batch: int) -> tuple[int, bool]:
    """Items scored until the rule wants no more, and whether the slice's own test passes then."""
    from ct_llm.gate.observed import observed
    from ct_llm.gate.slice_tests import plan_tests
    from ct_llm.gate.stopping import state_of

    rule, order = stopping_rule(config), ["reasoning"] * len(scores)
    num_scored = 0
    while True:
        prefix = _prefix(scores, num_scored)
        if not rule(order, [prefix]):
            break
        num_scored = min(num_scored + batch, len(scores))
    (test,) = plan_tests(config, [prefix.scores])
    return num_scored, state_of(test, observed(test, order, {"reasoning": prefix})) == "PASS"


def _prefix(scores: Scores, num_scored: int) -> SlicePrefix:
    about = SliceScores(
        slice="reasoning",
        tasks=("demo_reasoning",),
        num_items=len(scores),
        num_scored=num_scored,
        tolerance=0.01,
        score_step=1.0,
    )
    champion, challenger = zip(*scores, strict=True)
    return SlicePrefix(about, champion[:num_scored], challenger[:num_scored])


def shuffled(scores: Scores, rng: np.random.Generator) -> list[tuple[float, float]]:
    return [scores[place] for place in rng.permutation(len(scores))]


# ---------------------------------------------------------------- an exact interval


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a share (Clopper and Pearson, 1934), by bisection."""
    tail = (1 - confidence) / 2

    def at_most(share: float, count: int) -> float:
        logs = [
            math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
            + k * math.log(share) + (trials - k) * math.log1p(-share)
            for k in range(count + 1)
        ]  # fmt: skip
        return math.fsum(math.exp(log) for log in logs)

    def where(reached: float, count: int) -> float:
        low, high = 1e-12, 1 - 1e-12
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(middle, count) > reached else (low, middle)
        return high

    lower = 0.0 if hits == 0 else where(1 - tail, hits - 1)
    upper = 1.0 if hits == trials else where(tail, hits)
    return lower, upper
