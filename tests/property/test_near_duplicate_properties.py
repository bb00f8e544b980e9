"""The same set of rows gives the same kept set, in whatever order and files it comes."""

from collections.abc import Sequence
from hashlib import sha256
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.prepare.overlap.near_duplicates import Corpus, keep_one_of_each, match_history, sketch

Part = tuple[str, str]
_WORDS = [f"word{index}" for index in range(60)]


@st.composite
def _rows(draw: st.DrawFn) -> list[Part]:
    """A few texts, each in several versions that differ in some words."""
    rows = []
    for start in draw(st.lists(st.integers(0, 40), min_size=1, max_size=4)):
        for _ in range(draw(st.integers(1, 5))):
            prompt, response = list(_WORDS[start : start + 12]), list(_WORDS[start : start + 20])
            for place in draw(st.lists(st.integers(0, 11), max_size=3)):
                prompt[place] = draw(st.sampled_from(["other", "12", ""]))
            for place in draw(st.lists(st.integers(0, 19), max_size=3)):
                response[place] = draw(st.sampled_from(["other", "7", ""]))
            rows.append((" ".join(prompt), " ".join(response)))
    return sorted(set(rows))


def corpus(rows: Sequence[Part]) -> Corpus:
    return Corpus(sketch(rows), lambda indices: [rows[index] for index in indices])


def by_content(rows: Sequence[Part]) -> np.ndarray:
    return np.array(
        sorted(range(len(rows)), key=lambda row: sha256("\0".join(rows[row]).encode()).digest()),
        np.int64,
    )


@given(_rows(), st.randoms(use_true_random=False), st.sampled_from([0.6, 0.75, 0.9]))
def test_the_order_of_rows_does_not_matter(rows: list[Part], rng: object, least: float) -> None:
    def result(some: list[Part]) -> dict[Part, Part]:
        keeper = keep_one_of_each(corpus(some), by_content(some), least)
        assert np.array_equal(keeper[keeper], keeper)
        return {row: some[keeper[index]] for index, row in enumerate(some)}

    shuffled = list(rows)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert result(rows) == result(shuffled)


@given(_rows(), _rows(), st.integers(1, 5), st.sampled_from([0.6, 0.75]))
def test_the_files_of_the_history_do_not_matter(
    new: list[Part], history: list[Part], pieces: int, least: float
) -> None:
    whole = match_history(corpus(new), [corpus(history)], least)
    cuts = np.linspace(0, len(history), pieces + 1).astype(int).tolist()
    split = [history[start:stop] for start, stop in pairwise(cuts)]
    found = match_history(corpus(new), map(corpus, split), least)
    assert {row: cuts[which] + index for row, (which, index) in found.items()} == {
        row: index for row, (_, index) in whole.items()
    }


@given(_rows())
def test_a_row_nearly_repeats_itself_alone_where_nothing_is_alike(rows: list[Part]) -> None:
    # At 1.0 only rows with the same words are one; all of these differ in a word at least.
    keeper = keep_one_of_each(corpus(rows), np.arange(len(rows)), 1.0)
    for index, kept in enumerate(keeper.tolist()):
        assert [" ".join(text.split()) for text in rows[index]] == [
            " ".join(text.split()) for text in rows[kept]
        ] or index == kept
    assert set(match_history(corpus(rows), [corpus(rows)], 1.0)) == set(range(len(rows)))
