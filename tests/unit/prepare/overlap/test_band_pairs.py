import numpy as np

from ct_llm.prepare.overlap.band_pairs import (
    MAX_BUCKET,
    MAX_CANDIDATES,
    Pairs,
    pairs_between,
    pairs_within,
)


def some_bands(num_rows: int, values: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, values, (num_rows, 8), dtype=np.uint32)


def as_set(blocks: list[Pairs]) -> set[tuple[int, int]]:
    pairs = [
        pair
        for block in blocks
        for pair in zip(block.left.tolist(), block.right.tolist(), strict=True)
    ]
    assert len(set(pairs)) == len(pairs)
    return set(pairs)


def test_all_pairs_that_share_a_band() -> None:
    bands = some_bands(300, 2_000, 0)
    same = (bands[:, None, :] == bands[None, :, :]).any(axis=2)
    expected = {(i, j) for i, j in zip(*np.nonzero(same), strict=True) if j < i}
    assert as_set(list(pairs_within(bands))) == expected
    assert len(expected) > 100


def test_all_pairs_between_and_however_the_others_are_split() -> None:
    bands, others = some_bands(200, 2_000, 1), some_bands(20_000, 50_000, 2)
    same = (bands[:, None, :] == others[None, :, :]).any(axis=2)
    expected = set(zip(*(side.tolist() for side in np.nonzero(same)), strict=True))
    assert len(expected) > 100
    for pieces in (1, 7, 900):
        split = np.array_split(others, pieces)
        assert as_set(list(pairs_between(bands, [*split, others[:0]]))) == expected


def test_the_most_alike_come_first() -> None:
    first = np.arange(8, dtype=np.uint32)[None]
    others = np.full((5, 8), 99, np.uint32)
    for row, shared in enumerate((2, 0, 7, 4, 8)):
        others[row, :shared] = first[0, :shared]
    (pairs,) = pairs_between(first, [others])
    assert pairs.right.tolist() == [4, 2, 3, 0]
    assert pairs.rank.tolist() == [0, 1, 2, 3]


def test_crowded_buckets_stay_linear() -> None:
    alike = np.ones((20_000, 8), np.uint32)
    within = as_set(list(pairs_within(alike)))
    assert {right for _, right in within} == set(range(MAX_BUCKET))
    assert len(within) <= len(alike) * MAX_BUCKET
    between = as_set(list(pairs_between(alike[:100], [alike] * 3)))
    assert {right for _, right in between} == set(range(MAX_BUCKET))

    # Every bucket is full of other rows: no row gets more candidates than it may.
    crowded = some_bands(5_000, 4, 3)
    (pairs,) = pairs_within(crowded)
    assert np.bincount(pairs.left).max() == MAX_CANDIDATES


def test_no_rows() -> None:
    none = np.zeros((0, 8), np.uint32)
    assert as_set(list(pairs_within(none))) == set()
    assert as_set(list(pairs_between(some_bands(3, 9, 0), []))) == set()
    assert as_set(list(pairs_between(some_bands(3, 9, 0), [none]))) == set()
