"""What is asked of an evaluation: its guards, its target and its anchor guards, as tests.

    guard    theta >= -tolerance, of every slice that is not the target
    target   theta > min_gain: of one slice, of all items alike (pooled), or of the slices by weight
    anchor   theta >= -factor * tolerance against the frozen anchor instead of the champion

A challenger is promoted when all of them pass and rejected when any fails. A wrong promotion needs
one particular failing test to pass (an intersection-union test), so each may pass wrongly with
probability alpha; a wrong rejection needs any of the K tests to fail, so each may fail wrongly with
alpha / K. Either verdict is then wrong with probability at most alpha.

The tests follow from the config and from what the suites declare, before any score is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ct_llm.config import OVERALL_TARGETS, GateConfig
from ct_llm.errors import ConfigError
from ct_llm.gate.sequential import Mode, SequentialTest
from ct_llm.records import SliceScores

Role = Literal["guard", "target", "anchor"]


@dataclass(frozen=True, kw_only=True)
class SliceTest:
    """One test of the gate."""

    slice: str
    """`pooled` or `weighted` for an overall target."""
    role: Role
    """anchor: the differences are challenger minus anchor; else challenger minus champion."""
    members: tuple[str, ...]
    """The slices whose items it is about: one, but for an overall target."""
    factors: tuple[float, ...]
    """By how much a difference of each member is multiplied: 1, but for a weighted target."""
    test: SequentialTest
    in_percent: bool
    """Scores lie in [0, 1], so people read them in percent and points."""
    certain_only: bool
    """Only what no score to come could change counts: no risk is taken (`gate.mode: full`)."""

    @property
    def is_overall(self) -> bool:
        return self.slice in OVERALL_TARGETS


def target_name(config: GateConfig) -> str:
    """`config.resolve_target` names it before the first score; unnamed, it is `newest`."""
    return config.target or "newest"


def plan_tests(config: GateConfig, slices: Sequence[SliceScores]) -> tuple[SliceTest, ...]:
    """Every test of the slices that are evaluated: theirs in their order, an overall target, anchors.

    There is no target among them when the target slice is not evaluated. Raises ConfigError for a
    slice without items, without a range of scores, and where no slice has a weight.
    """
    there = [s for s in slices if s.not_evaluated is None]
    for scores in there:
        _check(scores)
    target = target_name(config)
    overall = target in OVERALL_TARGETS
    num_tests = len(there) + (overall and bool(there)) + sum(s.against_anchor for s in there)

    def test(scores: SliceScores, role: Role, threshold: float) -> SliceTest:
        width = scores.score_high - scores.score_low
        return SliceTest(
            slice=scores.slice,
            role=role,
            members=(scores.slice,),
            factors=(1.0,),
            test=_sequential(
                config,
                num_tests,
                num_items=scores.num_items,
                threshold=threshold,
                width=width,
                step=scores.score_step,
                alpha=scores.alpha,
                strict=role == "target",
            ),
            in_percent=in_percent(scores),
            certain_only=config.mode == "full",
        )

    tests = [
        test(s, "target", config.min_gain) if s.slice == target else test(s, "guard", -s.tolerance)
        for s in there
    ]
    if overall and there:
        tests.append(_overall_target(config, target, there, num_tests))
    tests += [
        test(s, "anchor", -config.anchor_tolerance_factor * s.tolerance)
        for s in there
        if s.against_anchor
    ]
    return tuple(tests)


def in_percent(scores: SliceScores) -> bool:
    return (scores.score_low, scores.score_high) == (0.0, 1.0)


def _check(scores: SliceScores) -> None:
    if scores.num_items < 1:
        raise ConfigError(
            f"{scores.slice}: the slice has no items. Give its suite some, or drop it."
        )
    if not scores.score_low < scores.score_high:
        raise ConfigError(
            f"{scores.slice}: score_low {scores.score_low:g} must be below score_high "
            f"{scores.score_high:g}."
        )


def _overall_target(
    config: GateConfig, target: str, slices: Sequence[SliceScores], num_tests: int
) -> SliceTest:
    """One test on the union of the slices' items, each slice in the order induced by the union's.

    pooled: every item counts alike. weighted: theta = sum of w_k theta_k, as the mean of y_i =
    d_i w_k N / N_k. A slice of weight 0 takes no part in either.
    """
    members = [s for s in slices if s.weight > 0]
    if not members:
        raise ConfigError(
            f"gate.target: {target} needs a slice with a weight above 0, but all evaluated slices "
            "have weight 0."
        )
    num_items = sum(s.num_items for s in members)
    total_weight = sum(s.weight for s in members)
    if target == "weighted":
        factors = [s.weight / total_weight * num_items / s.num_items for s in members]
    else:
        factors = [1.0] * len(members)
    widths = [
        factor * (s.score_high - s.score_low) for factor, s in zip(factors, members, strict=True)
    ]
    steps = {s.score_step for s in members}
    return SliceTest(
        slice=target,
        role="target",
        members=tuple(s.slice for s in members),
        factors=tuple(factors),
        test=_sequential(
            config,
            num_tests,
            num_items=num_items,
            threshold=config.min_gain,
            width=max(widths),
            # Multiples of one step only where every item counts alike.
            step=steps.pop() if target == "pooled" and len(steps) == 1 else None,
            alpha=None,
            strict=True,
        ),
        in_percent=all(in_percent(s) for s in members),
        certain_only=config.mode == "full",
    )


def _sequential(
    config: GateConfig,
    num_tests: int,
    *,
    num_items: int,
    threshold: float,
    width: float,
    step: float | None,
    alpha: float | None,
    strict: bool,
) -> SequentialTest:
    mode: Mode = "superpopulation" if config.mode == "population" else "finite"
    return SequentialTest(
        num_items=num_items,
        threshold=threshold,
        strict=strict,
        low=-width,
        high=width,
        step=step if mode == "finite" else None,
        alpha_pass=config.alpha if alpha is None else alpha,
        alpha_fail=config.alpha / num_tests,
        mode=mode,
    )
