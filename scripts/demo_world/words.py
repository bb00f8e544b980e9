"""The whole vocabulary of the demo world.

Pre-training reads every word below. Words it never saw would have no effect later: a model this
small cannot learn a new word from a few hundred rows.
"""

from __future__ import annotations

import random

NAMES = (
    "Tom Ann Ben Sue Max Eva Sam Zoe Leo Amy Jim Kim Dan Liz Bob Meg "
    "Ron Pam Jack Rose Paul Jane Mark Lucy Fred Nina Carl Dora Hugo Emma Otto Ruth"
).split()

THINGS = (
    "apples pens books coins stones shells cards cups eggs nuts keys hats "
    "bells boxes plums pears stamps rings balls leaves"
).split()

ANIMALS = "cat dog cow pig hen fox owl bee".split()
COLOURS = "red blue green black white pink brown gray".split()
TOOLS = "saw axe drill hammer spade rake brush pump".split()
KINDS = {"animal": ANIMALS, "colour": COLOURS, "tool": TOOLS}
WORDS = ANIMALS + COLOURS + TOOLS

FUNCTION_NAMES = (
    "f g h go run calc work play turn move make step check value solve apply "
    "change update convert handle"
).split()
NUMBER_ARGUMENTS = "n x k m".split()
LIST_ARGUMENTS = "xs items values data".split()
TEXT_ARGUMENTS = "s t text word".split()


def sample_words(rng: random.Random, count: int) -> list[str]:
    """``count`` different words of any kind."""
    return rng.sample(WORDS, count)
