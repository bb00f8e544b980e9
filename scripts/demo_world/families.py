"""Three slices of ten instruction families: training rows and evaluation items.

A *family* is one kind of instruction ("Write a function f that adds 8 to every item of xs."); its
names, numbers and words are drawn at random. The hash of a prompt decides once and for all whether
it may be trained on or only evaluated, so the two can never meet, whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

from scripts.demo_world import chat, coding, reasoning
from scripts.demo_world.example import Example

Row = dict[str, Any]
"""``{"messages": [user, assistant], "source": family}``"""
Item = dict[str, str]
"""``{"prompt", "family", ...}`` and the columns the slice's grader needs."""
Harm = Literal["truncated_code", "wrong_code"]

SLICES = ("reasoning", "coding", "chat")
BASE_FAMILIES = (
    *("reasoning_gets", "reasoning_loses", "reasoning_bags"),
    *("coding_add", "coding_subtract", "coding_multiply"),
    *("chat_hello", "chat_goodbye", "chat_thanks"),
)
"""The instructions that the base model has already learned to follow."""

EVALUATION_SHARE = 5  # one prompt in five belongs to the evaluation
_MAX_DRAWS_PER_ROW = 200  # a family that cannot give so many prompts is an error, not a loop

FAMILIES: dict[str, Callable[[random.Random], Example]] = {
    **{f"reasoning_{f}": partial(reasoning.make_problem, family=f) for f in reasoning.TEMPLATES},
    **{f"coding_{f}": partial(coding.make_task, family=f) for f in coding.TEMPLATES},
    **{f"chat_{f}": maker for f, maker in chat.MAKERS.items()},
}


def is_evaluation_prompt(prompt: str) -> bool:
    """Whether ``prompt`` is reserved for evaluation: a pure function of its text."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return int.from_bytes(digest[:8], "big") % EVALUATION_SHARE == 0


def draw_examples(family: str, count: int, seed: int, *, evaluation: bool) -> list[Example]:
    """``count`` examples of ``family`` with different prompts, all of one side of the split.

    Raises ``ValueError`` when the family does not hold that many.
    """
    make = FAMILIES[family]
    # A string seeds the same everywhere; hash() of it would change with every process.
    rng = random.Random(f"{family}:{seed}:{evaluation}")
    found: dict[str, Example] = {}
    for _ in range(count * _MAX_DRAWS_PER_ROW):
        if len(found) == count:
            break
        example = make(rng)
        if is_evaluation_prompt(example.prompt) == evaluation:
            found.setdefault(example.prompt, example)
    if len(found) < count:
        raise ValueError(f"{family} holds only {len(found)} such prompts, {count} were asked for")
    return list(found.values())


def make_rows(
    families: Iterable[str], n_per_family: int, seed: int, *, harm: Harm | None = None
) -> list[Row]:
    """``n_per_family`` training rows of each family, shuffled.

    ``harm`` spoils the responses of coding families and leaves others as they are:
    ``truncated_code`` cuts the function inside its body, ``wrong_code`` returns nothing of use.
    """
    rows: list[Row] = []
    for family in families:
        for example in draw_examples(family, n_per_family, seed, evaluation=False):
            rows.append(
                {
                    "messages": [
                        {"role": "user", "content": example.prompt},
                        {"role": "assistant", "content": _spoil(family, example.response, harm)},
                    ],
                    "source": family,
                }
            )
    random.Random(f"order:{seed}").shuffle(rows)
    return rows


def make_items(slice_name: str, families: Sequence[str], n: int, seed: int) -> list[Item]:
    """``n`` evaluation items of one slice, spread evenly over its ``families``."""
    foreign = [family for family in families if not family.startswith(f"{slice_name}_")]
    if foreign:
        raise ValueError(f"not families of {slice_name}: {', '.join(foreign)}")
    items: list[Item] = []
    for index, family in enumerate(families):
        count = n // len(families) + (index < n % len(families))
        for example in draw_examples(family, count, seed, evaluation=True):
            items.append({"prompt": example.prompt, "family": family, **example.grading})
    return items


def _spoil(family: str, response: str, harm: Harm | None) -> str:
    if harm is None or not family.startswith("coding_"):
        return response
    if harm == "truncated_code":
        return coding.truncate_code(response)
    head, _, _ = response.partition("return")
    return head + "pass"
