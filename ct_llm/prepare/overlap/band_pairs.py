"""Pairs of rows that share bands of their sketches: the few of all pairs that are worth a look.

Nothing here grows with the square of the rows. A bucket is all rows with the same band; of each bucket
the first MAX_BUCKET rows stand for it, and of the rows that one row meets in its buckets the
MAX_CANDIDATES with the most common bands are looked at. What this can miss: a near duplicate that
shares only crowded buckets with its like, and is not among the first there. Rows of one template crowd
the buckets of its wording, but near duplicates share their own words' buckets as well.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ct_llm.prepare.overlap.ngram_sets import spans
from ct_llm.prepare.overlap.words import mixed

MAX_BUCKET = 16
MAX_CANDIDATES = 32

_BLOCK_ROWS = 16_384
_CHUNK_ROWS = 4_096


class Pairs(NamedTuple):
    """Candidates, by `left`, then by falling number of common bands, then by `right`; all int64."""

    left: np.ndarray
    right: np.ndarray
    rank: np.ndarray
    """0 for the best candidate of `left`, then 1, ..."""


def pairs_within(bands: np.ndarray) -> Iterator[Pairs]:
    """Rows paired with rows before them, in blocks of rows. bands: uint32 [n, bands]."""
    order = [np.argsort(bands[:, band], kind="stable") for band in range(bands.shape[1])]
    start = np.empty(bands.shape, np.int32)
    """Where, in a band's order, the bucket of a row begins ..."""
    before = np.empty(bands.shape, np.int32)
    """... and how many rows stand before this one in it."""
    for band, rows in enumerate(order):
        values = bands[rows, band]
        place = np.arange(len(rows))
        first = np.ones(len(rows), bool)
        first[1:] = values[1:] != values[:-1]
        begin = np.maximum.accumulate(np.where(first, place, 0))
        start[rows, band] = begin
        before[rows, band] = place - begin
    for block in range(0, len(bands), _BLOCK_ROWS):
        rows = np.arange(block, min(block + _BLOCK_ROWS, len(bands)))
        left, right = [], []
        for band, in_order in enumerate(order):
            sizes = np.minimum(before[rows, band], MAX_BUCKET)
            left.append(np.repeat(rows, sizes))
            right.append(in_order[spans(start[rows, band].astype(np.int64), sizes)])
        yield _best(np.concatenate(left), np.concatenate(right))


def pairs_between(bands: np.ndarray, others: Iterable[np.ndarray]) -> Iterator[Pairs]:
    """Rows paired with rows of `others` (uint32 [m, bands] each, read once, one after the other).

    `right` counts through all of `others`. One linear scan; only what a table of a few megabytes lets
    through is looked up.
    """
    keys, key_of_row = np.unique(_keys(bands), return_inverse=True)
    key_of_row = key_of_row.reshape(bands.shape)
    key, row = _scan(keys, others)
    order = np.argsort(key, kind="stable")
    key, row = key[order], row[order]
    start = np.searchsorted(key, np.arange(len(keys) + 1))
    for block in range(0, len(bands), _BLOCK_ROWS):
        some = key_of_row[block : block + _BLOCK_ROWS].reshape(-1)
        sizes = start[some + 1] - start[some]
        left = block + np.repeat(np.arange(len(some)) // bands.shape[1], sizes)
        yield _best(left, row[spans(start[some], sizes)])


def _scan(keys: np.ndarray, others: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(index of a key, row) for the first MAX_BUCKET rows that have the key."""
    sieve = _Sieve(keys)
    seen = np.zeros(len(keys), np.int64)
    found_keys, found_rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    done = 0
    for chunk in _chunks(others):
        row, band = np.divmod(sieve.likely(chunk), chunk.shape[1])
        key = (band.astype(np.uint64) << np.uint64(32)) | chunk[row, band]
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        same = keys[place] == key
        place, row = place[same], row[same]
        # Of each key, no more than are still wanted.
        order = np.argsort(place, kind="stable")
        place, row = place[order], row[order]
        turn = np.arange(len(place)) - np.searchsorted(place, place)
        wanted = seen[place] + turn < MAX_BUCKET
        found_keys.append(place[wanted])
        found_rows.append(row[wanted] + done)
        np.add.at(seen, place, 1)
        done += len(chunk)
    return np.concatenate(found_keys), np.concatenate(found_rows)


def _chunks(others: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same rows in arrays of about _CHUNK_ROWS, which the processor's cache holds."""
    small: list[np.ndarray] = []
    for bands in others:
        for start in range(0, len(bands), _CHUNK_ROWS):
            small.append(np.asarray(bands[start : start + _CHUNK_ROWS]))
            if sum(map(len, small)) >= _CHUNK_ROWS:
                yield np.concatenate(small)
                small = []
    if small:
        yield np.concatenate(small)


def _keys(bands: np.ndarray) -> np.ndarray:
    """uint64 [n * bands]: the band's number before its value."""
    number = np.arange(bands.shape[1], dtype=np.uint64) << np.uint64(32)
    return (number | bands.astype(np.uint64)).reshape(-1)


class _Sieve:
    """One bit for the hash of each key, in so large a field that few others hit one by chance."""

    def __init__(self, keys: np.ndarray) -> None:
        bits = int(np.clip(np.ceil(np.log2(len(keys) + 1)) + 6, 10, 30))
        self._shift = np.uint32(32 - bits)
        num_bands = int(keys.max(initial=0) >> np.uint64(32)) + 1
        factors = mixed(np.arange(1, num_bands + 1, dtype=np.uint64)).astype(np.uint32)
        self._factors = factors | np.uint32(1)
        band, value = (keys >> np.uint64(32)).astype(np.int64), keys.astype(np.uint32)
        slots = (value * self._factors[band]) >> self._shift
        self._field = np.zeros(1 << (bits - 3), np.uint8)
        np.bitwise_or.at(self._field, slots >> np.uint32(3), _bit(slots))

    def likely(self, bands: np.ndarray) -> np.ndarray:
        """Flat indices into `bands` of what may be a key."""
        slots = (bands * self._factors) >> self._shift
        # "clip" never happens; it spares a check of every index.
        field = self._field.take((slots >> np.uint32(3)).astype(np.intp), mode="clip")
        return np.flatnonzero((field & _bit(slots)) != 0)


def _bit(slots: np.ndarray) -> np.ndarray:
    return np.uint8(1) << (slots & np.uint32(7)).astype(np.uint8)


def _best(left: np.ndarray, right: np.ndarray) -> Pairs:
    """Each pair once, and of each row the MAX_CANDIDATES pairs with the most common bands."""
    if not len(left):
        return Pairs(left, right, np.zeros(0, np.int64))
    width = int(right.max()) + 1
    pairs, common = np.unique(left * width + right, return_counts=True)
    left, right = np.divmod(pairs, width)
    order = np.lexsort((right, -common, left))
    left, right = left[order], right[order]
    rank = np.arange(len(left)) - np.searchsorted(left, left)
    best = rank < MAX_CANDIDATES
    return Pairs(left[best], right[best], rank[best])
