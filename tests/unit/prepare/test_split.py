from hashlib import sha256

import pytest

from ct_llm.prepare.split import on_holdout_side, shuffled

IDS = [sha256(str(n).encode()).digest() for n in range(4_000)]


def held_out(fraction: float, salt: str = "ct_llm") -> set[bytes]:
    return {prompt for prompt in IDS if on_holdout_side(prompt, fraction, salt)}


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


def test_the_order_comes_from_rows_and_seed_alone():
    assert shuffled(IDS, 0) == shuffled(reversed(IDS), 0)
    assert shuffled(IDS, 0) != shuffled(IDS, 1)
    assert shuffled(IDS, 0) not in (IDS, sorted(IDS))
