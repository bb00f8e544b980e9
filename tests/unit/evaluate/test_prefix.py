import itertools
import random

import pytest

from ct_llm.evaluate.prefix import ScorePrefix
from ct_llm.records import OrderedItem, Side, SliceScores

PAIR: tuple[Side, ...] = ("champion", "challenger")


def _order(size: int, clusters: dict[int, str] | None = None) -> list[OrderedItem]:
    names = clusters or {}
    return [OrderedItem("chat", f"t/{n}/x", "t", names.get(n)) for n in range(size)]


def _scores(size: int) -> SliceScores:
    return SliceScores(slice="chat", tasks=("t",), num_items=size, num_scored=0, tolerance=0.01)


def _value(number: int, side: Side) -> float:
    return number / 100 + (0.5 if side == "challenger" else 0.0)


def test_every_arrival_of_four_items_shows_the_longest_complete_beginning() -> None:
    order = _order(4)
    for arrival in itertools.permutations(range(4)):
        prefix = ScorePrefix(_scores(4), order, PAIR)
        there: set[int] = set()
        for number in arrival:
            prefix.add(order[number].item_id, "challenger", _value(number, "challenger"))
            before = prefix.prefix().scores.num_scored
            prefix.add(order[number].item_id, "champion", _value(number, "champion"))
            there.add(number)
            expected = next(n for n in range(5) if n not in there)
            shown = prefix.prefix()
            assert before <= shown.scores.num_scored == expected
            assert shown.champion == tuple(_value(n, "champion") for n in range(expected))
            assert shown.challenger == tuple(_value(n, "challenger") for n in range(expected))


def test_quick_items_do_not_show_before_the_slow_ones_in_front_of_them() -> None:
    """Completion order is a biased sample: here every item that is right comes early."""
    chance = random.Random(0)
    right = [chance.random() < 0.5 for _ in range(200)]
    order = _order(200)
    prefix = ScorePrefix(_scores(200), order, ("challenger",))
    by_completion = sorted(range(200), key=lambda n: (not right[n], n))
    for number in by_completion[: sum(right)]:
        prefix.add(order[number].item_id, "challenger", float(right[number]))
    shown = prefix.prefix()
    first_wrong = right.index(False)
    assert shown.challenger == (1.0,) * first_wrong
    assert shown.champion == ()
    assert shown.scores.num_scored == first_wrong < sum(right)


def test_one_side_alone_does_not_count() -> None:
    order = _order(3)
    prefix = ScorePrefix(_scores(3), order, ("champion", "challenger", "anchor"))
    for item, side in itertools.product(order, PAIR):
        prefix.add(item.item_id, side, 1.0)
    assert prefix.prefix().scores.num_scored == 0
    prefix.add(order[0].item_id, "anchor", 0.0)
    assert prefix.prefix().anchor == (0.0,)
    assert prefix.slice_scores().num_scored == 1


def test_the_rest_is_told_only_where_all_of_it_is_known() -> None:
    order = _order(4)
    known = {item.item_id: _value(n, "champion") for n, item in enumerate(order)}
    prefix = ScorePrefix(_scores(4), order, PAIR, {"champion": known})
    assert prefix.prefix().champion_rest == (0.0, 0.01, 0.02, 0.03)
    assert prefix.prefix().champion == ()
    for side in PAIR:
        prefix.add(order[0].item_id, side, _value(0, side))
    assert prefix.prefix().champion_rest == (0.01, 0.02, 0.03)
    assert prefix.prefix().anchor_rest is None
    del known[order[3].item_id]
    assert ScorePrefix(_scores(4), order, PAIR, {"champion": known}).prefix().champion_rest is None
    assert ScorePrefix(_scores(4), order, PAIR).prefix().champion_rest is None


def test_clusters_are_known_before_any_score() -> None:
    prefix = ScorePrefix(_scores(3), _order(3, {0: "a", 2: "a"}), PAIR).prefix()
    assert prefix.clusters == ("a", None, "a")
    assert ScorePrefix(_scores(3), _order(3), PAIR).prefix().clusters is None


@pytest.mark.parametrize(
    ("item", "side", "score", "complaint"),
    [
        ("t/0/x", "champion", 0.5, "scored twice"),
        ("t/1/x", "champion", float("nan"), "the score is nan"),
        ("t/1/x", "champion", float("inf"), "the score is inf"),
        ("t/9/x", "champion", 0.5, "not among"),
        ("t/1/x", "anchor", 0.5, "not among"),
    ],
)
def test_what_is_no_score_is_refused(item: str, side: Side, score: float, complaint: str) -> None:
    prefix = ScorePrefix(_scores(2), _order(2), PAIR)
    prefix.add("t/0/x", "champion", 0.5)
    with pytest.raises(ValueError, match=rf"slice chat, item {item}, {side}: .*{complaint}"):
        prefix.add(item, side, score)


def test_an_item_stands_in_the_order_once() -> None:
    with pytest.raises(ValueError, match="stands in the order twice"):
        ScorePrefix(_scores(2), _order(1) * 2, PAIR)
