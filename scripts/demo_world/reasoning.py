"""Ten families of one-step word problems, answered with the sum and the number.

Prompts stay below 13 words, so every 13-gram of a prompt holds all its random parts: two prompts
share one only when they are the same problem, and decontamination does not fire by accident.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from scripts.demo_world.example import Example
from scripts.demo_world.words import NAMES, THINGS

MAX_TERM = 20  # larger of the two terms
MAX_SMALL = 9  # smaller term, and both factors


def draw_sum(rng: random.Random) -> tuple[int, int]:
    """Terms of an addition."""
    return rng.randint(2, MAX_TERM), rng.randint(2, MAX_SMALL)


def draw_difference(rng: random.Random) -> tuple[int, int]:
    """Terms of a subtraction with a positive result."""
    small = rng.randint(2, MAX_SMALL)
    return rng.randint(small + 1, MAX_TERM), small


def draw_product(rng: random.Random) -> tuple[int, int]:
    """Factors of a product."""
    return rng.randint(2, MAX_SMALL), rng.randint(2, MAX_SMALL)


DRAW: dict[str, Callable[[random.Random], tuple[int, int]]] = {
    "+": draw_sum,
    "-": draw_difference,
    "*": draw_product,
}
COMPUTE: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}

# family -> (operator, template); {name} and {other} differ.
TEMPLATES: dict[str, tuple[str, str]] = {
    "gets": ("+", "{name} has {a} {things}. {name} gets {b} more. How many now?"),
    "loses": ("-", "{name} has {a} {things}. {name} loses {b}. How many are left?"),
    "bags": ("*", "There are {a} bags with {b} {things} each. How many {things}?"),
    "buys": ("+", "After {a} {things}, {name} buys another {b}. Count all {things}."),
    "gives": ("-", "Of {a} {things}, {name} gives {b} to {other}. Count the rest."),
    "finds": ("+", "{name} finds {b} {things} and adds them to {a} old ones. Total?"),
    "eats": ("-", "From a plate of {a} {things}, {name} eats {b}. What remains?"),
    "together": ("+", "{name} owns {a} {things}, {other} owns {b}. How many together?"),
    "more_than": ("+", "{name} wants {b} {things} above the {a} of {other}. Which number?"),
    "rows": ("*", "A field shows {a} rows of {b} {things}. What is the total?"),
}


def make_problem(rng: random.Random, family: str) -> Example:
    """One word problem of ``family`` with its worked answer."""
    operator, template = TEMPLATES[family]
    a, b = DRAW[operator](rng)
    name, other = rng.sample(NAMES, 2)
    prompt = template.format(a=a, b=b, name=name, other=other, things=rng.choice(THINGS))
    answer = COMPUTE[operator](a, b)
    response = f"{a} {operator} {b} = {answer}. The answer is {answer}."
    return Example(prompt, response, {"answer": str(answer)})
