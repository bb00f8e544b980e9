"""Rows that say the same in nearly the same words: found by their sketches, decided exactly.

Two rows are near duplicates when

- prompt and response each have Jaccard similarity >= min_similarity, over sets of two words: several
  questions on one passage share the prompt, not the response;
- both have the same numbers: tasks of one template are not copies of each other;
- and, where the response has fewer than MIN_RESPONSE_NGRAMS n-grams (a label, "yes", a number), the
  prompts have the same words throughout: so short an answer does not say that the same was asked.

Sketches only propose pairs (see band_pairs.py for what that can miss); what is decided is decided on
the texts. All results depend on the set of rows, not on their order.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from ct_llm.prepare.overlap.band_pairs import pairs_between, pairs_within
from ct_llm.prepare.overlap.ngram_sets import distinct, num_common
from ct_llm.prepare.overlap.sketches import NUM_BANDS, SKETCH_VERSION, Sketches, ngrams_of, sketch
from ct_llm.prepare.overlap.words import Ragged

__all__ = [
    "NUM_BANDS",
    "SKETCH_VERSION",
    "Corpus",
    "Sketches",
    "keep_one_of_each",
    "match_history",
    "similar_prompts",
    "sketch",
]

MIN_RESPONSE_NGRAMS = 8

_BATCH_ROWS = 1024
_NUMBER = re.compile(r"\d+")


class Corpus(NamedTuple):
    """Rows as sketches, and a way to their texts."""

    sketches: Sketches
    """Arrays, or maps of files: read from front to back."""
    parts: Callable[[Sequence[int]], Sequence[tuple[str, str]]]
    """(prompt, response) of rows, given by ascending distinct indices; called for candidates alone."""


def keep_one_of_each(new: Corpus, order: np.ndarray, min_similarity: float) -> np.ndarray:
    """int64 [n]: a row's own index if it is kept, else that of the kept row that it nearly repeats.

    order: int64 [n], the rows in the order in which they are considered; each is kept unless one that
    was kept before it is its near duplicate. Let it follow from the rows' content alone, and so does
    the result.
    """
    order = np.asarray(order, np.int64)
    keeper = np.arange(len(order))
    for pairs in pairs_within(new.sketches.rows[order]):
        left, right = order[pairs.left], order[pairs.right]
        open_ = keeper[right] == right
        left, right = left[open_], right[open_]
        rows, local = np.unique(np.concatenate([left, right]), return_inverse=True)
        texts = _Texts.load(new.parts, rows)
        same = _near_duplicates(
            texts, local[: len(left)], texts, local[len(left) :], min_similarity
        )
        # Pairs lie in the order of `left`, so that what is before it is decided.
        for row, earlier in zip(left[same].tolist(), right[same].tolist(), strict=True):
            if keeper[row] == row and keeper[earlier] == earlier:
                keeper[row] = earlier
    return keeper


def match_history(
    new: Corpus, history: Iterable[Corpus], min_similarity: float
) -> dict[int, tuple[int, int]]:
    """Row of `new` -> (index of the corpus in `history`, row in it) of which it is a near duplicate.

    One scan over the sketches of `history`, which are read one after the other; texts of candidates
    are fetched from each corpus at most twice.
    """
    return _match(
        new, history, lambda corpus: corpus.sketches.rows, _near_duplicates, min_similarity
    )


def similar_prompts(
    new: Corpus, others: Iterable[Corpus], min_similarity: float = 0.9
) -> dict[int, tuple[int, int]]:
    """The same for prompts alone, whatever their responses and numbers."""
    return _match(
        new, others, lambda corpus: corpus.sketches.prompts, _alike_prompts, min_similarity
    )


class _Texts(NamedTuple):
    prompts: Ragged
    responses: Ragged
    numbers: np.ndarray
    """uint64: a hash of the numbers in both."""

    @classmethod
    def load(
        cls, fetch: Callable[[Sequence[int]], Sequence[tuple[str, str]]], rows: np.ndarray
    ) -> "_Texts":
        prompts, responses, numbers = [], [], []
        for start in range(0, len(rows), _BATCH_ROWS):
            parts = fetch(rows[start : start + _BATCH_ROWS].tolist())
            prompts.append(distinct(ngrams_of([prompt for prompt, _ in parts])))
            responses.append(distinct(ngrams_of([response for _, response in parts])))
            numbers += [_numbers(prompt) + b"\0" + _numbers(response) for prompt, response in parts]
        hashes = b"".join(blake2b(found, digest_size=8).digest() for found in numbers)
        return cls(_joined(prompts), _joined(responses), np.frombuffer(hashes, np.uint64))


_Decide = Callable[[_Texts, np.ndarray, _Texts, np.ndarray, float], np.ndarray]


def _match(
    new: Corpus,
    others: Iterable[Corpus],
    bands: Callable[[Corpus], np.ndarray],
    decide: _Decide,
    min_similarity: float,
) -> dict[int, tuple[int, int]]:
    corpora: list[Corpus] = []

    def scanned() -> Iterable[np.ndarray]:
        for corpus in others:
            corpora.append(corpus)
            yield bands(corpus)

    found: dict[int, tuple[int, int]] = {}
    if not len(bands(new)):
        return found
    for pairs in pairs_between(bands(new), scanned()):
        ends = np.cumsum([len(bands(corpus)) for corpus in corpora])
        # The best candidate first: for most rows that have a match, it is the match.
        for tier in (pairs.rank == 0, pairs.rank > 0):
            open_ = tier & ~np.isin(pairs.left, np.fromiter(found, np.int64, len(found)))
            left, right = pairs.left[open_], pairs.right[open_]
            rows, left_local = np.unique(left, return_inverse=True)
            others_rows, right_local = np.unique(right, return_inverse=True)
            same = decide(
                _Texts.load(new.parts, rows),
                left_local,
                _Texts.load(_fetch_from(corpora, ends), others_rows),
                right_local,
                min_similarity,
            )
            for row, other in zip(left[same].tolist(), right[same].tolist(), strict=True):
                corpus = int(np.searchsorted(ends, other, "right"))
                begin = int(ends[corpus - 1]) if corpus else 0
                found.setdefault(row, (corpus, other - begin))
    return found


def _fetch_from(
    corpora: Sequence[Corpus], ends: np.ndarray
) -> Callable[[Sequence[int]], Sequence[tuple[str, str]]]:
    def fetch(rows: Sequence[int]) -> Sequence[tuple[str, str]]:
        parts: list[tuple[str, str]] = []
        index = np.array(rows, np.int64)
        which = np.searchsorted(ends, index, "right")
        for corpus in np.unique(which).tolist():
            begin = ends[corpus - 1] if corpus else 0
            parts += corpora[corpus].parts((index[which == corpus] - begin).tolist())
        return parts

    return fetch


def _near_duplicates(
    left: _Texts, left_index: np.ndarray, right: _Texts, right_index: np.ndarray, least: float
) -> np.ndarray:
    """bool [number of pairs]."""
    same = np.flatnonzero(left.numbers[left_index] == right.numbers[right_index])
    # A short response decides many pairs at little cost, so responses first.
    similarity = _jaccard(
        left.responses, left_index[same], right.responses, right_index[same], least
    )
    same = same[similarity >= least]
    short = (
        np.minimum(
            left.responses.counts[left_index[same]], right.responses.counts[right_index[same]]
        )
        < MIN_RESPONSE_NGRAMS
    )
    similarity = _jaccard(left.prompts, left_index[same], right.prompts, right_index[same], least)
    decided = np.zeros(len(left_index), bool)
    decided[same] = similarity >= np.where(short, 1.0, least)
    return decided


def _alike_prompts(
    left: _Texts, left_index: np.ndarray, right: _Texts, right_index: np.ndarray, least: float
) -> np.ndarray:
    return _jaccard(left.prompts, left_index, right.prompts, right_index, least) >= least


def _jaccard(
    left: Ragged, left_index: np.ndarray, right: Ragged, right_index: np.ndarray, least: float
) -> np.ndarray:
    """float64 [number of pairs]; 0 where the sizes alone keep it below `least`."""
    left_sizes, right_sizes = left.counts[left_index], right.counts[right_index]
    smaller, larger = np.minimum(left_sizes, right_sizes), np.maximum(left_sizes, right_sizes)
    possible = smaller >= least * larger
    similarity = np.zeros(len(left_index))
    common = num_common(left, left_index[possible], right, right_index[possible])
    similarity[possible] = common / ((left_sizes + right_sizes)[possible] - common)
    return similarity


def _numbers(text: str) -> bytes:
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(sorted(_NUMBER.findall(text))).encode()


def _joined(parts: Sequence[Ragged]) -> Ragged:
    if not parts:
        return Ragged(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    counts = np.concatenate([part.counts for part in parts])
    return Ragged(
        np.concatenate([part.values for part in parts]), np.concatenate([[0], np.cumsum(counts)])
    )
