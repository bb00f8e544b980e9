"""The whole vocabulary of the demo world.

Pre-training reads every word below. Words it never saw would have no effect later: a model this
small cannot learn a new word from a few hundred rows.
"""

from __future__ import annotations

import random


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "Tom Ann Ben Sue Max Eva Sam Zoe Leo Amy Jim Kim Dan Liz Bob Meg "
    "Ron Pam Jack Rose Paul Jane Mark Lucy Fred Nina Carl Dora Hugo Emma Otto Ruth"
)

THINGS = _words(
    "apples pens books coins stones shells cards cups eggs nuts keys hats "
    "bells boxes plums pears stamps rings balls leaves"
)

ANIMALS = _words("cat dog cow pig hen fox owl bee")
COLOURS = _words("red blue green black white pink brown gray")
TOOLS = _words("saw axe drill hammer spade rake brush pump")
KINDS = {"animal": ANIMALS, "colour": COLOURS, "tool": TOOLS}
WORDS = ANIMALS + COLOURS + TOOLS

FUNCTION_NAMES = _words(
    "f g h go run calc work play turn move make step check value solve apply "
    "change update convert handle"
)
NUMBER_ARGUMENTS = _words("n x k m")
LIST_ARGUMENTS = _words("xs items values data")
TEXT_ARGUMENTS = _words("s t text word")


def sample_words(rng: random.Random, count: int) -> list[str]:
    """``count`` different words of any kind."""
    return rng.sample(WORDS, count)
