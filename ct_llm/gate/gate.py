"""Scores in, verdict out: promote, reject or inconclusive, with the evidence of every slice.

The target must improve, no other slice may lose more than its tolerance, and none more than a
multiple of it against the frozen anchor. Every slice is a test of its own: a mean over slices can
rise while one of them breaks, so it is printed and decided on only where the config says so.

The verdict is a function of the scored prefixes, by the same tests as the stopping rule: what let
the evaluation stop is what is found here.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence

from ct_llm.config import OVERALL_TARGETS, GateConfig
from ct_llm.errors import ConfigError
from ct_llm.gate.damage import damaged_items
from ct_llm.gate.observed import Observed, observed
from ct_llm.gate.pairs import ScoredSlice, pair_items
from ct_llm.gate.sentences import Scale, count_items, slice_sentence, verdict_sentence
from ct_llm.gate.sequential import SLACK, Floats, SequentialState, first_decision
from ct_llm.gate.slice_tests import SliceTest, in_percent, plan_tests, target_name
from ct_llm.gate.stopping import check_floor, report_of
from ct_llm.gate.summaries import describe, wins_losses_ties
from ct_llm.records import (
    EvalResult,
    GateDecision,
    ItemScore,
    OrderedItem,
    SliceScores,
    SliceState,
    SliceVerdict,
    Verdict,
)

Evidence = dict[str, float | int | str | bool | None]
Key = tuple[str, str]
"""Slice and role: an anchor guard has the name of its slice."""

SAVES_LITTLE = 300
"""A slice of fewer items needs most of them, whatever the difference is (simulated: 61 % to 93 % of
164 items, 34 % to 86 % of 541)."""


def gate(
    config: GateConfig,
    result: EvalResult,
    items: Sequence[OrderedItem],
    scores: Sequence[ItemScore],
) -> GateDecision:
    """Decide whether the challenger may replace the champion.

    config: with the target named (`config.resolve_target`). items: all of them, in the one random
    order. scores: of every side, of the first `num_scored` items of each slice's order, in any order;
    the champion's and the anchor's may go on beyond. Fewer than all items are enough where the tests
    are decided: then the verdict is that of the full evaluation but for a probability of at most
    `config.alpha`. Over all items it is exact.

    Raises ConfigError when the target is no slice or a slice is empty, InputError when items or scores
    are incomplete, out of order or not what the suites declare, naming slice and item. Method:
    `sequential`, `slice_tests`.
    """
    _check_target(config, result)
    scored = pair_items(result, items, scores)
    order = [item.slice for item in items]
    prefixes = {name: s.prefix for name, s in scored.items()}

    tests = plan_tests(config, result.slices)
    decided: list[SliceVerdict] = []
    scales: dict[Key, Scale] = {}
    for test in _with_not_evaluated(config, result.slices, tests):
        if isinstance(test, SliceScores):
            verdict = _not_evaluated(config, test)
        else:
            seen = observed(test, order, prefixes)
            verdict = _decide(config, result, items, test, seen, scored)
        scales[verdict.slice, verdict.role] = _scale(verdict)
        decided.append(verdict)

    needs_review = result.champion_digest is None and config.without_champion == "review"
    floors = [v.floor_met for v in decided if v.floor is not None and v.state != "NOT_EVALUATED"]
    verdict = decide_verdict([v.state for v in decided], floors, needs_review)
    undecided = any(v.state == "UNDECIDED" for v in decided) or None in floors
    budget_reached = verdict == "inconclusive" and undecided and result.stopped == "budget"

    slices = tuple(
        v.model_copy(update={"sentence": slice_sentence(v, scales[v.slice, v.role])})
        for v in decided
    )
    overall = _overall_means(slices)
    sentence = verdict_sentence(
        verdict,
        slices,
        scales,
        overall_rise=_overall_rise(overall, slices),
        against_base_model=result.champion_digest is None,
        needs_review=needs_review,
        budget_reached=budget_reached,
    )
    return GateDecision(
        verdict=verdict,
        sentence=sentence,
        slices=slices,
        overall_champion_mean=overall[0],
        overall_challenger_mean=overall[1],
        alpha=config.alpha,
        challenger_digest=result.challenger_digest,
        champion_revision=result.champion_revision,
        champion_digest=result.champion_digest,
        anchor_revision=result.anchor_revision,
        anchor_digest=result.anchor_digest,
        mode=config.mode,
        budget_reached=budget_reached,
        items_digest=result.items_digest,
        scores_digest=result.scores_digest,
        damaged_items=damaged_items(slices, scored, config.num_damaged_items),
    )


def decide_verdict(
    states: Sequence[SliceState], floors: Sequence[bool | None] = (), needs_review: bool = False
) -> Verdict:
    """One fault rejects; without any, everything must have been decided to promote.

    floors: of every slice that has one, is it met (None: still open)? Looked at before all items are
    scored, "inconclusive" means: go on with what is undecided.
    """
    if "FAIL" in states or False in floors:
        return "reject"
    if needs_review or None in floors or any(state != "PASS" for state in states):
        return "inconclusive"
    return "promote"


def _check_target(config: GateConfig, result: EvalResult) -> None:
    target, names = target_name(config), [s.slice for s in result.slices]
    if not names or (target not in names and target not in OVERALL_TARGETS):
        raise ConfigError(
            f"gate.target: no slice {target!r} was evaluated. Slices: {', '.join(names) or 'none'}."
        )


def _with_not_evaluated(
    config: GateConfig, slices: Sequence[SliceScores], tests: Sequence[SliceTest]
) -> list[SliceTest | SliceScores]:
    """The slices in their order, whether they have a test or not; then the other tests."""
    of_slice = {t.slice: t for t in tests if t.role != "anchor" and not t.is_overall}
    others = [t for t in tests if t.role == "anchor" or t.is_overall]
    return [of_slice.get(s.slice, s) for s in slices] + others


def _not_evaluated(config: GateConfig, scores: SliceScores) -> SliceVerdict:
    is_target = scores.slice == target_name(config)
    return SliceVerdict(
        slice=scores.slice,
        role="target" if is_target else "guard",
        state="NOT_EVALUATED",
        num_items=scores.num_items,
        num_used=0,
        champion_mean=None,
        challenger_mean=None,
        delta=None,
        lower=None,
        upper=None,
        threshold=config.min_gain if is_target else -scores.tolerance,
        strict=is_target,
        floor=scores.floor,
        in_percent=in_percent(scores),
        evidence={"not_evaluated": scores.not_evaluated},
        sentence="",
    )


def _decide(
    config: GateConfig,
    result: EvalResult,
    items: Sequence[OrderedItem],
    test: SliceTest,
    seen: Observed,
    scored: Mapping[str, ScoredSlice],
) -> SliceVerdict:
    """Everything about one test but its sentence."""
    state, report = report_of(test, seen)
    wins, losses, ties = wins_losses_ties(seen.differences)
    own = None if test.role == "anchor" or test.is_overall else scored[test.slice].prefix
    return SliceVerdict(
        slice=test.slice,
        role=test.role,
        state=state,
        num_items=test.test.num_items,
        num_used=report.num_used,
        champion_mean=_mean(seen.before),
        challenger_mean=_mean(seen.after),
        delta=report.mean,
        lower=report.lower,
        upper=report.upper,
        threshold=test.test.threshold,
        strict=test.test.strict,
        floor=None if own is None else own.scores.floor,
        floor_met=None if own is None else check_floor(own),
        in_percent=test.in_percent,
        wins=wins,
        losses=losses,
        ties=ties,
        evidence=_evidence(config, result, items, test, seen, report),
        sentence="",
    )


def _evidence(
    config: GateConfig,
    result: EvalResult,
    items: Sequence[OrderedItem],
    test: SliceTest,
    seen: Observed,
    report: SequentialState,
) -> Evidence:
    one = test.test
    in_clusters = one.mode == "superpopulation" and seen.clusters is not None
    decided = None
    if not in_clusters and not test.certain_only:
        # Once all items are scored, nobody knows any more whether the champion's were before.
        known = None if report.num_used == one.num_items else seen.item_bounds
        decided = first_decision(one, seen.differences, item_bounds=known)
    evidence: Evidence = {
        "mode": one.mode,
        "order_seed": result.order_seed,
        "order_digest": _order_digest(items, test.members),
        "fraction_used": report.num_used / one.num_items,
        "certain": report.certain,
        # The items that were enough: where a run that looks after every item could have stopped.
        "decided_after": None if decided is None else decided.num_used,
        "step": one.step,
        "low": one.low,
        "high": one.high,
        "alpha_pass": one.alpha_pass,
        "alpha_fail": one.alpha_fail,
        "log_e_pass": _json_number(report.log_e_pass),
        "log_e_fail": _json_number(report.log_e_fail),
        "p_pass": report.p_pass,
        "p_fail": report.p_fail,
    }
    if test.is_overall:
        evidence["slices"] = ", ".join(test.members)
        evidence["factors"] = ", ".join(f"{factor:.9g}" for factor in test.factors)
    if one.mode == "finite" and one.num_items < SAVES_LITTLE and not test.certain_only:
        evidence["note"] = (
            f"{count_items(one.num_items)}: a small slice needs most of them to be decided"
        )
    n = seen.differences.size
    if n:
        evidence |= describe(
            seen.differences,
            one.num_items,
            confidence=1 - config.alpha,
            clusters=None if seen.clusters is None else seen.clusters[:n],
        )
    return evidence


def _order_digest(items: Sequence[OrderedItem], slices: Sequence[str]) -> str:
    """sha256 of the slices' item ids in their order, joined by NUL."""
    ids = "\0".join(item.item_id for item in items if item.slice in slices)
    return hashlib.sha256(ids.encode()).hexdigest()


def _scale(verdict: SliceVerdict) -> Scale:
    delta, mean = verdict.delta or 0.0, verdict.challenger_mean or 0.0
    apart = [(abs(delta), 0.0), (abs(delta), abs(verdict.threshold))]
    if verdict.floor is not None:
        apart.append((mean, verdict.floor))
    return Scale.telling_apart(verdict.in_percent, apart)


def _overall_means(slices: Sequence[SliceVerdict]) -> tuple[float | None, float | None]:
    """Champion's and challenger's mean over the evaluated guards, each of the same weight.

    None where a guard has no score yet: a mean over the others would be of another model.
    """
    guards = [s for s in slices if s.role == "guard" and s.state != "NOT_EVALUATED"]
    if any(s.challenger_mean is None for s in guards):
        return None, None
    champion = [s.champion_mean for s in guards if s.champion_mean is not None]
    challenger = [s.challenger_mean for s in guards if s.challenger_mean is not None]
    return _mean(champion), _mean(challenger)


def _overall_rise(
    overall: tuple[float | None, float | None], slices: Sequence[SliceVerdict]
) -> str | None:
    """How much the mean of guards rose, in words; None if it did not.

    Nor with a pooled or weighted target: that has a mean of its own, and two would be confused.
    """
    champion, challenger = overall
    if any(s.slice in OVERALL_TARGETS for s in slices):
        return None
    if champion is None or challenger is None or challenger - champion <= SLACK:
        return None
    percent = all(s.in_percent for s in slices if s.role == "guard")
    rise = challenger - champion
    return Scale.telling_apart(percent, [(rise, 0.0)]).size(rise)


def _mean(values: Sequence[float] | Floats) -> float | None:
    # fsum: the same to the last bit in whatever order the items come.
    return math.fsum(values) / len(values) if len(values) else None


def _json_number(value: float) -> float | str:
    """JSON has no infinity; `float("inf")` reads this one back."""
    return value if math.isfinite(value) else str(value)
