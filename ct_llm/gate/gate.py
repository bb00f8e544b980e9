"""Scores in, verdict out: promote, reject or inconclusive, with the evidence of every slice.

The target slice must improve and no other slice may lose more than its tolerance. Every slice is a
test of its own: a mean over slices can rise while one of them breaks, so it is printed and never
decided on.
"""

import math
from collections.abc import Sequence

from ct_llm.config import GateConfig
from ct_llm.errors import ConfigError
from ct_llm.gate.pairs import Pairs, pair_items
from ct_llm.gate.sentences import Scale, slice_sentence, verdict_sentence
from ct_llm.gate.sequential import (
    SLACK,
    Floats,
    SequentialState,
    SequentialTest,
    decide,
    first_decision,
)
from ct_llm.gate.summaries import describe, wins_losses_ties
from ct_llm.records import (
    DamagedItem,
    EvalResult,
    GateDecision,
    ItemScore,
    SliceScores,
    SliceState,
    SliceVerdict,
    Verdict,
)

Evidence = dict[str, float | int | str | bool | None]


def gate(config: GateConfig, result: EvalResult, scores: Sequence[ItemScore]) -> GateDecision:
    """Decide whether the challenger may replace the champion.

    scores: both adapters' score of every item of every evaluated slice, in the slice's random order.
    The order matters only for the evidence; with all items scored the verdict is exact.

    Raises ConfigError when the target is no slice or a slice is empty, InputError when the scores
    are incomplete or not what the suites declare, naming slice and item. Method: `sequential`.
    """
    _check_target(config, result)
    pairs = pair_items(result.slices, scores)

    decided = [_decide_slice(config, s, pairs.get(s.slice), result) for s in result.slices]

    needs_review = result.champion_digest is None and config.without_champion == "review"
    floors_met = all(s.floor_met is not False for s in decided)
    verdict = decide_verdict([s.state for s in decided], floors_met, needs_review)

    scales = {v.slice: _scale(s, v) for s, v in zip(result.slices, decided, strict=True)}
    alphas = config.alpha, _alpha_fail(config, result)
    slices = tuple(
        v.model_copy(update={"sentence": slice_sentence(v, scales[v.slice], *alphas)})
        for v in decided
    )
    overall = _overall_means(slices)
    sentence = verdict_sentence(
        verdict,
        slices,
        scales,
        overall_rise=_overall_rise(overall, scales, slices),
        against_base_model=result.champion_digest is None,
        needs_review=needs_review,
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
        scores_digest=result.scores_digest,
        damaged_items=_damaged_items(slices, pairs, config.num_damaged_items),
    )


def decide_verdict(
    states: Sequence[SliceState], floors_met: bool = True, needs_review: bool = False
) -> Verdict:
    """One fault rejects; without any, everything must have been decided to promote.

    Looked at before all items are scored, "inconclusive" means: go on with the undecided slices.
    """
    if "FAIL" in states or not floors_met:
        return "reject"
    if needs_review or any(state != "PASS" for state in states):
        return "inconclusive"
    return "promote"


def _check_target(config: GateConfig, result: EvalResult) -> None:
    names = [s.slice for s in result.slices]
    if config.target not in names:
        raise ConfigError(
            f"gate.target: no slice {config.target!r} was evaluated. "
            f"Slices: {', '.join(names) or 'none'}."
        )


def _alpha_fail(config: GateConfig, result: EvalResult) -> float:
    """PASS may take the whole risk alpha, FAIL only this share of it.

    A wrong promotion needs one particular failing slice to pass (an intersection-union test), while
    a wrong rejection needs any of the slices to fail. So each happens with probability <= alpha.
    """
    return config.alpha / len(result.slices)


def _decide_slice(
    config: GateConfig, scores: SliceScores, pairs: Pairs | None, result: EvalResult
) -> SliceVerdict:
    """Everything about one slice but its sentence."""
    is_target = scores.slice == config.target
    role = "target" if is_target else "guard"
    threshold = config.min_gain if is_target else -scores.tolerance
    if pairs is None:
        return SliceVerdict(
            slice=scores.slice,
            role=role,
            state="NOT_EVALUATED",
            num_items=scores.num_items,
            num_used=0,
            champion_mean=None,
            challenger_mean=None,
            delta=None,
            lower=None,
            upper=None,
            threshold=threshold,
            strict=is_target,
            floor=scores.floor,
            in_percent=_in_percent(scores),
            evidence={"not_evaluated": scores.not_evaluated},
            sentence="",
        )

    width = scores.score_high - scores.score_low
    test = SequentialTest(
        num_items=scores.num_items,
        threshold=threshold,
        strict=is_target,
        low=-width,
        high=width,
        step=scores.score_step,
        alpha_pass=config.alpha,
        alpha_fail=_alpha_fail(config, result),
    )
    state = decide(test, pairs.differences)
    wins, losses, ties = wins_losses_ties(pairs.differences)
    descriptive = describe(pairs.differences, scores.num_items, confidence=1 - config.alpha)
    challenger_mean = _mean(pairs.challenger_scores)
    return SliceVerdict(
        slice=scores.slice,
        role=role,
        state=state.state,
        num_items=scores.num_items,
        num_used=state.num_used,
        champion_mean=_mean(pairs.champion_scores),
        challenger_mean=challenger_mean,
        delta=state.mean,
        lower=state.lower,
        upper=state.upper,
        threshold=threshold,
        strict=is_target,
        floor=scores.floor,
        in_percent=_in_percent(scores),
        floor_met=None if scores.floor is None else challenger_mean >= scores.floor - SLACK,
        wins=wins,
        losses=losses,
        ties=ties,
        evidence=_evidence(test, state, scores, pairs.differences) | descriptive,
        sentence="",
    )


def _evidence(
    test: SequentialTest, state: SequentialState, scores: SliceScores, differences: Floats
) -> Evidence:
    decided = first_decision(test, differences)
    return {
        "mode": test.mode,
        "order_seed": scores.order_seed,
        "order_digest": scores.order_digest,
        "fraction_used": state.num_used / test.num_items,
        "certain": state.certain,
        # The items that were enough: where a run that looks after every item could have stopped.
        "decided_after": None if decided is None else decided.num_used,
        "step": test.step,
        "alpha_pass": test.alpha_pass,
        "alpha_fail": test.alpha_fail,
        "log_e_pass": _json_number(state.log_e_pass),
        "log_e_fail": _json_number(state.log_e_fail),
        "p_pass": state.p_pass,
        "p_fail": state.p_fail,
    }


def _in_percent(scores: SliceScores) -> bool:
    return (scores.score_low, scores.score_high) == (0.0, 1.0)


def _scale(scores: SliceScores, verdict: SliceVerdict) -> Scale:
    delta, mean = verdict.delta or 0.0, verdict.challenger_mean or 0.0
    apart = [(abs(delta), 0.0), (abs(delta), abs(verdict.threshold))]
    if verdict.floor is not None:
        apart.append((mean, verdict.floor))
    return Scale.for_range(scores.score_low, scores.score_high, apart)


def _overall_means(slices: Sequence[SliceVerdict]) -> tuple[float | None, float | None]:
    """Champion's and challenger's mean over the evaluated guards, each of the same weight."""
    guards = [s for s in slices if s.role == "guard"]
    champion = [s.champion_mean for s in guards if s.champion_mean is not None]
    challenger = [s.challenger_mean for s in guards if s.challenger_mean is not None]
    if not guards or not champion:
        return None, None
    return _mean(champion), _mean(challenger)


def _overall_rise(
    overall: tuple[float | None, float | None],
    scales: dict[str, Scale],
    slices: Sequence[SliceVerdict],
) -> str | None:
    """How much the mean of the guards rose, in words; None if it did not."""
    champion, challenger = overall
    if champion is None or challenger is None or challenger - champion <= SLACK:
        return None
    percent = all(scales[s.slice].percent for s in slices if s.role == "guard")
    rise = challenger - champion
    return Scale.telling_apart(percent, [(rise, 0.0)]).size(rise)


def _damaged_items(
    slices: Sequence[SliceVerdict], pairs: dict[str, Pairs], limit: int
) -> tuple[DamagedItem, ...]:
    """The largest losses: those of slices at fault first, equal ones in item order."""
    ranked: list[tuple[bool, float, str, int]] = []
    for verdict in slices:
        if verdict.slice not in pairs:
            continue
        blameless = verdict.state != "FAIL" and verdict.floor_met is not False
        for index, delta in enumerate(pairs[verdict.slice].differences):
            if delta < -SLACK:
                # Rounded, or 0.3 - 0.1 and 0.4 - 0.2 would not be equal losses.
                ranked.append((blameless, round(float(delta), 9), verdict.slice, index))
    ranked.sort(key=lambda loss: loss[:2])
    return tuple(
        DamagedItem(
            slice=name,
            item_id=pairs[name].challenger[index].item_id,
            delta=delta,
            prompt=pairs[name].challenger[index].prompt,
            champion_output=pairs[name].champion[index].output,
            challenger_output=pairs[name].challenger[index].output,
        )
        for _, delta, name, index in ranked[:limit]
    )


def _mean(values: Sequence[float] | Floats) -> float:
    # fsum: the same to the last bit in whatever order the items come.
    return math.fsum(values) / len(values)


def _json_number(value: float) -> float | str:
    """JSON has no infinity; `float("inf")` reads this one back."""
    return value if math.isfinite(value) else str(value)
