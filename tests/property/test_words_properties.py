"""Hashed words against a plain reading of the same rules, one character at a time."""

import unicodedata

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.prepare.overlap.ngram_sets import distinct, num_common
from ct_llm.prepare.overlap.words import MARKS, MAX_WORD_BYTES, Ragged, hash_ngrams, hash_words

_LETTERS = st.sampled_from("aB9 .,-+*<\n\0é“’你のไ한नि×−①ß\u0301👍\ud800")
_TEXTS = st.lists(st.text(_LETTERS, max_size=40) | st.text(max_size=80), max_size=12)


def spelled(text: str) -> list[str]:
    words, open_ = [], False
    for char in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(char)
        alone = char in MARKS or (kind == "Sm" and not char.isascii() and char != "−")
        if kind[0] in "LNM" and not alone and not char.isascii():
            alone = any(
                name in unicodedata.name(char, "") for name in ("CJK UNI", "HIRAGANA", "THAI")
            )
        if alone:
            words.append(char)
            open_ = False
        elif char.isalnum() if char.isascii() else kind[0] in "LNM":
            if open_:
                words[-1] += char
            else:
                words.append(char)
            open_ = True
        else:
            open_ = False
    return words


@given(_TEXTS)
def test_words_are_those_of_a_plain_reading(texts: list[str]) -> None:
    usual = [text for text in texts if all(ord(char) < 0x3000 for char in text)]
    hashes = hash_words(usual)
    number: dict[str, int] = {}
    for index, text in enumerate(usual):
        words = spelled(text)
        if any(len(word.encode()) > MAX_WORD_BYTES for word in words):
            continue
        found = hashes.values[hashes.offsets[index] : hashes.offsets[index + 1]].tolist()
        assert len(found) == len(words)
        for word, hashed in zip(words, found, strict=True):
            assert number.setdefault(word, hashed) == hashed
    assert len(set(number.values())) == len(number)


@given(_TEXTS, st.integers(1, 5))
def test_a_batch_is_its_texts_one_by_one(texts: list[str], n: int) -> None:
    together = hash_ngrams(hash_words(texts), n)
    assert len(together.offsets) == len(texts) + 1
    for index, text in enumerate(texts):
        alone = hash_ngrams(hash_words([text]), n).values
        start, stop = together.offsets[index : index + 2]
        assert together.values[start:stop].tolist() == alone.tolist()


_SETS = st.lists(st.lists(st.integers(0, 30), max_size=12), min_size=1, max_size=8)


def _ragged(lists: list[list[int]]) -> Ragged:
    sizes = np.array([len(values) for values in lists], np.int64)
    flat = np.array([value for values in lists for value in values], np.uint64)
    return Ragged(flat, np.concatenate([[0], np.cumsum(sizes)]))


@given(_SETS, _SETS)
def test_common_members_are_those_of_sets(left: list[list[int]], right: list[list[int]]) -> None:
    pairs = [(i, j) for i in range(len(left)) for j in range(len(right))]
    left_index, right_index = (np.array(side) for side in zip(*pairs, strict=True))
    sets = distinct(_ragged(left)), distinct(_ragged(right))
    for found, lists in zip(sets, (left, right), strict=True):
        for index, values in enumerate(lists):
            members = found.values[found.offsets[index] : found.offsets[index + 1]].tolist()
            assert sorted(members) == sorted(set(values))
    common = num_common(sets[0], left_index, sets[1], right_index)
    assert common.tolist() == [len(set(left[i]) & set(right[j])) for i, j in pairs]
