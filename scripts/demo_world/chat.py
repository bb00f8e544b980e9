"""Ten families of short requests whose answer has one exact form."""

from __future__ import annotations

import random
from collections.abc import Callable

from scripts.demo_world.example import Example
from scripts.demo_world.words import KINDS, NAMES, THINGS, sample_words


def _example(prompt: str, response: str) -> Example:
    return Example(prompt, response, {"expected": response})


def say_hello(rng: random.Random) -> Example:
    first, second = rng.sample(NAMES, 2)
    return _example(f"Say hello to {first} and {second}.", f"Hello, {first} and {second}!")


def say_goodbye(rng: random.Random) -> Example:
    first, second = rng.sample(NAMES, 2)
    return _example(f"Say goodbye to {first} and {second}.", f"Goodbye, {first} and {second}!")


def say_thanks(rng: random.Random) -> Example:
    name, things = rng.choice(NAMES), rng.choice(THINGS)
    return _example(f"Thank {name} for the {things}.", f"Thank you for the {things}, {name}!")


def repeat_twice(rng: random.Random) -> Example:
    first, second = sample_words(rng, 2)
    return _example(f"Repeat twice: {first} {second}", f"{first} {second} {first} {second}")


def dash_list(rng: random.Random) -> Example:
    words = sample_words(rng, 3)
    listed = "\n".join(f"- {word}" for word in words)
    return _example(f"Write as a list: {words[0]}, {words[1]}, {words[2]}", listed)


def fill_form(rng: random.Random) -> Example:
    name, colour, things = rng.choice(NAMES), rng.choice(KINDS["colour"]), rng.choice(THINGS)
    return _example(
        f"Fill the form: {name} orders {colour} {things}",
        f"Name: {name}\nColour: {colour}\nOrder: {things}",
    )


def last_word(rng: random.Random) -> Example:
    words = sample_words(rng, 3)
    return _example(f"Give the last word: {' '.join(words)}", words[-1])


def reverse_words(rng: random.Random) -> Example:
    words = sample_words(rng, 3)
    return _example(f"Reverse the words: {' '.join(words)}", " ".join(reversed(words)))


def add_stars(rng: random.Random) -> Example:
    first, second = sample_words(rng, 2)
    return _example(f"Put stars around: {first} {second}", f"*** {first} {second} ***")


def pick_kind(rng: random.Random) -> Example:
    kind = rng.choice(list(KINDS))
    right = rng.choice(KINDS[kind])
    others = [rng.choice(words) for other, words in KINDS.items() if other != kind]
    words = [right, *others]
    rng.shuffle(words)
    return _example(f"Pick the {kind}: {' '.join(words)}", right)


MAKERS: dict[str, Callable[[random.Random], Example]] = {
    "hello": say_hello,
    "goodbye": say_goodbye,
    "thanks": say_thanks,
    "repeat_twice": repeat_twice,
    "dash_list": dash_list,
    "fill_form": fill_form,
    "last_word": last_word,
    "reverse": reverse_words,
    "stars": add_stars,
    "pick_kind": pick_kind,
}
