"""Which scripts a text is written in, by Unicode block."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

SPACE = "space"
SYMBOLS = "digits and symbols"
OTHER = "other"
NOTHING = "nothing"

_RANGES = {
    SPACE: [
        (0x00, 0x20),
        (0x85, 0x85),
        (0xA0, 0xA0),
        (0x2000, 0x200F),
        (0x2028, 0x202F),
        (0x3000,) * 2,
    ],
    SYMBOLS: [(0x21, 0x40), (0x5B, 0x60), (0x7B, 0x7E)],
    "Latin": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)],
    "Greek": [(0x370, 0x3FF), (0x1F00, 0x1FFF)],
    "Cyrillic": [(0x400, 0x52F)],
    "Armenian": [(0x530, 0x58F)],
    "Hebrew": [(0x590, 0x5FF)],
    "Arabic": [(0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)],
    "Devanagari": [(0x900, 0x97F)],
    "Indic": [(0x980, 0xDFF)],
    "Thai": [(0xE00, 0xE7F)],
    "Georgian": [(0x10A0, 0x10FF)],
    "Hangul": [(0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)],
    "Ethiopic": [(0x1200, 0x137F)],
    "Kana": [(0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)],
    "Han": [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)],
}
_NAMES = [OTHER, *_RANGES]


def script_shares(text: str) -> dict[str, float]:
    """Share of each script in the characters that are no space; `nothing` for a text without any.

    Digits and ASCII punctuation are a kind of their own: code and formulas are full of them.
    """
    codes = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
    counts = np.bincount(_script_of_code()[codes], minlength=len(_NAMES))
    counts[_NAMES.index(SPACE)] = 0
    visible = int(counts.sum())
    if visible == 0:
        return {NOTHING: 1.0}
    return {_NAMES[index]: counts[index] / visible for index in np.flatnonzero(counts)}


@cache
def _script_of_code() -> NDArray[np.uint8]:
    """(code points,) indices into _NAMES."""
    table = np.zeros(0x110000, dtype=np.uint8)
    for index, ranges in enumerate(_RANGES.values(), start=1):
        for first, last in ranges:
            table[first : last + 1] = index
    return table
