"""Plain text as a conversation: its beginning is the user's turn, the rest the assistant's.

So prompts differ from row to row, which sides and similarity depend on, and chat templates that demand
both roles render it. Nothing of the text is lost but the blanks at the cut.
"""

import re
from collections.abc import Iterator

from ct_llm.prepare.clean.conversation import BadRow, Message

MIN_CHARS = 200
"""What is shorter is a sentence or two: its halves are no prompt and answer."""

_PLACES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\n[ \t\r]*\n\s*",  # a paragraph's end
        r"[.!?…][\"'”’)\]]*\s+|[。！？][”’」』）]*\s*",  # a sentence's
        r"\n\s*",  # a line's
        r"\s+",  # a word's
    )
)


def cut_text(text: str) -> list[Message]:
    """Cut where a paragraph, else a sentence, a line, a word ends, as near to a quarter as can be.

    The cut lies between a tenth and a half. Raises BadRow: empty, too_short.
    """
    text = text.strip()
    if not text:
        raise BadRow("empty")
    if len(text) < MIN_CHARS:
        raise BadRow("too_short")
    first, last = len(text) // 10, len(text) // 2
    for place in _PLACES:
        cut = min(_ends(place, text, first, last), key=lambda c: abs(c - len(text) // 4), default=0)
        if cut:
            return [
                {"role": "user", "content": text[:cut].rstrip()},
                {"role": "assistant", "content": text[cut:].lstrip()},
            ]
    raise BadRow("too_short")


def _ends(place: re.Pattern[str], text: str, first: int, last: int) -> Iterator[int]:
    return (match.end() for match in place.finditer(text, first, last))
