from datetime import timedelta

import pytest

from ct_llm.durations import format_duration, parse_duration, say_duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1_800), ("1.5h", 5_400), ("14d", 1_209_600), (7, 7)]
)
def test_durations_come_back_as_they_were_meant(text, seconds):
    found = parse_duration(text)
    assert found == timedelta(seconds=seconds)
    assert parse_duration(format_duration(found)) == found


@pytest.mark.parametrize("text", ["", "14", "-1d", "1 d", "d", "1y", None, True, -1, [1]])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 seconds"),
        (1.9, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (7_300, "2 hours"),
        (86_400, "1 day"),
        (1_209_600, "14 days"),
    ],
)
def test_about_how_long(seconds, said):
    assert say_duration(seconds) == said
