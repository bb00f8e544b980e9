"""Sets of hashed n-grams, one for each text: their members, their common members, their similarity."""

from collections.abc import Iterator

import numpy as np

from ct_llm.prepare.overlap.words import Ragged, mixed

_CHUNK_VALUES = 1 << 21
"""At most about so many values are compared at once: 100 MB of working memory."""


def distinct(ngrams: Ragged) -> Ragged:
    """Every n-gram of a text once, in no order that means anything."""
    keys = ngrams.values ^ mixed(_owners(ngrams).astype(np.uint64))
    order = np.argsort(keys)
    sorted_keys = keys[order]
    first = np.ones(len(keys), bool)
    first[order[1:]] = sorted_keys[1:] != sorted_keys[:-1]
    before = np.concatenate([[0], np.cumsum(first)])
    return Ragged(ngrams.values[first], before[ngrams.offsets])


def num_common(
    left: Ragged, left_index: np.ndarray, right: Ragged, right_index: np.ndarray
) -> np.ndarray:
    """int64 [number of pairs]: how many members left set left_index[k] and right set right_index[k] share.

    The sets' members must be distinct.
    """
    left_sizes, right_sizes = left.counts[left_index], right.counts[right_index]
    common = np.zeros(len(left_index), np.int64)
    for pairs in _chunks(left_sizes + right_sizes):
        keys = np.concatenate(
            [
                _of_pairs(left, left_index[pairs], left_sizes[pairs]),
                _of_pairs(right, right_index[pairs], right_sizes[pairs]),
            ]
        )
        order = np.argsort(keys)
        keys = keys[order]
        twice = order[1:][keys[1:] == keys[:-1]]
        pair = np.arange(pairs.stop - pairs.start)
        owners = np.concatenate(
            [np.repeat(pair, left_sizes[pairs]), np.repeat(pair, right_sizes[pairs])]
        )
        common[pairs] = np.bincount(owners[twice], minlength=len(pair))
    return common


def spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Indices of the runs start, start + 1, ... of the given sizes, one after the other."""
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(starts - before, sizes)


def _owners(sets: Ragged) -> np.ndarray:
    return np.repeat(np.arange(len(sets.offsets) - 1), sets.counts)


def _of_pairs(sets: Ragged, index: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The members of the sets, each bound to its pair: equal only within one pair.

    Two 64-bit hashes that are not the same may still be equal; among all values of a chunk the chance
    of it is below one in a million.
    """
    values = sets.values[spans(sets.offsets[index], sizes)]
    return values ^ np.repeat(mixed(np.arange(len(index), dtype=np.uint64)), sizes)


def _chunks(sizes: np.ndarray) -> Iterator[slice]:
    start, ends = 0, np.cumsum(sizes)
    while start < len(sizes):
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + _CHUNK_VALUES, "right")), start + 1)
        yield slice(start, stop)
        start = stop
