import json
from pathlib import Path

import numpy as np
import pytest

from ct_llm.prepare.overlap.words import MAX_WORD_BYTES, batches, hash_ngrams, hash_words


def words_of(text: str) -> list[int]:
    return hash_words([text]).values.tolist()


def ngrams_of(text: str, n: int) -> list[int]:
    return hash_ngrams(hash_words([text]), n).values.tolist()


def test_hashes_are_the_same_for_ever() -> None:
    # They are stored, in row caches and sketches: a change here needs a new SKETCH_VERSION.
    words = hash_words(["Hello, world!", "a+b", "naïve 你好 internationalisation"])
    assert words.offsets.tolist() == [0, 2, 5, 9]
    assert [f"{value:016x}" for value in words.values] == GOLDEN_WORDS
    assert [f"{value:016x}" for value in hash_ngrams(words, 2).values] == GOLDEN_PAIRS


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Hello, World!", "  hello\tWORLD "),
        ("don’t “quote” me", 'Don\'t "quote" me.'),
        ("Straße", "STRASSE"),
        ("ﬁne ½", "fine 1⁄2"),
        ("Cafe\u0301", "café"),
        ("well-known", "well known"),
        ("ｆｕｌｌ　ｗｉｄｔｈ，", "full width"),
        ("你好，世界。", "你 好 世 界"),
    ],
)
def test_case_form_and_punctuation_do_not_matter(text: str, same: str) -> None:
    assert words_of(text) == words_of(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a + b", "a * b"),
        ("x < y", "x > y"),
        ("x ≤ y", "x ≥ y"),
        ("5 = 5", "5 5"),
        ("resume", "résumé"),
        ("ab", "a b"),
        ("你好", "好你"),
    ],
)
def test_what_does_matter(text: str, other: str) -> None:
    assert words_of(text) != words_of(other)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        (" ... !? \n", 0),
        ("a+b==c", 6),
        ("日本語テキスト", 7),
        ("日本語 in English", 5),
        ("Привет, мир", 2),
        ("नमस्ते दुनिया", 2),
        ("👍", 0),
        ("ไทย", 3),
        ("snake_case", 2),
        ("nul\0here", 2),
        ("lone \ud800 surrogate", 2),
        ("x" * MAX_WORD_BYTES, 1),
        ("x" * (MAX_WORD_BYTES + 1), 2),
    ],
)
def test_number_of_words(text: str, count: int) -> None:
    assert len(words_of(text)) == count


def test_long_runs_differ_wherever_they_differ() -> None:
    base = "x" * 300
    different = {tuple(words_of(base[:place] + "y" + base[place + 1 :])) for place in range(300)}
    assert len(different) == 300


def test_texts_do_not_touch_each_other() -> None:
    texts = ["one two", "", "é" * 70, "three", "\u0301", "a" * 300_000, "你", "", "end "]
    together = hash_words(texts)
    for index, text in enumerate(texts):
        start, stop = together.offsets[index : index + 2]
        assert together.values[start:stop].tolist() == words_of(text)
    ngrams = hash_ngrams(together, 3)
    for index, text in enumerate(texts):
        start, stop = ngrams.offsets[index : index + 2]
        assert ngrams.values[start:stop].tolist() == ngrams_of(text, 3)


def test_short_texts_are_one_ngram_of_all_their_words() -> None:
    assert ngrams_of("", 3) == []
    assert len(ngrams_of("a", 3)) == len(ngrams_of("a b", 3)) == len(ngrams_of("a b c", 3)) == 1
    assert len(ngrams_of("a b c d", 3)) == 2
    assert (
        len({ngrams_of(text, 3)[0] for text in ("a", "a b", "b a", "a b c", "a a", "a a a")}) == 6
    )


def test_no_texts() -> None:
    ngrams = hash_ngrams(hash_words([]), 5)
    assert ngrams.values.tolist() == [] and ngrams.offsets.tolist() == [0]


def test_batches_hold_all_texts_once_and_no_more_than_they_may() -> None:
    assert list(batches([], 3, 10)) == []
    found = list(batches([1, 2, 3, 4, 99, 1, 9, 1], 3, 10))
    assert [(batch.start, batch.stop) for batch in found] == [
        (0, 3),
        (3, 4),
        (4, 5),
        (5, 7),
        (7, 8),
    ]


@pytest.mark.slow
def test_no_collisions_in_real_text(real_data: Path) -> None:
    texts = [path.read_text(errors="replace") for path in real_data.glob("train/*/*.json")]
    texts += [path.read_text(errors="replace") for path in real_data.glob("eval/*/*.jsonl")]
    words = hash_words(texts)
    ngrams = hash_ngrams(words, 3)
    assert len(ngrams.values) > 2_000_000
    # Triples of dense word numbers are exact keys.
    _, number = np.unique(words.values, return_inverse=True)
    width = int(number.max()) + 1
    assert width**3 < 2**63
    exact = []
    for start, stop in zip(words.offsets[:-1], words.offsets[1:], strict=True):
        own = number[start:stop].astype(np.int64)
        exact.append((own[:-2] * width + own[1:-1]) * width + own[2:])
    assert len(np.unique(ngrams.values)) == len(np.unique(np.concatenate(exact)))
    vocabulary = {word for text in texts for word in json.dumps(text.lower()).split()}
    isolated = hash_words([word for word in vocabulary if word.isalnum() and word.isascii()])
    short = isolated.values[isolated.offsets[:-1][isolated.counts == 1]]
    assert len(np.unique(short)) == len(short) > 20_000


def test_bits_are_spread() -> None:
    hashes = hash_words([str(number) for number in range(20_000)]).values
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) < 0.02)


GOLDEN_WORDS = [
    "4c2a7191a1f79f94",
    "72b5dea58389e03b",
    "34e0eba197ca3b6b",
    "f4f303ca4a627138",
    "3bbfebf88fdf8c64",
    "e86615921648244a",
    "6cf2ae29b58af8e7",
    "865da62fe31baa6f",
    "aef81c6613f9154b",
]
GOLDEN_PAIRS = [
    "186285bf1ab2afc6",
    "89f91fa92d3a2be8",
    "b042ed4baf474908",
    "26f5e766028f50c6",
    "a03d35b1f73b9f02",
    "ab90603b10762fff",
]
