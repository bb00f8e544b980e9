"""From lm-eval's samples to item scores: identity, metric, bounds."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ct_llm.config import Suite, TaskConfig
from ct_llm.errors import InputError

Sample = Mapping[str, Any]
"""One entry of lm-eval's `samples`: prompt_hash, arguments, resps, metrics and each metric's value."""


@dataclass(frozen=True)
class Scored:
    """One item's outcome for one adapter."""

    score: float
    prompt_hash: str
    prompt: str
    output: str


def item_id(task: str, doc_id: int, doc_hash: str) -> str:
    return f"{task}/{doc_id}/{doc_hash[:16]}"


def read_sample(
    task: str, identity: str, sample: Sample, config: TaskConfig, suite: Suite
) -> Scored:
    """One item's outcome, by the metric that the suite names.

    Raises InputError, naming task and metric, when the metric does not exist, is not one number per
    item (f1, perplexity, ...: lm-eval makes them of all items at once), is NaN, lies outside
    [score_low, score_high] or is no multiple of score_step.
    """
    return Scored(
        score=_score(task, identity, sample, config.metric, suite),
        prompt_hash=sample["prompt_hash"],
        prompt=_prompt(sample),
        output=_output(sample),
    )


def _score(task: str, identity: str, sample: Sample, metric: str, suite: Suite) -> float:
    if metric not in sample["metrics"]:
        raise InputError(
            f"task {task}: no metric {metric!r} per item. It has: "
            f"{', '.join(sorted(sample['metrics'])) or 'none'}."
        )
    value = sample[metric]
    if not isinstance(value, (numbers.Real, np.bool_)):
        raise InputError(
            f"task {task}: metric {metric!r} is not one number per item but "
            f"{type(value).__name__} ({str(value)[:60]}); metrics that only exist for all items "
            "together cannot be gated."
        )
    score = float(value)
    if not math.isfinite(score):
        raise InputError(f"task {task}: item {identity}: metric {metric!r} is {score}.")
    if not suite.score_low <= score <= suite.score_high:
        raise InputError(
            f"task {task}: item {identity}: metric {metric!r} is {score:g}, outside "
            f"[{suite.score_low:g}, {suite.score_high:g}]. Set score_low and score_high in the suite."
        )
    if suite.score_step is not None and _off_step(score, suite.score_step):
        raise InputError(
            f"task {task}: item {identity}: metric {metric!r} is {score:g}, no multiple of the suite's "
            f"score_step {suite.score_step:g}. Correct it, or leave it out."
        )
    return score


def _off_step(score: float, step: float) -> bool:
    return abs(score - round(score / step) * step) > 1e-9


def _prompt(sample: Sample) -> str:
    """The context of the first request; rolling log-likelihoods have none but the text itself."""
    return str(sample["arguments"][0][0])


def _output(sample: Sample) -> str:
    """What the model said: the text, or the likeliest choice with its log-likelihood."""
    first = [responses[0] for responses in sample["resps"]]
    if isinstance(first[0], str):
        return first[0]
    likelihoods = [float(r[0] if isinstance(r, (tuple, list)) else r) for r in first]
    best = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    if len(likelihoods) == 1:
        return f"log-likelihood {likelihoods[0]:.4f}"
    return f"{sample['arguments'][best][1]} (log-likelihood {likelihoods[best]:.4f})"
