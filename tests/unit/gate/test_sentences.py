"""What a maintainer reads, for the cases that a complete evaluation does not show."""

from typing import Any

import pytest

from ct_llm.gate.sentences import Scale, slice_sentence
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
            {"state": "UNDECIDED", "challenger_mean": 0.6, "delta": 0.0},
            "coding stayed at 60.0 % (0.0 points after 60 of 164 items); "
            "at most 5.0 points are allowed.",
        ),
    ],
)
def test_stopped_early(fields: dict[str, Any], sentence: str):
    assert slice_sentence(verdict(**fields), POINTS, 0.05, 0.05 / 3) == sentence


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
