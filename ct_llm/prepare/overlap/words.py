"""Text -> hashed words -> hashed n-grams of words, a whole batch at a time.

A word is a run of letters and digits, in the form that NFKC and case folding give it; in scripts that
are written without blanks (Han, Kana, Thai, ...) every letter is one. A mark of mathematics or code
(`+ * / = < > ...`) is a word too: "a + b" and "a * b" say different things. All else only separates;
so does "-", which is a hyphen, a dash or a bullet far more often than a minus.

The hashes are the same on every machine and in every version: they are stored, and compared years
later. No Python runs per word; the batch's UTF-8 bytes are one array.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

MAX_WORD_BYTES = 64
"""A longer run (base64, ...) counts as several words of this many bytes."""

MARKS = "+*/=<>^%&|~"
"""Of ASCII; of the rest, all that Unicode calls a mathematical symbol but the minus sign."""

_SEPARATOR, _LETTER, _ALONE, _REST = range(4)
"""What a byte is: between words, part of a run, a word by itself, or such a word's further byte."""

_WITHOUT_BLANKS = (
    range(0x0E00, 0x0F00),  # Thai, Lao
    range(0x1000, 0x10A0),  # Myanmar
    range(0x1780, 0x1800),  # Khmer
    range(0x2E80, 0x2FE0),  # Han radicals
    range(0x3005, 0x3008),
    range(0x3021, 0x302A),
    range(0x3038, 0x303C),
    range(0x3041, 0x3130),  # Hiragana, Katakana, Bopomofo
    range(0x31A0, 0x3200),
    range(0x3400, 0x4DC0),  # Han
    range(0x4E00, 0xA4D0),  # Han, Yi
    range(0xF900, 0xFB00),
    range(0x20000, 0x32000),
)

_MINUS_SIGN = 0x2212

_SEED = np.uint64(0x9E3779B97F4A7C15)
_WORD = np.uint64(0xD6E8FEB86659FD93)
_NGRAM = np.uint64(0xC2B2AE3D27D4EB4F)
_BATCH_BYTES = 1 << 18
"""The arrays of as much stay in the processor's cache."""


class Ragged(NamedTuple):
    """One array of values for each text, all in one."""

    values: np.ndarray
    """uint64, flat."""
    offsets: np.ndarray
    """int64 [number of texts + 1]: those of text i are values[offsets[i] : offsets[i + 1]]."""

    @property
    def counts(self) -> np.ndarray:
        """int64: how many values each text has."""
        return np.diff(self.offsets)


def hash_words(texts: Sequence[str]) -> Ragged:
    """The words of every text, in their order."""
    encoded = [_normalised(text) for text in texts]
    values, counts = [], []
    for batch in batches(map(len, encoded), len(encoded), _BATCH_BYTES):
        words, ends = _hash_batch(encoded[batch])
        values.append(words)
        counts.append(np.diff(ends, prepend=0))
    if not values:
        return Ragged(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    return Ragged(np.concatenate(values), np.concatenate([[0], np.cumsum(np.concatenate(counts))]))


def hash_ngrams(words: Ragged, n: int) -> Ragged:
    """Every run of n words of a text. A shorter text is one n-gram of all its words; none has none."""
    counts = words.counts
    padded = np.concatenate([words.values, np.zeros(n - 1, np.uint64)])
    hashes = np.full(len(words.values), n, np.uint64)
    for shift in range(n):
        hashes *= _NGRAM
        hashes += padded[shift : shift + len(words.values)]

    valid = np.ones(len(hashes), bool)
    for back in range(1, n):
        valid[words.offsets[1:][counts >= back] - back] = False
    for size in range(1, n):
        first = words.offsets[:-1][counts == size]
        short = np.full(len(first), size, np.uint64)
        for shift in range(size):
            short = short * _NGRAM + words.values[first + shift]
        hashes[first] = short
        valid[first] = True
    sizes = np.maximum(counts - (n - 1), counts > 0)
    return Ragged(mixed(hashes[valid]), np.concatenate([[0], np.cumsum(sizes)]))


def mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of a uint64 spread over all of it (the finaliser of SplitMix64; a bijection)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _normalised(text: str) -> bytes:
    if text.isascii():  # lower case comes with the bytes, for the whole batch
        return text.encode("ascii")
    return unicodedata.normalize("NFKC", text).casefold().encode("utf-8", "replace")


def batches(sizes: Iterable[int], most_texts: int, most_in_all: int) -> Iterator[slice]:
    """Runs of texts: at most so many, and of no greater size in all unless it is one text alone."""
    start, stop, total = 0, 0, 0
    for size in sizes:
        if stop > start and (stop - start == most_texts or total + size > most_in_all):
            yield slice(start, stop)
            start, total = stop, 0
        stop, total = stop + 1, total + size
    if stop > start:
        yield slice(start, stop)


def _hash_batch(encoded: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """uint64 of every word, and for each text the number of words up to its end."""
    # Behind the last word stand zeros, so that eight bytes can be read from any place in it.
    joined = b"\0".join(encoded) + bytes(9)
    kinds = np.frombuffer(joined.translate(_kinds_of_bytes()), np.uint8)
    if not joined.isascii():
        kinds = kinds.copy()
        _mark_non_ascii(np.frombuffer(joined, np.uint8), kinds)
    starts, ends = _runs(kinds)
    if len(starts) and (ends - starts).max() > MAX_WORD_BYTES:
        starts, ends = _cut(starts, ends)
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded)) + 1
    words = _hash_slices(joined.translate(_LOWER), starts, ends - starts)
    return words, np.searchsorted(starts, np.cumsum(lengths))


_LOWER = bytes(range(256)).lower()


@cache
def _kinds_of_bytes() -> bytes:
    kinds = bytearray(256)
    for byte in range(128):
        if chr(byte).isalnum():
            kinds[byte] = _LETTER
        elif chr(byte) in MARKS:
            kinds[byte] = _ALONE
    return bytes(kinds)


@cache
def _kinds_of_characters() -> np.ndarray:
    """uint8 by code point; those beyond the table separate."""
    kinds = np.zeros(0x32000, np.uint8)
    for point in range(0x80, len(kinds)):
        category = unicodedata.category(chr(point))
        if category[0] in "LNM":
            kinds[point] = _LETTER
        elif category == "Sm" and point != _MINUS_SIGN:
            kinds[point] = _ALONE
    for script in _WITHOUT_BLANKS:
        span = kinds[script.start : script.stop]
        span[span == _LETTER] = _ALONE
    return kinds


def _mark_non_ascii(content: np.ndarray, kinds: np.ndarray) -> None:
    """Set the kinds of the bytes of UTF-8 sequences. `content` ends in zeros, so reading on is safe."""
    first = np.flatnonzero(content >= 0xC0)
    lead = content[first].astype(np.int64)
    size = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    point = lead & (0x7F >> size)
    for further in (1, 2, 3):
        more = size > further
        bits = content[first + further] & 0x3F
        point = np.where(more, point << 6 | bits, point)
    table = _kinds_of_characters()
    kind = np.where(point < len(table), table[np.minimum(point, len(table) - 1)], _SEPARATOR)
    kinds[first] = kind
    kind = np.where(kind == _ALONE, _REST, kind)
    for further in (1, 2, 3):
        more = size > further
        kinds[first[more] + further] = kind[more]


def _runs(kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where words start and end (int64, half open)."""
    before = np.empty_like(kinds)
    before[0], before[1:] = _SEPARATOR, kinds[:-1]
    changes = kinds != before
    # `_REST` goes on with what was before it; `_ALONE` starts a word even after its like.
    starting = (changes & (kinds != _SEPARATOR) & (kinds != _REST)) | (kinds == _ALONE)
    ending = starting | (changes & (kinds == _SEPARATOR))
    ending &= before != _SEPARATOR
    return np.flatnonzero(starting), np.flatnonzero(ending)


def _cut(starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Long runs in pieces of MAX_WORD_BYTES."""
    long = np.flatnonzero(ends - starts > MAX_WORD_BYTES)
    further = [
        np.arange(start + MAX_WORD_BYTES, end, MAX_WORD_BYTES)
        for start, end in zip(starts[long], ends[long], strict=True)
    ]
    return np.sort(np.concatenate([starts, *further])), np.sort(np.concatenate([ends, *further]))


def _hash_slices(content: bytes, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """uint64 of content[start : start + length], at most MAX_WORD_BYTES each, in blocks of eight bytes."""
    # A view of the eight bytes from every place on, aligned or not.
    blocks = np.ndarray(len(content) - 7, "<u8", content, strides=(1,))
    hashes = _step(lengths.astype(np.uint64) * _SEED, blocks[starts], lengths)
    longer = np.arange(len(starts))
    for offset in range(8, MAX_WORD_BYTES, 8):
        longer = longer[lengths[longer] > offset]
        if not len(longer):
            break
        read = blocks[starts[longer] + offset]
        hashes[longer] = _step(hashes[longer], read, lengths[longer] - offset)
    return mixed(hashes)


def _step(hashes: np.ndarray, blocks: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Take in a block of eight bytes, of which `sizes` count."""
    blocks &= _MASKS.take(sizes, mode="clip")
    hashes ^= blocks
    hashes *= _WORD
    hashes ^= hashes >> np.uint64(29)
    return hashes


_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], np.uint64)
