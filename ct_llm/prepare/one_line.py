"""Other people's text within a line of ours: whatever it holds, a terminal shows it and obeys none of it."""

_ELLIPSIS = "…"
_LINE_ENDS = "\n\r\t\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029"
"""What Python counts as blank and is more than a blank of some width."""


def one_line(text: str, max_chars: int = 200) -> str:
    """The text on one line of at most `max_chars` characters.

    Control characters (terminal escape sequences begin with one), line ends, and characters that
    reorder or hide text stand as escapes such as `\\x1b`, `\\n` and `\\u202e`; blanks of any width
    are one space each.
    """
    shown: list[str] = []
    room = max_chars
    for char in text:
        piece = _visible(char)
        room -= len(piece)
        if room < 0:
            return _shortened(shown, max_chars)
        shown.append(piece)
    return "".join(shown)


def _visible(char: str) -> str:
    if char.isprintable():
        return char
    return " " if char.isspace() and char not in _LINE_ENDS else repr(char)[1:-1]


def _shortened(pieces: list[str], max_chars: int) -> str:
    """Whole pieces only: half an escape would say something else."""
    room = max_chars - len(_ELLIPSIS)
    length = sum(map(len, pieces))
    while length > room:
        length -= len(pieces.pop())
    return "".join(pieces) + _ELLIPSIS
