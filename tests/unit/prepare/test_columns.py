import numpy as np
import pytest

from ct_llm.prepare.columns import first_of_each, known


def ids(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.uint64).reshape(-1, 2)


def test_one_row_of_each_id_sorted_by_id():
    first, group = first_of_each(ids((9, 1), (3, 2), (9, 1), (3, 1)))
    assert first.tolist() == [3, 1, 0]
    assert group.tolist() == [2, 1, 2, 0]


def test_ids_that_share_their_first_half_are_different_rows():
    same_half = ids((7, 1), (7, 2))
    assert len(first_of_each(same_half)[0]) == 2
    assert known(same_half, ids((7, 2))).tolist() == [False, True]


def test_which_of_several_rows_is_first_can_be_asked_for():
    first, _ = first_of_each(ids((5, 5), (5, 5), (5, 5)), np.array([2, 0, 1]))
    assert first.tolist() == [1]


@pytest.mark.parametrize(("some", "others"), [(0, 0), (0, 3), (3, 0)])
def test_none_is_known_where_there_are_none(some, others):
    one, other = ids(*[(n, n) for n in range(some)]), ids(*[(n, n) for n in range(others)])
    assert known(one, other).tolist() == [False] * some


def test_known_agrees_with_a_set():
    random = np.random.default_rng(0)
    some = random.integers(0, 40, (500, 2), np.uint64)
    others = random.integers(0, 40, (300, 2), np.uint64)
    there = {tuple(one) for one in others.tolist()}
    assert known(some, others).tolist() == [tuple(one) in there for one in some.tolist()]
