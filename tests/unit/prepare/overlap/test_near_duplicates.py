from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from ct_llm.prepare.overlap.near_duplicates import (
    NUM_BANDS,
    Corpus,
    Sketches,
    keep_one_of_each,
    match_history,
    similar_prompts,
    sketch,
)
from scripts.bench.planted import parts, planted_copies

LEAST = 0.75
Part = tuple[str, str]


def corpus(rows: Sequence[Part]) -> Corpus:
    return Corpus(sketch(rows), lambda indices: [rows[index] for index in indices])


def kept(rows: Sequence[Part]) -> list[int]:
    keeper = keep_one_of_each(corpus(rows), np.arange(len(rows)), LEAST)
    return np.flatnonzero(keeper == np.arange(len(rows))).tolist()


PASSAGE = (
    "The Normans were the people who in the 10th and 11th centuries gave their name to Normandy, a "
    "region in France. They were descended from Norse raiders and pirates from Denmark, Iceland and "
    "Norway who, under their leader Rollo, agreed to swear fealty to King Charles III. "
)
LONG = (
    "First mix the flour with the salt, then rub the butter in with cold fingers until it looks like "
    "crumbs. Add just enough water to bring it together, wrap it, and let it rest before rolling."
)


def test_a_copy_in_other_dress_is_not_kept() -> None:
    copies = [
        ("How do I make short pastry?", LONG),
        ("how do i make  short pastry", LONG.upper()),
        ("How do I make “short” pastry?", LONG.replace(",", " –")),
        ("How do I make short pastry? ", LONG.replace("just enough", "enough")),
    ]
    assert kept(copies) == [0]


@pytest.mark.parametrize(
    "rows",
    [
        # Several questions on one passage.
        [
            (PASSAGE + "In what country is Normandy?", "Normandy is in France."),
            (PASSAGE + "Who was the leader of the Norse raiders?", "Their leader was Rollo."),
            (PASSAGE + "From which countries did the Norse come?", "Denmark, Iceland and Norway."),
        ],
        # The same short answer to them.
        [
            (PASSAGE + "Were they descended from Norse raiders?", "Yes"),
            (PASSAGE + "Is Normandy a region in France?", "Yes"),
            (PASSAGE + "Did they swear fealty to King Charles?", "Yes"),
        ],
        # One template, other numbers, worked out at length.
        [
            (
                f"Solve the following problem and show all of your work: what is {a} + {b}?",
                f"To add the two numbers we write one below the other and add the digits from the "
                f"right: {a} and {b} give {a + b}, so that the answer to the problem is {a + b}.",
            )
            for a, b in ((12, 7), (12, 8), (13, 7), (40, 2))
        ],
        # Another operation.
        [("What is 2 + 2?", "4"), ("What is 2 * 2?", "4")],
        # A label for each sentence of a long instruction.
        [
            (f"{PASSAGE} Say whether the tone of this is positive: {text}", "positive")
            for text in ("what a day", "I loved it", "it was a good film")
        ],
        # Other answers to one question.
        [("Tell me a story about pastry.", LONG), ("Tell me a story about pastry.", PASSAGE)],
        # No words at all.
        [("👍", "👎"), ("👎", "👍"), ("", "!"), ("", "?"), ("...", "")],
    ],
    ids=["passage", "same answer", "numbers", "operation", "labels", "answers", "no words"],
)
def test_rows_that_say_different_things_are_kept(rows: list[Part]) -> None:
    assert kept(rows) == list(range(len(rows)))


def test_the_first_in_order_is_kept() -> None:
    rows = [("How do I make pastry?", LONG), ("Another?", PASSAGE), ("How do I make pastry", LONG)]
    assert keep_one_of_each(corpus(rows), np.array([0, 1, 2]), LEAST).tolist() == [0, 1, 0]
    assert keep_one_of_each(corpus(rows), np.array([2, 1, 0]), LEAST).tolist() == [2, 1, 2]


def test_planted_copies_are_found() -> None:
    planted = planted_copies(3_000, 150, 150, seed=5)
    rows = [parts(row) for row in planted.rows]
    order = np.random.default_rng(0).permutation(len(rows))
    keeper = keep_one_of_each(corpus(rows), order, LEAST)
    found = [keeper[copy] == keeper[original] for copy, original in planted.truth.items()]
    assert np.mean(found) >= 0.95
    assert (keeper != np.arange(len(rows))).sum() <= len(planted.truth)


def test_history_however_it_is_split() -> None:
    planted = planted_copies(2_000, 50, 50, seed=6)
    rows = [parts(row) for row in planted.rows]
    new = [index in planted.truth for index in range(len(rows))]
    copies = [row for row, is_new in zip(rows, new, strict=True) if is_new]
    history = [row for row, is_new in zip(rows, new, strict=True) if not is_new]
    whole = match_history(corpus(copies), [corpus(history)], LEAST)
    assert len(whole) >= 0.95 * len(copies)
    for sizes in ([0, 1, 1000], range(0, len(history), 37)):
        cuts = [*sizes, len(history)]
        split = [history[start:stop] for start, stop in pairwise(cuts)]
        found = match_history(corpus(copies), map(corpus, split), LEAST)
        assert {row: cuts[which] + index for row, (which, index) in found.items()} == {
            row: index for row, (_, index) in whole.items()
        }


def test_only_candidates_are_fetched() -> None:
    fetched: list[int] = []
    history = [(f"question {PASSAGE[index:]}", LONG[index:]) for index in range(100)]
    history += [parts(row) for row in planted_copies(2_000, 0, 0, seed=7).rows]

    def fetch(indices: Sequence[int]) -> list[Part]:
        assert list(indices) == sorted(set(indices))
        fetched.extend(indices)
        return [history[index] for index in indices]

    new = [("How do I make pastry?", LONG)]
    match_history(corpus(new), [Corpus(sketch(history), fetch)], LEAST)
    assert len(fetched) < 40


def test_similar_prompts_whatever_the_answer() -> None:
    held_out = [(PASSAGE + "Who led them?", "Rollo"), ("How do I make pastry?", LONG), ("", "a")]
    others = [
        [("What else?", "No")],
        [("Unrelated", LONG), (PASSAGE + "who led them", "I do not know"), ("!", "b")],
    ]
    assert similar_prompts(corpus(held_out), map(corpus, others)) == {0: (1, 1)}
    assert similar_prompts(corpus(held_out), []) == {}


def test_equal_sketches_of_unlike_rows() -> None:
    # Hostile or unlucky: sketches propose, texts decide, and the work does not grow with the square.
    rows = [(f"question {index} a{index}", f"answer a{index} b{index}") for index in range(3_000)]
    alike = np.ones((len(rows), NUM_BANDS), np.uint32)
    new = Corpus(Sketches(alike, alike), lambda indices: [rows[index] for index in indices])
    assert np.array_equal(keep_one_of_each(new, np.arange(3_000), LEAST), np.arange(3_000))
    assert set(match_history(new, [new], LEAST)) == set(range(16))


def test_sketches_are_the_same_for_ever_and_in_any_batch() -> None:
    rows = [("How do I make pastry?", LONG), (PASSAGE, "Rollo"), ("", ""), ("你好", "世界")]
    sketches = sketch(rows)
    assert sketches.rows.dtype == sketches.prompts.dtype == np.uint32
    assert sketches.rows.shape == sketches.prompts.shape == (4, NUM_BANDS)
    assert sketches.rows[0, :3].tolist() == GOLDEN_ROW
    assert sketches.prompts[0, :3].tolist() == GOLDEN_PROMPT
    filler = [(f"{index} {PASSAGE}", LONG[index % 50 :]) for index in range(700)]
    again = sketch([*filler, *rows])
    assert np.array_equal(again.rows[-4:], sketches.rows)
    assert np.array_equal(again.prompts[-4:], sketches.prompts)
    assert sketch([]).rows.shape == (0, NUM_BANDS)


def test_similar_rows_share_a_band() -> None:
    # 0.987 at 0.75 in theory (sketches.py); here 300 pairs of exactly that similarity.
    shared = 0
    for number in range(300):
        words = [f"w{number}x{index}" for index in range(71)]
        other = [*words[:61], *(f"y{number}x{index}" for index in range(10))]
        found = sketch([("", " ".join(words)), ("", " ".join(other))]).rows
        shared += bool((found[0] == found[1]).any())
    assert shared >= 0.96 * 300


GOLDEN_ROW = [682576245, 1611742243, 3270829682]
GOLDEN_PROMPT = [3863046724, 3316113191, 567296856]
