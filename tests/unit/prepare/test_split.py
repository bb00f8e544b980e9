from hashlib import sha256

import numpy as np
import pytest

from ct_llm.prepare.split import copies, key_of, mixed, on_holdout_side, shuffled

IDS = np.stack([np.frombuffer(sha256(str(n).encode()).digest()[:16], "<u8") for n in range(4_000)])


def held_out(fraction: float, salt: str = "ct_llm") -> set[int]:
    return set(np.flatnonzero(on_holdout_side(IDS, fraction, salt)).tolist())


@pytest.mark.parametrize("fraction", [0.05, 0.5])
def test_about_the_fraction_is_held_out(fraction):
    # Four standard deviations of a binomial with 4,000 draws.
    allowed = 4 * (4_000 * fraction * (1 - fraction)) ** 0.5
    assert abs(len(held_out(fraction)) - 4_000 * fraction) < allowed


def test_nothing_is_held_out_at_zero():
    assert not held_out(0.0)


def test_a_larger_fraction_only_adds():
    assert held_out(0.05) < held_out(0.1)


def test_another_salt_holds_out_others():
    assert held_out(0.1) != held_out(0.1, "another")


def test_sides_are_those_of_every_machine():
    """A side that moved with a library's version would put yesterday's test rows into training."""
    # Computed once more with Python's own integers.
    golden = [5330542428323323751, 8249902693356126603]
    assert mixed(IDS[:2], key_of("holdout", "ct_llm")).tolist() == golden


def test_two_keys_draw_independently():
    both = len(held_out(0.5) & held_out(0.5, "another"))
    assert abs(both - 1_000) < 4 * (4_000 * 0.25 * 0.75) ** 0.5


def test_the_order_comes_from_rows_and_seed_alone():
    random = np.random.default_rng(0).permutation(len(IDS))
    straight, turned = IDS[shuffled(IDS, 0)], IDS[random][shuffled(IDS[random], 0)]
    assert (straight == turned).all()
    assert (straight != IDS[shuffled(IDS, 1)]).any()
    assert (straight != IDS).any()


def test_copies_of_a_row_are_spread():
    ids, copy = np.repeat(IDS[:100], 2, axis=0), np.tile([0, 1], 100)
    order = shuffled(ids, 0, copy)
    places = np.argsort(order)
    assert sorted(order.tolist()) == list(range(200))
    assert np.abs(places[0::2] - places[1::2]).mean() > 30


@pytest.mark.parametrize(
    ("weight", "fewest", "most"), [(1, 1, 1), (2, 2, 2), (0.5, 0, 1), (2.25, 2, 3)]
)
def test_a_row_is_taken_as_often_as_its_weight_on_average(weight, fewest, most):
    times = copies(IDS, weight)
    assert (times.min(), times.max()) == (fewest, most)
    assert abs(times.mean() - weight) < 4 * 0.5 / len(IDS) ** 0.5


def test_a_smaller_weight_takes_a_part_of_what_a_larger_one_takes():
    assert not ((copies(IDS, 0.3) == 1) & (copies(IDS, 0.6) == 0)).any()
