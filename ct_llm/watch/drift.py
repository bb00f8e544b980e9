"""Do new rows differ from those that the champion was trained on, and in what?

One test decides: whether a classifier tells them apart (`two_samples.py`). Lengths, scripts,
languages and sources stand beside it to say in what the rows differ; their p-values are each on its
own, not corrected for there being four of them. No model is fetched for any of it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ct_llm.config import DriftConfig
from ct_llm.records import DriftedFeature, DriftReport, SampledRow
from ct_llm.watch.scripts import script_shares
from ct_llm.watch.two_samples import (
    MIN_TEXTS,
    NOT_DISTINGUISHED,
    permuted_labels,
    share_as_extreme,
    tell_apart,
    telling_words,
    text_order,
)

MAX_CHARS = 4_000
"""How much of a row is read; its length is that of the whole row."""
LANGUAGE_CHARS = 300
"""How much of it is enough to name the language."""
MIN_LANGUAGE_LETTERS = 20
"""Shorter texts could be in any language."""
MAX_CATEGORIES = 30
"""Rarer sources and languages count together as one."""

Shares = Mapping[str, float]
"""Of a row: what part of it falls to each category; they add up to 1."""


def measure_drift(
    new: Sequence[SampledRow], reference: Sequence[SampledRow], config: DriftConfig
) -> DriftReport:
    """Compare samples of the new rows and of those that the champion was trained on.

    A row that repeats another one of its side is dropped first, since training takes it once.
    Drifted: told apart with an AUC of at least `min_auc`, at most `alpha` of it by chance; with
    fewer than `min_new_rows` distinct rows on either side nothing is judged. Decided by the seed and
    by which rows they are, not by their order.
    """
    new, reference = _distinct(new, config.seed), _distinct(reference, config.seed)
    texts, reference_texts = _read(new), _read(reference)
    judged = min(len(new), len(reference)) >= config.min_new_rows
    told = tell_apart(texts, reference_texts, seed=config.seed) if judged else NOT_DISTINGUISHED
    drifted = told.auc >= config.min_auc and told.p_value <= config.alpha
    return DriftReport(
        num_new=len(new),
        num_reference=len(reference),
        auc=round(told.auc, 4),
        p_value=told.p_value,
        drifted=drifted,
        features=_features(new, reference, config.seed) if new and reference else (),
        words=telling_words(texts, reference_texts, told.weights) if drifted else (),
    )


def _distinct(rows: Sequence[SampledRow], seed: int) -> list[SampledRow]:
    """One row a text, in an order that is the texts' own."""
    by_text: dict[str, SampledRow] = {}
    for row in rows:
        # Half a surrogate pair, which JSON can spell, is no text to any of the libraries used here.
        text = row.text.encode("utf-8", "replace").decode()
        kept = by_text.get(text)
        if kept is None or row.source < kept.source:
            by_text[text] = SampledRow(text, row.source)
    return sorted(by_text.values(), key=lambda row: text_order(row.text, seed))


def _read(rows: Sequence[SampledRow]) -> list[str]:
    return [row.text[:MAX_CHARS] for row in rows]


# ---------------------------------------------------------------- in what they differ


def _features(
    new: Sequence[SampledRow], reference: Sequence[SampledRow], seed: int
) -> tuple[DriftedFeature, ...]:
    rows = [*new, *reference]
    permutations = _Permutations(rows, len(new), seed)
    found = [
        _lengths(new, reference),
        permutations.compare("script", [script_shares(text) for text in _read(rows)]),
        permutations.compare("language", [{language(text): 1.0} for text in _read(rows)]),
        permutations.compare("source", [{row.source: 1.0} for row in rows]),
    ]
    return tuple(sorted(found, key=lambda feature: -feature.value))


def _lengths(new: Sequence[SampledRow], reference: Sequence[SampledRow]) -> DriftedFeature:
    from scipy.stats import ks_2samp

    now, before = ([len(row.text) for row in side] for side in (new, reference))
    with np.errstate(divide="ignore"):  # in the p-value for one row a side, which is not used
        test: Any = ks_2samp(now, before, method="asymp")
    return DriftedFeature(
        feature="length",
        statistic="Kolmogorov-Smirnov",
        value=round(float(test.statistic), 4),
        p_value=float(test.pvalue) if min(len(now), len(before)) >= MIN_TEXTS else None,
        sentence=f"median length {median(now):,.0f} characters, "
        f"{median(before):,.0f} in the champion's data",
    )


class _Permutations:
    """Total variation between the mean shares of the first rows and of the others, with p-values.

    The rows are what is permuted, so the test holds for shares within a row as well as for rows that
    fall to one category each.
    """

    def __init__(self, rows: Sequence[SampledRow], num_new: int, seed: int) -> None:
        is_new = np.arange(len(rows)) < num_new
        times = Counter(row.text for row in rows)
        on_both = np.array([times[row.text] > 1 for row in rows])
        self._num_new = num_new
        # The first is what was observed.
        self._labels = np.vstack([is_new, permuted_labels(is_new, on_both, seed)]).astype(float)

    def compare(self, feature: str, shares: Sequence[Shares]) -> DriftedFeature:
        names, matrix = _matrix(shares)
        sums = self._labels @ matrix
        now = sums / self._num_new
        before = (matrix.sum(axis=0) - sums) / (len(matrix) - self._num_new)
        # Rounded, so that an order of summation does not make two equal distances unequal.
        distances = (np.abs(now - before).sum(axis=1) / 2).round(9)
        most = int(np.argmax(now[0] - before[0]))
        return DriftedFeature(
            feature=feature,
            statistic="total variation",
            value=round(float(distances[0]), 4),
            p_value=share_as_extreme(distances[1:], distances[0]),
            sentence=f"{feature} {_shown(names[most])}: {now[0, most]:.0%} of the new rows, "
            f"{before[0, most]:.0%} of the champion's data",
        )


def _matrix(shares: Sequence[Shares]) -> tuple[list[str], NDArray[np.floating]]:
    """Names of the categories, and (rows, categories); the rarest of many are one category."""
    totals: Counter[str] = Counter()
    for row in shares:
        totals.update(row)
    names = sorted(totals, key=lambda name: (-totals[name], name))[:MAX_CATEGORIES]
    column = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(shares), len(names) + 1))
    for index, row in enumerate(shares):
        for name, share in row.items():
            matrix[index, column.get(name, len(names))] += share
    return [*names, "others"], matrix


def _shown(name: str) -> str:
    return "".join(char for char in name if char.isprintable())[:60]


def language(text: str) -> str:
    """ISO 639-1 code by py3langid (a naive Bayes model that comes inside its wheel), or `none`."""
    from py3langid import classify

    start = text[:LANGUAGE_CHARS]
    if sum(map(str.isalpha, start)) < MIN_LANGUAGE_LETTERS:
        return "none"
    return classify(start)[0]
