"""Two samples of text: can a classifier tell them apart, and would it by chance?

The classifier two-sample test of Lopez-Paz and Oquab (2017), "Revisiting Classifier Two-Sample
Tests", with the AUC in place of the accuracy, so that samples of unequal size need no care.

The classifier is fitted on one half of the texts and judged on the other. Given the classifier, and
if both samples come from one distribution, the labels of the other half are exchangeable: permuting
them gives the null distribution of its AUC (that of Mann and Whitney) without fitting anything again,
and the p-value is valid however much the classifier has learnt by heart. Fitting on all folds in
turn would use every row for the AUC, but its folds share their training rows, so an honest p-value
would take a fit per permutation.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_PERMUTATIONS = 1_999
"""The smallest p-value is one in 2,000."""
MIN_TEXTS = 8
"""Fewer texts than this on either side are not judged: no half of them says anything."""
NUM_BUCKETS = 2**18
NUM_WORDS = 10
MAX_WORD_CHARS = 40

# Scripts without spaces between words: each character is a token, and pairs of them are the bigrams.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


@dataclass(frozen=True)
class Distinguished:
    """How well the classifier told the second half of the new texts from that of the reference."""

    auc: float
    p_value: float
    """One-sided: of an AUC as high as this where both samples come from one distribution."""
    weights: NDArray[np.floating]
    """(NUM_BUCKETS,) of the hashed n-grams: above 0 where one speaks for a new text."""


NOT_DISTINGUISHED = Distinguished(auc=0.5, p_value=1.0, weights=np.zeros(NUM_BUCKETS))


def tell_apart(new: Sequence[str], reference: Sequence[str], *, seed: int) -> Distinguished:
    """Fit a linear classifier on hashed word uni- and bigrams of one half, judge it on the other.

    A text counts once a side, however often it is there. One that is on both sides is put into one
    half with both its labels, so nothing is known from the other half, and permutations leave it
    alone. The order of the texts makes no difference.
    """
    texts, is_new = _pooled(new, reference, seed)
    if min(is_new.sum(), (~is_new).sum()) < MIN_TEXTS:
        return NOT_DISTINGUISHED
    on_both = _on_both(texts)
    fitted = _alternating(is_new, on_both)
    if len(np.unique(is_new[fitted])) < 2 or len(np.unique(is_new[~fitted])) < 2:
        return NOT_DISTINGUISHED
    scores, weights = _fit(texts, is_new, fitted, seed)
    auc, p_value = auc_with_p_value(
        scores[~fitted], is_new[~fitted], fixed=on_both[~fitted], seed=seed
    )
    return Distinguished(auc, p_value, weights)


def telling_words(
    new: Sequence[str], reference: Sequence[str], weights: NDArray[np.floating]
) -> tuple[str, ...]:
    """The words and pairs of words that told new texts the most, the strongest first.

    An n-gram's strength is what it adds to a new text's score more than to one of the reference, on
    average. Rare ones are left out: each is in several of the new texts, so that no single row shows.
    """
    counts = _num_texts_with(new)
    counts_before = _num_texts_with(reference)
    fewest = max(3, len(new) // 100)
    known = sorted(n for n, count in counts.items() if count >= fewest and n.isprintable())
    if not known:
        return ()
    buckets = _hashed(known, lambda ngram: [ngram]).indices
    more_often = np.array([counts[n] / len(new) - counts_before[n] / len(reference) for n in known])
    strength = weights[buckets] * more_often.clip(0)
    chosen: list[str] = []
    for index in np.argsort(-strength, kind="stable"):
        if strength[index] <= 0 or len(chosen) == NUM_WORDS:
            break
        # "the model" says nothing more beside "model".
        if not any(set(known[index].split()) & set(other.split()) for other in chosen):
            chosen.append(known[index])
    return tuple(chosen)


def _num_texts_with(texts: Sequence[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(ngrams(text)))
    return counts


def auc_with_p_value(
    scores: NDArray[np.floating], is_new: NDArray[np.bool_], *, fixed: NDArray[np.bool_], seed: int
) -> tuple[float, float]:
    """Area under the ROC curve of `scores` (n,), and its one-sided p-value by permuting labels.

    fixed: (n,) true where a label stays as it is. There must be at least one text of each label.
    """
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    num_new = int(is_new.sum())
    num_pairs = num_new * (len(is_new) - num_new)
    permuted = permuted_labels(is_new, fixed, seed)
    # Ranks are halves of whole numbers, so these sums are exact and ties with the observed count.
    sums = permuted.astype(np.float64) @ ranks
    observed = float(ranks[is_new].sum())
    auc = (observed - num_new * (num_new + 1) / 2) / num_pairs
    return auc, share_as_extreme(sums, observed)


def permuted_labels(
    is_new: NDArray[np.bool_], fixed: NDArray[np.bool_], seed: int
) -> NDArray[np.bool_]:
    """(NUM_PERMUTATIONS, n): the labels in random orders, the fixed ones in their places."""
    permuted = np.tile(is_new, (NUM_PERMUTATIONS, 1))
    permuted[:, ~fixed] = np.random.default_rng(seed).permuted(permuted[:, ~fixed], axis=1)
    return permuted


def share_as_extreme(permuted: NDArray[np.floating], observed: float) -> float:
    """The p-value: the observed value counts as one of the permutations."""
    return (1 + int((permuted >= observed).sum())) / (1 + len(permuted))


# ---------------------------------------------------------------- halves


def text_order(text: str, seed: int) -> bytes:
    """A place for a text that nothing but itself and the seed decides."""
    return hashlib.blake2b(text.encode(), digest_size=16, key=seed.to_bytes(8)).digest()


def _pooled(
    new: Sequence[str], reference: Sequence[str], seed: int
) -> tuple[list[str], NDArray[np.bool_]]:
    """The distinct texts of each side, those of both sides next to each other."""
    pooled = sorted(
        (text_order(text, seed), is_new, text)
        for is_new, side in ((False, reference), (True, new))
        for text in set(side)
    )
    texts = [text for _, _, text in pooled]
    return texts, np.array([is_new for _, is_new, _ in pooled], dtype=bool)


def _on_both(texts: list[str]) -> NDArray[np.bool_]:
    same = np.array([a == b for a, b in pairwise(texts)], dtype=bool)
    on_both = np.zeros(len(texts), dtype=bool)
    on_both[:-1] |= same
    on_both[1:] |= same
    return on_both


def _alternating(is_new: NDArray[np.bool_], on_both: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True for the half to fit on: every other text of each kind, in their random order."""
    fitted = np.zeros(len(is_new), dtype=bool)
    for side in (is_new & ~on_both, ~is_new & ~on_both):
        fitted[np.flatnonzero(side)[::2]] = True
    shared = np.flatnonzero(on_both).reshape(-1, 2)
    fitted[shared[1::2].ravel()] = True
    return fitted


# ---------------------------------------------------------------- the classifier


def ngrams(text: str) -> list[str]:
    """Words, marks and characters of unspaced scripts, alone and in pairs."""
    tokens = [token[:MAX_WORD_CHARS] for token in _TOKEN.findall(text.lower())]
    return [*tokens, *map(" ".join, pairwise(tokens))]


def _fit(
    texts: list[str], is_new: NDArray[np.bool_], fitted: NDArray[np.bool_], seed: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The decision value of each text, and the weight of each bucket."""
    from sklearn.linear_model import LogisticRegression

    vectors = _hashed(texts, ngrams)
    # The dual form: far fewer texts than buckets.
    classifier = LogisticRegression(
        solver="liblinear", dual=True, class_weight="balanced", random_state=seed, max_iter=200
    )
    classifier.fit(vectors[fitted], is_new[fitted])
    return classifier.decision_function(vectors), classifier.coef_[0]


def _hashed(texts: Sequence[str], analyzer: Callable[[str], list[str]]) -> Any:
    """Sparse (texts, NUM_BUCKETS): which n-grams a text has, each row of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer

    make: Any = HashingVectorizer  # its defaults are all that a type checker sees of its arguments
    vectorizer = make(
        analyzer=analyzer,
        n_features=NUM_BUCKETS,
        alternate_sign=False,
        binary=True,
        dtype=np.float32,
    )
    return vectorizer.transform(texts)
