"""Sketches of rows by MinHash: rows that are alike share a band of theirs, most likely.

MinHash (Broder 1997) with banding (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
section 3.4): a band is a hash of ROWS_PER_BAND minima, so two sets of Jaccard similarity s share one
of NUM_BANDS bands with probability 1 - (1 - s^5)^16:

    s      0.3    0.5    0.6    0.7    0.75   0.8    0.9
    P      0.04   0.40   0.73   0.95   0.987  0.998  0.999+

That is for rows. Sketches of prompts are for a similarity of 0.9 and more; for those, bands that share
some of their minima do as well (0.9998 at 0.9, simulated), at two fifths of the cost.

A sketch is stored and compared for years: SKETCH_VERSION changes when the same text gives another.
"""

from collections.abc import Sequence
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

import numpy as np

from ct_llm.errors import InputError
from ct_llm.prepare.overlap.ngram_sets import spans
from ct_llm.prepare.overlap.words import Ragged, batches, hash_ngrams, hash_words, mixed

N = 2
"""Similarity is that of the sets of pairs of neighbouring words. A word in twenty changed leaves 0.82 of
them, and 0.74 of sets of three; single words would make one of "the even numbers" and "the sum of all
even numbers"."""
NUM_BANDS = 16
ROWS_PER_BAND = 5
SKETCH_VERSION = 1

_RENSA_ALGORITHM = 2
_SEED = 1
_BATCH_ROWS = 512
"""The lists that rensa gives are slow to make for many rows at once: five times, for 20,000."""
_BATCH_CHARS = 4_000_000
_RESPONSE = np.uint64(0xA0761D6478BD642F)
_FACTORS = mixed(np.arange(1, ROWS_PER_BAND + 1, dtype=np.uint64)) | np.uint64(1)
_BAND_SEEDS = mixed(np.arange(101, 101 + NUM_BANDS, dtype=np.uint64))
_ROW_MINIMA = np.arange(NUM_BANDS * ROWS_PER_BAND).reshape(NUM_BANDS, ROWS_PER_BAND)
"""Which minima make a band: five of its own ..."""
_PROMPT_MINIMA = (2 * np.arange(NUM_BANDS)[:, None] + np.array([0, 1, 2, 5, 8])) % (2 * NUM_BANDS)
"""... or five of 32, of which no two bands share more than one."""


class Sketches(NamedTuple):
    """Two for each row, both uint32 [n, NUM_BANDS]."""

    rows: np.ndarray
    """Of prompt and response together, each n-gram bound to its part: rows of which both parts have
    at least similarity s are alike to at least s here."""
    prompts: np.ndarray


def sketch(parts: Sequence[tuple[str, str]]) -> Sketches:
    """parts: (prompt, response) of each row."""
    rows, prompts = [], []
    sizes = (len(prompt) + len(response) for prompt, response in parts)
    for batch in batches(sizes, _BATCH_ROWS, _BATCH_CHARS):
        of_prompts = ngrams_of([prompt for prompt, _ in parts[batch]])
        of_responses = ngrams_of([response for _, response in parts[batch]])
        prompts.append(_bands(of_prompts, _PROMPT_MINIMA))
        rows.append(_bands(_side_by_side(of_prompts, of_responses), _ROW_MINIMA))
    if not rows:
        return Sketches(*(np.zeros((0, NUM_BANDS), np.uint32) for _ in range(2)))
    return Sketches(np.concatenate(rows), np.concatenate(prompts))


def ngrams_of(texts: Sequence[str]) -> Ragged:
    """n-grams, at least one for each text: one without words ("", "?", an emoji) is like itself alone."""
    ngrams = hash_ngrams(hash_words(texts), N)
    wordless = np.flatnonzero(ngrams.counts == 0)
    if not len(wordless):
        return ngrams
    whole = b"".join(
        blake2b(texts[index].strip().encode("utf-8", "replace"), digest_size=8).digest()
        for index in wordless.tolist()
    )
    hashes = np.frombuffer(whole, "<u8").astype(np.uint64)
    values = np.insert(ngrams.values, ngrams.offsets[wordless], hashes)
    added = np.concatenate([[0], np.cumsum(ngrams.counts == 0)])
    return Ragged(values, ngrams.offsets + added)


def _side_by_side(prompts: Ragged, responses: Ragged) -> Ragged:
    values = np.empty(len(prompts.values) + len(responses.values), np.uint64)
    values[spans(prompts.offsets[:-1] + responses.offsets[:-1], prompts.counts)] = prompts.values
    values[spans(prompts.offsets[1:] + responses.offsets[:-1], responses.counts)] = mixed(
        responses.values ^ _RESPONSE
    )
    return Ragged(values, prompts.offsets + responses.offsets)


def _bands(ngrams: Ragged, minima: np.ndarray) -> np.ndarray:
    """uint32 [n, NUM_BANDS]. minima: int [NUM_BANDS, ROWS_PER_BAND], which ones make each band."""
    from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]  # compiled, no stubs

    if RMinHash.ALGORITHM_VERSION != _RENSA_ALGORITHM:
        raise InputError(
            f"the installed rensa computes MinHash version {RMinHash.ALGORITHM_VERSION}, but sketches "
            f"are stored in version {_RENSA_ALGORITHM}. Install the rensa of ct_llm's constraints.txt."
        )
    count = int(minima.max()) + 1
    digests = RMinHash.digest_matrix_from_flat_token_hashes(
        ngrams.values, ngrams.offsets.astype(np.uint64), count, _SEED
    ).to_rows()
    values = np.fromiter(chain.from_iterable(digests), np.uint64, len(digests) * count)
    in_bands = values.reshape(-1, count)[:, minima]
    return (mixed((in_bands * _FACTORS).sum(axis=2) ^ _BAND_SEEDS) >> np.uint64(32)).astype(
        np.uint32
    )
