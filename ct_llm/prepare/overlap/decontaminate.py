"""Does a row repeat an item of the evaluation? Exactly, with its question inside, or in most of its words.

A model that was trained on an item is no longer measured by it. GPT-3 (Brown et al. 2020, appendix C)
took out what shared a run of 13 words with a benchmark; Llama 3 (Grattafiori et al. 2024, section
5.1.4) counts the share of an example's 8-grams that the corpus has; Tülu 3 (Lambert et al. 2024,
section 3.2) matches 8-grams of prompts and takes half of an item's tokens for a match. Those are made
for large corpora and long documents. Rows of instructions are short, and so are items: a word changed
breaks eight 8-grams of a question of twenty words. So here n is 3, and four rules keep chance out:

- n-grams in many items of a slice (MAX_ITEMS) are wording of its template; they do not count as
  evidence, and a text of which little else is left is not judged by n-grams at all. Otherwise the
  items of a templated benchmark would condemn every honest row of the same template.
- The row must have `min_containment` of the item's distinctive n-grams, and of all its n-grams.
- A row that has other numbers in place of the item's is another item of its kind.
- Questions of fewer than MIN_WORDS words are found as whole messages only. Other texts of an item
  (answers, solutions) need MIN_TEXT_DISTINCTIVE distinctive n-grams: the textbook's `fibonacci` is
  nobody's.

What this misses: translations and free paraphrases (no n-gram method sees them), and near copies of
templated or very short items, which are as near to the items' honest siblings.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from ct_llm.prepare.overlap.gram_index import GramIndex
from ct_llm.prepare.overlap.ngram_sets import distinct, num_common, spans
from ct_llm.prepare.overlap.words import Ragged, batches, hash_ngrams, hash_words, mixed

N = 3
MIN_WORDS = 8
"""A question this long counts when it stands anywhere in a message, and is judged by n-grams."""
MIN_TEXT_WORDS = 13
"""Texts that are not questions must have as many to be found as whole messages: an answer such as "the
second option" is everyone's."""
MAX_ITEMS = 10
"""An n-gram in more items of one slice is template wording; in a slice of fewer than fifty items, one in
more than two items and a fifth of them."""
MIN_DISTINCTIVE = 3
MIN_TEXT_DISTINCTIVE = 24
MIN_DISTINCTIVE_SHARE = 1 / 3
"""Of a text's n-grams: with fewer, its near copies cannot be told from other items of the template."""

_NUMBER = re.compile(r"\d+")
_BATCH_ROWS = 512
_BATCH_CHARS = 4_000_000
_BRACKETS_AND_MARKS = frozenset("()[]{}<>+-*/=^%&|~!?")


class EvalItem(NamedTuple):
    """An item of a suite, or a held-out row."""

    slice: str
    item_id: str
    question: str
    """May be empty: then the texts alone are looked for."""
    texts: tuple[str, ...]
    """All of its texts: question, answer and other fields; each is looked for by itself."""
    min_containment: float | None = None
    """In place of the Decontaminator's, for this item."""


class Hit(NamedTuple):
    """What a row repeats."""

    item: int
    """Index into the items."""
    kind: Literal["exact", "question", "ngrams"]
    """exact: a message, or the row as a whole, is one of the item's texts. question: a message holds
    the item's question word for word. ngrams: see `containment`."""
    containment: float
    """Share of the distinctive n-grams of one of the item's texts that the row has; 1 for the others."""


class Decontaminator:
    """All items, indexed: about 100 bytes for each of their words."""

    def __init__(self, items: Sequence[EvalItem], min_containment: float) -> None:
        """min_containment: share of an item's distinctive n-grams that makes a row a copy of it."""
        self._texts: list[str] = []
        item_of, is_question, threshold, slices = [], [], [], []
        numbers: dict[str, int] = {}
        for index, item in enumerate(items):
            for text in dict.fromkeys((item.question, *item.texts)):
                if not text:
                    continue
                self._texts.append(text)
                item_of.append(index)
                is_question.append(text == item.question)
                threshold.append(
                    min_containment if item.min_containment is None else item.min_containment
                )
                slices.append(numbers.setdefault(item.slice, len(numbers)))
        self._item = np.array(item_of, np.int64)
        self._is_question = np.array(is_question, bool)
        self._threshold = np.array(threshold, np.float64)

        self._words = hash_words(self._texts)
        self._length = self._words.counts
        self._index_exact()
        self._index_ngrams(np.array(slices, np.int64))

    def find(self, rows: Sequence[Sequence[str]]) -> list[Hit | None]:
        """For each row, given as the texts of its messages, the strongest hit.

        exact before question before ngrams, then the higher containment, then the first item. A row's
        hit depends on nothing but the row and the items.
        """
        hits: list[Hit | None] = []
        sizes = (sum(map(len, row)) for row in rows)
        for batch in batches(sizes, _BATCH_ROWS, _BATCH_CHARS):
            hits += self._find(rows[batch])
        return hits

    # ------------------------------------------------------------------ the index

    def _index_exact(self) -> None:
        """Whole texts by the hash of their words."""
        hashes = hash_sequences(self._words)
        text = np.flatnonzero(self._length >= np.where(self._is_question, 1, MIN_TEXT_WORDS))
        self._wholes = GramIndex(hashes[text], text)
        # "[ ( ]" and "( [ )" have the same words: none. Where marks are all that keeps texts apart,
        # or the words are few, marks are compared too.
        self._needs_marks = self._length < MIN_WORDS
        _, group, size = np.unique(hashes, return_inverse=True, return_counts=True)
        same_words: defaultdict[int, list[int]] = defaultdict(list)
        for index in np.flatnonzero(size[group] > 1).tolist():
            same_words[group[index]].append(index)
        for texts in same_words.values():
            if len({_with_marks(self._texts[index]) for index in texts}) > 1:
                self._needs_marks[texts] = True

    def _index_ngrams(self, slices: np.ndarray) -> None:
        self._grams = distinct(hash_ngrams(self._words, N))
        counts = self._grams.counts
        text = np.repeat(np.arange(len(counts)), counts)
        num_items = _num_items(self._grams.values, self._item[text], slices[text])
        items_in_slice = np.bincount(slices[np.unique(self._item, return_index=True)[1]])
        most = np.clip(items_in_slice // 5, 2, MAX_ITEMS)
        is_distinctive = num_items <= most[slices[text]]
        self._num_distinctive = np.bincount(text[is_distinctive], minlength=len(counts))
        long_question = self._is_question & (self._length >= MIN_WORDS)
        judged = (
            ~self._needs_marks
            & (long_question | (self._num_distinctive >= MIN_TEXT_DISTINCTIVE))
            & (self._num_distinctive >= MIN_DISTINCTIVE)
            & (self._num_distinctive >= MIN_DISTINCTIVE_SHARE * counts)
        )
        # Ceilings, with room for what a product of floats is off by.
        self._min_distinctive = np.maximum(
            np.ceil(self._threshold * self._num_distinctive - 1e-9), MIN_DISTINCTIVE
        ).astype(np.int64)
        self._min_all = np.ceil(self._threshold * counts - 1e-9).astype(np.int64)
        before = np.concatenate([[0], np.cumsum(is_distinctive)])
        self._distinctive = Ragged(self._grams.values[is_distinctive], before[self._grams.offsets])
        use = is_distinctive & judged[text]
        self._index = GramIndex(self._grams.values[use], text[use])

        # A question is found inside a message by its rarest n-gram, and then compared word for word.
        whole = np.flatnonzero(long_question & ~self._needs_marks)
        ordered = hash_ngrams(self._words, N)
        known, entry = np.unique(self._grams.values, return_index=True)
        rarity = num_items[entry[np.searchsorted(known, ordered.values)]]
        place = np.arange(len(rarity))
        self._anchor = np.zeros(len(counts), np.int64)
        if len(whole):
            first = ordered.offsets[:-1]
            some = ordered.counts > 0
            rarest = np.minimum.reduceat((rarity << 40) | place, first[some]) & ((1 << 40) - 1)
            self._anchor[some] = rarest - first[some]
        self._anchors = GramIndex(
            ordered.values[ordered.offsets[whole] + self._anchor[whole]], whole
        )

    # ------------------------------------------------------------------ the search

    def _find(self, rows: Sequence[Sequence[str]]) -> list[Hit | None]:
        messages = [text for row in rows for text in row]
        row_of = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        words = hash_words(messages)
        ngrams = hash_ngrams(words, N)
        near = self._near(row_of, ngrams, len(rows))
        same = [
            not self._other_numbers(rows[int(row)], int(text))
            for row, text in zip(near.rows, near.texts, strict=True)
        ]
        near = _Found(*(column[np.array(same, bool)] for column in near))
        best: dict[int, tuple[int, float, int]] = {}
        for strength, (found_rows, texts, containment) in enumerate(
            (
                near,
                self._inside(row_of, words, ngrams),
                self._exact(rows, messages, row_of, words),
            )
        ):
            items = self._item[texts]
            for row, item, share in zip(
                found_rows.tolist(), items.tolist(), containment.tolist(), strict=True
            ):
                best[row] = max(best.get(row, (-1, 0.0, 0)), (strength, share, -item))
        kinds = ("ngrams", "question", "exact")
        return [
            Hit(-best[row][2], kinds[best[row][0]], best[row][1]) if row in best else None
            for row in range(len(rows))
        ]

    def _near(self, row_of: np.ndarray, ngrams: Ragged, num_rows: int) -> "_Found":
        """Rows that have enough of a text's n-grams."""
        offsets = _offsets_of_rows(row_of, ngrams.offsets, num_rows)
        position, text = self._index.find(ngrams.values)
        row = np.searchsorted(offsets, position, "right") - 1
        # An n-gram that a row repeats is counted twice here; the exact count comes for the few left.
        pairs, counts = np.unique(row * len(self._texts) + text, return_counts=True)
        row, text = np.divmod(pairs, max(len(self._texts), 1))
        likely = counts >= self._min_distinctive[text]
        row, text = row[likely], text[likely]
        candidates, local = np.unique(row, return_inverse=True)
        sizes = np.diff(offsets)[candidates]
        of_rows = distinct(
            Ragged(
                ngrams.values[spans(offsets[candidates], sizes)],
                np.concatenate([[0], np.cumsum(sizes)]),
            )
        )
        num_distinctive = num_common(of_rows, local, self._distinctive, text)
        near = num_distinctive >= self._min_distinctive[text]
        row, local, text = row[near], local[near], text[near]
        containment = num_distinctive[near] / self._num_distinctive[text]
        near = num_common(of_rows, local, self._grams, text) >= self._min_all[text]
        return _Found(row[near], text[near], containment[near])

    def _other_numbers(self, row: Sequence[str], text: int) -> bool:
        """The row asks the same of other numbers: another item of the template, not a copy."""
        wanted = _numbers(self._texts[text])
        # An answer works with numbers that its question does not have.
        asked = row[:-1] if self._is_question[text] and len(row) > 1 else row
        there = _numbers(" ".join(asked))
        return bool(wanted - there) and bool(there - wanted)

    def _inside(self, row_of: np.ndarray, words: Ragged, ngrams: Ragged) -> "_Found":
        """Messages in which a question stands word for word."""
        position, text = self._anchors.find(ngrams.values)
        message = np.searchsorted(ngrams.offsets, position, "right") - 1
        start = position - ngrams.offsets[message] + words.offsets[message] - self._anchor[text]
        fits = (start >= words.offsets[message]) & (
            start + self._length[text] <= words.offsets[message + 1]
        )
        start, text, message = start[fits], text[fits], message[fits]
        # The last words first: most candidates that only begin alike end here.
        last = self._length[text] - 1
        same = words.values[start + last] == self._words.values[self._words.offsets[text] + last]
        start, text, message = start[same], text[same], message[same]
        sizes = self._length[text]
        differ = (
            words.values[spans(start, sizes)]
            != self._words.values[spans(self._words.offsets[text], sizes)]
        )
        same = np.bincount(np.repeat(np.arange(len(text)), sizes)[differ], minlength=len(text)) == 0
        return _Found(row_of[message[same]], text[same], np.ones(same.sum()))

    def _exact(
        self,
        rows: Sequence[Sequence[str]],
        messages: Sequence[str],
        row_of: np.ndarray,
        words: Ragged,
    ) -> "_Found":
        """Messages, and rows taken as one text, that are a text of an item."""
        joined = Ragged(words.values, _offsets_of_rows(row_of, words.offsets, len(rows)))
        hashes = np.concatenate([hash_sequences(words), hash_sequences(joined)])
        owner = np.concatenate([row_of, np.arange(len(rows))])
        position, text = self._wholes.find(hashes)
        same = np.ones(len(text), bool)
        for index in np.flatnonzero(self._needs_marks[text]).tolist():
            place = int(position[index])
            said = (
                messages[place] if place < len(messages) else "\n".join(rows[place - len(messages)])
            )
            same[index] = _with_marks(said) == _with_marks(self._texts[text[index]])
        return _Found(owner[position[same]], text[same], np.ones(same.sum()))


class _Found(NamedTuple):
    rows: np.ndarray
    texts: np.ndarray
    containment: np.ndarray


def hash_sequences(words: Ragged) -> np.ndarray:
    """uint64 of each text's words in their order; that of no words is 0."""
    counts = words.counts
    position = np.arange(len(words.values)) - np.repeat(words.offsets[:-1], counts)
    # The place of a word goes into its hash; the sum then stands for the sequence.
    placed = mixed(words.values + mixed(position.astype(np.uint64)))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(placed, dtype=np.uint64)])
    return sums[words.offsets[1:]] - sums[words.offsets[:-1]]


def _offsets_of_rows(row_of: np.ndarray, offsets: np.ndarray, num_rows: int) -> np.ndarray:
    """Offsets of rows, from those of their messages."""
    return offsets[np.searchsorted(row_of, np.arange(num_rows + 1))]


def _num_items(grams: np.ndarray, items: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """int64: in how many items of its slice the n-gram of each entry occurs."""
    in_slice = grams ^ mixed(slices.astype(np.uint64))
    order = np.lexsort((items, in_slice))
    gram, item = in_slice[order], items[order]
    new_gram = np.ones(len(order), bool)
    new_gram[1:] = gram[1:] != gram[:-1]
    new_item = new_gram.copy()
    new_item[1:] |= item[1:] != item[:-1]
    group = np.cumsum(new_gram) - 1
    found = np.empty(len(order), np.int64)
    found[order] = np.bincount(group, new_item)[group] if len(order) else 0
    return found


def _numbers(text: str) -> set[str]:
    return set(_NUMBER.findall(text if text.isascii() else unicodedata.normalize("NFKC", text)))


def _with_marks(text: str) -> str:
    """What tells short texts apart: letters, digits, brackets and marks; no blanks, no full stops."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in text if char.isalnum() or char in _BRACKETS_AND_MARKS)
