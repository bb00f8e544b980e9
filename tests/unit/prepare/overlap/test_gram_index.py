import numpy as np

from ct_llm.prepare.overlap.gram_index import GramIndex
from ct_llm.prepare.overlap.words import mixed


def test_finds_every_pair_and_no_other() -> None:
    rng = np.random.default_rng(0)
    vocabulary = mixed(np.arange(5_000, dtype=np.uint64))
    pairs = np.unique(
        np.stack([rng.integers(0, 4_000, 20_000), rng.integers(0, 300, 20_000)], axis=1), axis=0
    )
    index = GramIndex(vocabulary[pairs[:, 0]], pairs[:, 1])
    of_gram: dict[int, set[int]] = {}
    for gram, number in pairs.tolist():
        of_gram.setdefault(gram, set()).add(number)

    asked = rng.integers(0, 5_000, 3_000)
    position, number = index.find(vocabulary[asked])
    assert np.all(np.diff(position) >= 0)
    found = list(zip(position.tolist(), number.tolist(), strict=True))
    expected = {
        (place, number)
        for place, gram in enumerate(asked.tolist())
        for number in of_gram.get(gram, ())
    }
    assert set(found) == expected and len(found) == len(expected)


def test_ngrams_that_crowd_one_end() -> None:
    grams = np.array([0, 1, 2, 3, 2**64 - 1], np.uint64)
    index = GramIndex(grams, np.arange(5))
    position, number = index.find(np.array([2**64 - 1, 4, 3, 0, 2**64 - 2], np.uint64))
    assert position.tolist() == [0, 2, 3] and number.tolist() == [4, 3, 0]


def test_nothing_in_it_or_nothing_asked() -> None:
    nothing = np.zeros(0, np.uint64)
    for index in (
        GramIndex(nothing, np.zeros(0, np.int64)),
        GramIndex(np.ones(1, np.uint64), np.zeros(1, np.int64)),
    ):
        position, number = index.find(nothing)
        assert len(position) == len(number) == 0
    position, _ = GramIndex(nothing, np.zeros(0, np.int64)).find(np.zeros(3, np.uint64))
    assert len(position) == 0
