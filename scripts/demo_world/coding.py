"""Ten families of one-line Python functions, graded by running them on test inputs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from scripts.demo_world.example import Example
from scripts.demo_world.words import (
    FUNCTION_NAMES,
    LIST_ARGUMENTS,
    NUMBER_ARGUMENTS,
    TEXT_ARGUMENTS,
    WORDS,
)

# family -> (kind of argument, instruction, expression); {v} the argument, {k} the number
TEMPLATES: dict[str, tuple[str, str, str]] = {
    "add": ("number", "adds {k} to the number {v}", "{v} + {k}"),
    "subtract": ("number", "subtracts {k} from the number {v}", "{v} - {k}"),
    "multiply": ("number", "multiplies the number {v} by {k}", "{v} * {k}"),
    "greater": ("number", "tells whether {v} is greater than {k}", "{v} > {k}"),
    "divisible": ("number", "tells whether {k} divides {v}", "{v} % {k} == 0"),
    "item_number": ("list", "picks item number {k} of {v}", "{v}[{k}]"),
    "add_to_all": ("list", "adds {k} to every item of {v}", "[i + {k} for i in {v}]"),
    "repeat_string": ("text", "repeats the string {v} {k} times", "{v} * {k}"),
    "cap": ("number", "keeps {v} at most {k}", "min({v}, {k})"),
    "take_first": ("list", "takes the first {k} items of {v}", "{v}[:{k}]"),
}

# What each family computes, written once more by hand: the truth must not be the model's own text.
TRUTH: dict[str, Callable[[Any, int], Any]] = {
    "add": lambda v, k: v + k,
    "subtract": lambda v, k: v - k,
    "multiply": lambda v, k: v * k,
    "greater": lambda v, k: v > k,
    "divisible": lambda v, k: v % k == 0,
    "item_number": lambda v, k: v[k],
    "add_to_all": lambda v, k: [i + k for i in v],
    "repeat_string": lambda v, k: v * k,
    "cap": lambda v, k: min(v, k),
    "take_first": lambda v, k: v[:k],
}

ARGUMENTS = {"number": NUMBER_ARGUMENTS, "list": LIST_ARGUMENTS, "text": TEXT_ARGUMENTS}


def draw_names(rng: random.Random, family: str) -> tuple[str, str, int]:
    """Function name, argument name and the constant of one instruction."""
    kind = TEMPLATES[family][0]
    k = rng.randint(0, 9) if family == "item_number" else rng.randint(2, 20)
    return rng.choice(FUNCTION_NAMES), rng.choice(ARGUMENTS[kind]), k


def write_function(family: str, function: str, argument: str, k: int) -> str:
    """The source of the function that the instruction asks for."""
    expression = TEMPLATES[family][2].format(v=argument, k=k)
    return f"def {function}({argument}):\n    return {expression}"


def draw_inputs(rng: random.Random, family: str, k: int) -> list[Any]:
    """Test inputs on which a wrong operator or a wrong constant shows."""
    kind = TEMPLATES[family][0]
    if kind == "text":
        return rng.sample(WORDS, 2)
    if kind == "list":
        # Longer than any constant, with distinct items: an index off by one is seen.
        return [rng.sample(range(100), 24), rng.sample(range(100), 22)]
    if family == "divisible":
        return [k * rng.randint(1, 5), k * rng.randint(1, 5) + 1, k - 1]
    return [k - 1, k, k + 1, rng.randint(-50, -1), rng.randint(50, 99)]


def make_task(rng: random.Random, family: str) -> Example:
    """One instruction of ``family`` with its function and the checks that grade it."""
    function, argument, k = draw_names(rng, family)
    instruction = TEMPLATES[family][1].format(v=argument, k=k)
    checks = [
        f"assert {function}({value!r}) == {TRUTH[family](value, k)!r}"
        for value in draw_inputs(rng, family, k)
    ]
    return Example(
        prompt=f"Write a function {function} that {instruction}.",
        response=write_function(family, function, argument, k),
        grading={"function": function, "checks": "\n".join(checks)},
    )


def truncate_code(response: str) -> str:
    """The response cut inside its body, as a length limit in a data pipeline would cut it."""
    head, _, _ = response.partition("return")
    return head + "return"
