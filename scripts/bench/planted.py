"""Rows in which copies are hidden, so that what finds them can be counted.

`planted_world`: items of an evaluation, and rows of which some are copies of items: exactly, or as
people really copy: in other case, with other quotes, a word or three replaced, wrapped in a chat, with
another answer, over two turns, in another order, the beginning cut off. Never with other numbers: that
is another item. A tenth of the clean rows are of the items' own templates, with other numbers.

`planted_copies`: rows of which some are copies of others.

Words follow Zipf's law, so that rows share phrases by chance as real ones do.
"""

import random
import re
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np

from ct_llm.prepare.overlap.decontaminate import EvalItem

Row = list[dict[str, str]]
"""Messages: {"role", "content"}."""


class Planted(NamedTuple):
    item: int
    kind: Literal["exact", "near"]
    change: str


class PlantedWorld(NamedTuple):
    items: list[EvalItem]
    rows: list[Row]
    truth: dict[int, Planted]
    """By the copy's index in `rows`; all other rows are clean."""


class PlantedCopies(NamedTuple):
    rows: list[Row]
    truth: dict[int, int]
    """Index of a copy -> index of the row that it copies."""


def planted_world(
    num_rows: int, num_items: int, num_exact: int, num_near: int, seed: int = 0
) -> PlantedWorld:
    """num_rows: with the copies among them. Near copies are of items of at least MIN_WORDS words whose
    template leaves them words of their own (see ct_llm/prepare/decontaminate.py for why)."""
    rng = random.Random(seed)
    speech = _Speech(seed)
    families = [_story, _choice, _code, _logic]
    items = [
        _item(index, families[(0, 0, 0, 1, 1, 2, 2, 3)[index % 8]], speech, rng)
        for index in range(num_items)
    ]
    own_words = [index for index in range(num_items) if index % 8 != 7]
    copies: list[tuple[Row, Planted]] = []
    for index in rng.choices(range(num_items), k=num_exact):
        question = items[index].question
        answer = rng.choice([items[index].texts[1], speech.text(40)])
        copies.append((_chat([question], answer), Planted(index, "exact", "")))
    for index, change in zip(
        rng.choices(own_words, k=num_near), _in_turn(ITEM_CHANGES), strict=False
    ):
        turns = ITEM_CHANGES[change](items[index].question, rng)
        copies.append((_chat(turns, speech.text(60)), Planted(index, "near", change)))
    rows: list[tuple[Row, Planted | None]] = [*copies]
    rows += [(_clean(number, speech, rng), None) for number in range(num_rows - len(copies))]
    rng.shuffle(rows)
    truth = {index: planted for index, (_, planted) in enumerate(rows) if planted is not None}
    return PlantedWorld(items, [row for row, _ in rows], truth)


def planted_copies(num_rows: int, num_exact: int, num_near: int, seed: int = 0) -> PlantedCopies:
    """num_rows: with the copies among them. Exact copies differ in blanks at most."""
    rng = random.Random(seed)
    speech = _Speech(seed)
    originals = [_clean(number, speech, rng) for number in range(num_rows - num_exact - num_near)]
    rows: list[tuple[Row, int | None]] = [(row, None) for row in originals]
    plain = [index for index in range(len(originals)) if index % 10]  # the rest are of templates
    for index in rng.choices(plain, k=num_exact):
        copy = [{**message, "content": f" {message['content']}\n"} for message in originals[index]]
        rows.append((copy, index))
    for index, change in zip(rng.choices(plain, k=num_near), _in_turn(ROW_CHANGES), strict=False):
        copy = [
            {**message, "content": ROW_CHANGES[change](message["content"], rng)[0]}
            for message in originals[index]
        ]
        rows.append((copy, index))
    order = list(range(len(rows)))
    rng.shuffle(order)
    place = {old: new for new, old in enumerate(order)}
    truth = {}
    for old, (_, original) in enumerate(rows):
        if original is not None:
            truth[place[old]] = place[original]
    return PlantedCopies([rows[old][0] for old in order], truth)


def parts(row: Row) -> tuple[str, str]:
    """What the user says, and the last answer."""
    said = [message["content"] for message in row if message["role"] == "user"]
    return "\n".join(said), row[-1]["content"]


# ---------------------------------------------------------------- what people change

Change = Callable[[str, random.Random], list[str]]
"""(text, randomness) -> the user's turns."""

_FILLERS = ["the", "of", "a", "about", "very", "really", "small", "great", "some", "many", "new"]
_WRAPPINGS = [
    ("Please solve: ", " Thanks"),
    ("Hey, can you help me with this one?\n\n", ""),
    ("Q: ", "\nA:"),
    ("Answer the question below.\n\n", "\n\nThink step by step."),
]


def _case_and_blanks(text: str, rng: random.Random) -> list[str]:
    text = text.upper() if rng.random() < 0.3 else text.lower()
    return [re.sub(" ", lambda _: rng.choice((" ", " ", "  ")), text) + "\n"]


def _punctuation(text: str, rng: random.Random) -> list[str]:
    return [re.sub(r"[.,;:!?\"']", lambda mark: rng.choice(("", mark[0], f" {mark[0]}")), text)]


def _typography(text: str, rng: random.Random) -> list[str]:
    """In typographic quotes, with dashes for hyphens and no plain apostrophe."""
    return ["“" + text.replace("'", "’").replace('"', "”").replace("-", "–") + "”"]


def _words_replaced(text: str, rng: random.Random) -> list[str]:
    """One to three words, 5 to 8 % of them; numbers stay."""
    words = re.split(r"(\s+)", text)
    free = [i for i, word in enumerate(words) if word.strip() and not re.search(r"\d", word)]
    wanted = round(len(words[::2]) * rng.uniform(0.05, 0.08))
    for index in rng.sample(free, min(len(free), max(1, min(3, wanted)))):
        words[index] = "" if rng.random() < 0.4 else rng.choice(_FILLERS)
    return ["".join(words)]


def _wrapped(text: str, rng: random.Random) -> list[str]:
    before, after = rng.choice(_WRAPPINGS)
    return [before + text + after]


def _two_turns(text: str, rng: random.Random) -> list[str]:
    words = text.split(" ")
    middle = len(words) // 2
    return [" ".join(words[:middle]), " ".join(words[middle:])]


def _other_order(text: str, rng: random.Random) -> list[str]:
    sentences = re.split(r"(?<=[.!?])\s+", text)
    if len(sentences) < 2:
        return _words_replaced(text, rng)
    first = rng.randrange(len(sentences) - 1)
    sentences[first], sentences[first + 1] = sentences[first + 1], sentences[first]
    return [" ".join(sentences)]


def _beginning_cut(text: str, rng: random.Random) -> list[str]:
    words = text.split(" ")
    return [" ".join(words[rng.randint(1, max(1, len(words) // 6)) :])]


def _polite(text: str, rng: random.Random) -> list[str]:
    return [f"{text} {rng.choice(('Thank you!', 'I hope this helps.', 'Let me know.'))}"]


ITEM_CHANGES: dict[str, Change] = {
    "case and blanks": _case_and_blanks,
    "punctuation": _punctuation,
    "typography": _typography,
    "words replaced": _words_replaced,
    "wrapped": _wrapped,
    "two turns": _two_turns,
    "other order": _other_order,
    "beginning cut": _beginning_cut,
}
ROW_CHANGES: dict[str, Change] = {
    "case and blanks": _case_and_blanks,
    "punctuation": _punctuation,
    "typography": _typography,
    "words replaced": _words_replaced,
    "other order": _other_order,
    "polite": _polite,
}


def _in_turn(changes: dict[str, Change]) -> Iterator[str]:
    while True:
        yield from changes


# ---------------------------------------------------------------- words, items, clean rows

_COMMON_WORDS = (
    "the of and to a in is that it was for on are as with his they at be this from i have or by one "
    "had not but what all were when we there can an your which their said if do will each about how "
    "up out them then she many some so these would other into has more her two like him see time "
    "could no make than first been its who now people my made over did down only way find use may "
    "water long little very after words called just where most know"
)
_COMMON = _COMMON_WORDS.split()
_NAMES = ["Alice", "Bob", "Carla", "Dmitri", "Elena", "Farid", "Grace", "Hiro", "Ines", "Jonas"]
_SYLLABLES = [
    a + b for a in ("b", "c", "d", "f", "g", "k", "l", "m", "qu", "r", "t") for b in "aeiou"
]


class _Speech:
    """Text of Zipf-distributed words, some thousands of words drawn at a time."""

    def __init__(self, seed: int, num_words: int = 20_000) -> None:
        rng = random.Random(f"words {seed}")
        made = {"".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) for _ in range(2 * num_words)}
        words = (_COMMON + sorted(made - set(_COMMON)))[:num_words]
        rng.shuffle(rare := words[len(_COMMON) :])
        self._words = np.array(_COMMON + rare, object)
        weights = 1 / (np.arange(len(self._words)) + 2.7)  # Mandelbrot's form of Zipf's law
        self._cumulative = np.cumsum(weights / weights.sum())
        self._rng = np.random.default_rng(seed)
        self._drawn: list[str] = []
        self._used = 0

    def words(self, count: int) -> list[str]:
        if len(self._drawn) - self._used < count:
            index = np.searchsorted(self._cumulative, self._rng.random(200_000))
            self._drawn = self._words[np.minimum(index, len(self._words) - 1)].tolist()
            self._used = 0
        self._used += count
        return self._drawn[self._used - count : self._used]

    def noun(self) -> str:
        """A word that is not one of the common ones."""
        while (word := self.words(1)[0]) in _COMMON:
            pass
        return word

    def text(self, count: int) -> str:
        """About so many words, in sentences of twelve."""
        words = self.words(count)
        sentences = [words[start : start + 12] for start in range(0, count, 12)]
        return " ".join(" ".join(sentence).capitalize() + "." for sentence in sentences)


def _story(speech: _Speech, rng: random.Random) -> tuple[str, str]:
    name, other = rng.sample(_NAMES, 2)
    thing, place = speech.noun(), speech.noun()
    first, second, third = (rng.randint(2, 99) for _ in range(3))
    told = [
        f"{name} has {first} {thing}s and {' '.join(speech.words(6))}.",
        f"{other} gives {name} {second} {speech.noun()}s from the {place} for {speech.noun()}.",
        f"Every day {name} {' '.join(speech.words(5))} and sells {third} of the {thing}s.",
        f"Then {other} {' '.join(speech.words(7))}.",
    ]
    question = f"How many {thing}s does {name} have after {rng.randint(2, 9)} days?"
    answer = f"{name} has {first} + {second} = {first + second} {thing}s. {speech.text(24)}"
    return " ".join([*told[: rng.randint(2, 4)], question]), f"{answer} #### {first + second}"


def _choice(speech: _Speech, rng: random.Random) -> tuple[str, str]:
    asked = f"Which of these best explains why the {' '.join(speech.words(rng.randint(8, 14)))}?"
    options = [" ".join(speech.words(rng.randint(2, 5))) for _ in range(4)]
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip("ABCD", options, strict=True))
    return f"{asked}\nOptions:\n{listed}", f"({rng.choice('ABCD')})"


def _code(speech: _Speech, rng: random.Random) -> tuple[str, str]:
    name, noun, unit = speech.noun(), speech.noun(), speech.noun()
    task = f"Write a function to find the {noun} of the given {unit} {' '.join(speech.words(8))}."
    numbers = [rng.randint(0, 99) for _ in range(3)]
    body = f"def {name}_{noun}({unit}):\n    return [x * {numbers[0]} for x in {unit} if x > 3]"
    return f"{task}\nassert {name}_{noun}({numbers}) == {numbers[0]}", body


def _logic(speech: _Speech, rng: random.Random) -> tuple[str, str]:
    """As much template as in BIG-Bench Hard: names, directions and numbers are all that differs."""
    steps = " ".join(
        f"Take {rng.randint(1, 10)} steps {rng.choice(('forward', 'backward', 'left', 'right'))}."
        for _ in range(rng.randint(4, 8))
    )
    asked = "If you follow these instructions, do you return to the starting point?"
    return f"{asked} Always face forward. {steps}\nOptions:\n- Yes\n- No", rng.choice(("Yes", "No"))


def _item(
    index: int,
    family: Callable[[_Speech, random.Random], tuple[str, str]],
    speech: _Speech,
    rng: random.Random,
) -> EvalItem:
    question, answer = family(speech, rng)
    return EvalItem(
        slice="coding" if family is _code else "reasoning",
        item_id=f"{family.__name__[1:]}/{index}",
        question=question,
        texts=(question, answer),
    )


_ASKED = [
    "Write a short text about {}.",
    "Explain in simple terms: {}",
    "Summarise the following paragraph.\n\n{}",
    "What is the difference between {}?",
    "Give me five ideas for {}.",
]


def _clean(number: int, speech: _Speech, rng: random.Random) -> Row:
    """About 700 bytes; every tenth is of a template of the items, with other numbers and words."""
    if number % 10 == 0:
        question, answer = rng.choice((_story, _choice, _code, _logic))(speech, rng)
        return _chat([question], f"{answer} {speech.text(60)}")
    asked = " ".join(speech.words(rng.randint(15, 45)))
    return _chat([rng.choice(_ASKED).format(asked)], speech.text(rng.randint(50, 110)))


def _chat(turns: list[str], answer: str) -> Row:
    row = []
    for turn in turns[:-1]:
        row += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Go on."}]
    return [
        *row,
        {"role": "user", "content": turns[-1]},
        {"role": "assistant", "content": answer},
    ]
