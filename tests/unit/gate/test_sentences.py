"""What a maintainer reads, for the cases that a complete evaluation does not show."""

from typing import Any

import pytest

from ct_llm.gate.sentences import Scale, slice_sentence, verdict_sentence
from ct_llm.records import SliceVerdict

POINTS = Scale(percent=True, digits=1)


def verdict(**fields: Any) -> SliceVerdict:
    usual: dict[str, Any] = {
        "slice": "coding",
        "role": "guard",
        "state": "FAIL",
        "num_items": 164,
        "num_used": 60,
        "champion_mean": 0.6,
        "challenger_mean": 0.417,
        "delta": -0.183,
        "lower": -0.3,
        "upper": -0.092,
        "threshold": -0.05,
        "strict": False,
        "evidence": {"alpha_pass": 0.05, "alpha_fail": 0.05 / 3},
        "sentence": "",
    }
    return SliceVerdict(**(usual | fields))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {},
            "coding fell from 60.0 % to 41.7 % (-18.3 points after 60 of 164 items, at most -9.2 "
            "points over all of them with 98.33 % confidence); at most 5.0 points were allowed.",
        ),
        (
            {"state": "PASS", "challenger_mean": 0.7, "delta": 0.1, "lower": 0.01},
            "coding rose from 60.0 % to 70.0 % (+10.0 points after 60 of 164 items, at least +1.0 "
            "points over all of them with 95 % confidence); at most 5.0 points are allowed.",
        ),
        (
            {"state": "UNDECIDED", "challenger_mean": 0.6, "delta": 0.0, "upper": 0.2},
            "coding stayed at 60.0 % (0.0 points after 60 of 164 items, between -30.0 points and "
            "+20.0 points over all of them with 93.33 % confidence); at most 5.0 points are allowed.",
        ),
    ],
)
def test_stopped_early(fields: dict[str, Any], sentence: str):
    assert slice_sentence(verdict(**fields), POINTS) == sentence


@pytest.mark.parametrize(
    ("change", "limit", "said"),
    [
        (-0.05, 0.05, "-5.0 points"),
        (-0.0502, 0.05, "-5.02 points"),
        (-0.00004, 0.05, "-0.004 points"),
        (0.1, 0.0, "+10.0 points"),
    ],
)
def test_numbers_that_differ_look_different(change: float, limit: float, said: str):
    scale = Scale.for_range(0.0, 1.0, [(abs(change), 0.0), (abs(change), limit)])
    assert scale.change(change) == said


# ---------------------------------------------------------------- verdicts before all items are scored


EARLY: dict[str, Any] = {
    "slice": "newest",
    "role": "target",
    "strict": True,
    "threshold": 0.0,
    "champion_mean": 0.5,
}


def rejected(*verdicts: SliceVerdict, **more: Any) -> str:
    told: dict[str, Any] = {
        "overall_rise": None,
        "against_base_model": False,
        "needs_review": False,
        "budget_reached": False,
    }
    scales = {(v.slice, v.role): POINTS for v in verdicts}
    return verdict_sentence("reject", verdicts, scales, **(told | more))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            {},
            "Rejected: coding fell by more than the 5.0 points allowed (-18.3 points after 60 of 164 "
            "items, at most -9.2 points over all of them with 98.33 % confidence).",
        ),
        (
            {"threshold": 0.0},
            "Rejected: coding fell, where no loss is allowed (-18.3 points after 60 of 164 items, at "
            "most -9.2 points over all of them with 98.33 % confidence).",
        ),
        (
            {"role": "anchor", "threshold": 0.0},
            "Rejected: coding is below the anchor, where no loss is allowed (-18.3 points after 60 of "
            "164 items, at most -9.2 points over all of them with 98.33 % confidence).",
        ),
        (
            {"role": "anchor", "threshold": 0.0, "num_used": 164},
            "Rejected: coding is 18.3 points below the anchor, where no loss is allowed.",
        ),
        (
            EARLY | {"delta": 0.01, "upper": 0.02, "threshold": 0.03},
            "Rejected: newest did not improve by more than the 3.0 points needed (+1.0 points after "
            "60 of 164 items, at most +2.0 points over all of them with 98.33 % confidence).",
        ),
        (
            EARLY | {"delta": -0.1, "upper": -0.02},
            "Rejected: newest did not improve (-10.0 points after 60 of 164 items, at most -2.0 "
            "points over all of them with 98.33 % confidence).",
        ),
    ],
)
def test_what_was_at_fault_early(fields: dict[str, Any], sentence: str):
    assert rejected(verdict(**fields)) == sentence


def test_a_distribution_is_not_its_items():
    """With all items scored, the mean of these items is exact, but that was not the question."""
    population = {"mode": "superpopulation", "alpha_pass": 0.05, "alpha_fail": 0.05}
    one = verdict(num_used=164, evidence=population)
    assert slice_sentence(one, POINTS) == (
        "coding fell from 60.0 % to 41.7 % (-18.3 points after 164 of 164 items, at most -9.2 points "
        "for items like these with 95 % confidence); at most 5.0 points were allowed."
    )
    assert "fell by more than the 5.0 points allowed" in rejected(one)


def test_a_gain_over_the_base_model_that_was_seen_early():
    gained = verdict(**(EARLY | {"state": "PASS", "delta": 0.1, "lower": 0.02}))
    sentence = verdict_sentence(
        "promote",
        [gained],
        {("newest", "target"): POINTS},
        overall_rise=None,
        against_base_model=True,
        needs_review=False,
        budget_reached=False,
    )
    assert sentence == (
        "Promote: newest improved over the base model (+10.0 points after 60 of 164 items, at least "
        "+2.0 points over all of them with 95 % confidence); it is the only slice."
    )
