"""From a hashed n-gram to the texts that hold it: a read-only table for millions of look-ups."""

import numpy as np

from ct_llm.prepare.overlap.ngram_sets import spans


class GramIndex:
    """n-gram -> numbers, for any arrays of both.

    The n-grams lie sorted; a directory over their leading bits says where to look, so that a look-up
    reads two places and no more. Memory: 16 bytes a pair, 20 bytes a distinct n-gram.
    """

    def __init__(self, grams: np.ndarray, numbers: np.ndarray) -> None:
        """grams: uint64 [n]; numbers: int64 [n]. A pair may occur once only."""
        order = np.lexsort((numbers, grams))
        self._numbers = numbers[order].astype(np.int32)
        self._grams, first = np.unique(grams[order], return_index=True)
        self._offsets = np.append(first, len(order))
        bits = max(4, int(np.ceil(np.log2(len(self._grams) + 1))) + 1)
        self._shift = np.uint64(64 - bits)
        leading = (self._grams >> self._shift).astype(np.int64)
        sizes = np.bincount(leading, minlength=1 << bits)
        self._directory = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
        self._max_steps = int(sizes.max())
        self._grams = np.append(self._grams, np.uint64(0))  # so that reading one too far is safe

    def find(self, grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(position in `grams`, number) of every pair that the index has, ordered by position."""
        bucket = (grams >> self._shift).astype(np.int64)
        place = self._directory[bucket]
        position = np.flatnonzero(place < self._directory[bucket + 1])
        bucket, place = bucket[position], place[position]
        found_position, found_place = [], []
        for _ in range(self._max_steps):
            same = self._grams[place] == grams[position]
            found_position.append(position[same])
            found_place.append(place[same])
            left = ~same & (place + 1 < self._directory[bucket + 1])
            position, bucket, place = position[left], bucket[left], place[left] + 1
            if not len(position):
                break
        position, place = _joined(found_position), _joined(found_place)
        order = np.argsort(position, kind="stable")
        position, place = position[order], place[order]
        start = self._offsets[place]
        sizes = self._offsets[place + 1] - start
        return np.repeat(position, sizes), self._numbers[spans(start, sizes)].astype(np.int64)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)
