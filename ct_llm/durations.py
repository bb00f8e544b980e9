"""Durations as people write them: `90s`, `30m`, `12h`, `14d`, `2w`."""

import re
from datetime import timedelta
from typing import Any

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_duration(value: Any) -> Any:
    """A timedelta from `12h`, or from a number of seconds. Raises ValueError."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e10:
        return timedelta(seconds=value)
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhdw])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration such as 30m, 12h, 14d or 2w")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def format_duration(value: timedelta) -> str:
    """The shortest exact form that `parse_duration` reads back."""
    seconds = value.total_seconds()
    for unit in "wdhm":
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s"


def say_duration(seconds: float) -> str:
    """About how long, for a sentence: `2 days`, `3 hours`, `1 minute`."""
    names = {"d": "day", "h": "hour", "m": "minute", "s": "second"}
    unit = next((unit for unit in "dhm" if seconds >= _SECONDS[unit]), "s")
    count = int(seconds // _SECONDS[unit])
    return f"{count} {names[unit]}{'s' * (count != 1)}"
