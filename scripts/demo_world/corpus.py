"""Pre-training text: raw skills for every family, instructions for the base families only.

The base model must own the words and skills of all thirty families (arithmetic, code, copying),
and know how to *follow* nine of them. So later instruction data has something true to teach.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from scripts.demo_world import coding, reasoning
from scripts.demo_world.families import BASE_FAMILIES, FAMILIES, is_evaluation_prompt
from scripts.demo_world.words import KINDS, NAMES, THINGS, WORDS, sample_words

USER, ASSISTANT, SYSTEM, END, PAD = "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|pad|>"

# Share of the documents: with this mix the base model learns what it shall, and no more.
SHARES = {"arithmetic": 14, "code": 12, "narrative": 10, "copying": 10, "chat": 54}

STATEMENTS = (
    "{name} buys {things} and finds another {thing_b}.",
    "{name} gives the {things} to {other}, {other} owns them now.",
    "{name} eats from the plate, the rest remains for {other}.",
    "All {things} together fill the field, count the rows.",
    "{name} wants a number above the old total.",
    "After that {name} adds the {things} to the others.",
    "What does the field show? It shows {a} rows of {things}.",
    "Which number is the rest? Count again, the total is {a}.",
    "The function tells whether one number divides another.",
    "This function keeps the greater item, at most {a} times.",
    "Here {name} takes the first item of the list, then picks every item.",
    "A function repeats the string {a} times and tells whether it is greater.",
    "{name} writes a list, fills the form and orders {colour} {things}.",
    "Name: {name}, colour: {colour}. Order: {things}.",
    "Reverse the order of the words, give the last word.",
    "Put the {tool} around here, repeat it twice, see the stars.",
    "{animal} is an animal, {colour} is a colour, {tool} is a tool.",
    "Pick one: the {tool} is a tool. Write the words as a list.",
    "The {animal} is an animal and the {colour} {animal_b} is another animal.",
)


def arithmetic(rng: random.Random) -> str:
    """A few bare facts."""
    facts = []
    for _ in range(4):
        operator = rng.choice("+-*")
        a, b = reasoning.DRAW[operator](rng)
        facts.append(f"{a} {operator} {b} = {reasoning.COMPUTE[operator](a, b)}.")
    return " ".join(facts)


def code(rng: random.Random) -> str:
    """A function of any coding family under a terse comment, in no instruction's words."""
    family = rng.choice(list(coding.TEMPLATES))
    function, argument, k = coding.draw_names(rng, family)
    expression = coding.TEMPLATES[family][2].format(v=argument, k=k)
    return f"# {expression}\n{coding.write_function(family, function, argument, k)}"


def narrative(rng: random.Random) -> str:
    """Two statements that use the later instructions' words in another order."""
    return " ".join(
        rng.choice(STATEMENTS).format(
            name=rng.choice(NAMES),
            other=rng.choice(NAMES),
            things=rng.choice(THINGS),
            thing_b=rng.choice(THINGS),
            a=rng.randint(2, 20),
            animal=rng.choice(KINDS["animal"]),
            animal_b=rng.choice(KINDS["animal"]),
            colour=rng.choice(KINDS["colour"]),
            tool=rng.choice(KINDS["tool"]),
        )
        for _ in range(2)
    )


def copying(rng: random.Random) -> str:
    """A list said twice, in one of the forms that chat answers have."""
    words = sample_words(rng, rng.randint(2, 4)) if rng.random() < 0.7 else rng.sample(NAMES, 3)
    joined = " ".join(words)
    return rng.choice(
        (
            f"{joined} = {joined}",
            f"{joined} = {' '.join(reversed(words))} <",
            f"{joined}: " + " ".join(f"- {word}\n" for word in words),
            f"*** {joined} ***",
            f"{joined} > {words[-1]}",
        )
    )


def chat(rng: random.Random) -> str:
    """One base-family instruction, never one that is reserved for evaluation."""
    make = FAMILIES[rng.choice(BASE_FAMILIES)]
    while is_evaluation_prompt((example := make(rng)).prompt):
        pass
    return f"{USER}{example.prompt}{ASSISTANT}{example.response}"


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "arithmetic": arithmetic,
    "code": code,
    "narrative": narrative,
    "copying": copying,
    "chat": chat,
}


def tokenizer_texts(seed: int) -> list[str]:
    """Text on which the tokenizer is trained: all families' prompts and responses, and the corpus."""
    rng = random.Random(f"tokenizer:{seed}")
    texts = [" ".join(NAMES), " ".join(WORDS)]
    for make in FAMILIES.values():
        for _ in range(200):
            example = make(rng)
            texts += [example.prompt, example.response]
    for maker in (arithmetic, code, narrative, copying):
        texts += [maker(rng) for _ in range(500)]
    return texts
