"""Means, differences and bounds from scores; the items' file; the most different items."""

from pathlib import Path

import numpy as np
import pytest

from ct_llm.comparison import (
    ComparedItem,
    Comparison,
    adapter_mean,
    by_task,
    compared_item,
    difference,
    read_compared,
    slice_prefix,
    write_compared,
)
from ct_llm.errors import InputError
from ct_llm.gate.sequential import SequentialTest, decide
from ct_llm.records import ItemScore, OrderedItem, Side, SlicePrefix, SliceScores


def scores_of(num_items: int, num_scored: int, **changes: object) -> SliceScores:
    return SliceScores(
        slice="coding", tasks=("t",), num_items=num_items, num_scored=num_scored, tolerance=0.0
    ).model_copy(update=changes)


def pair(champion: list[float], challenger: list[float], num_items: int) -> SlicePrefix:
    return SlicePrefix(
        scores_of(num_items, len(champion)), tuple(champion), tuple(challenger), clusters=None
    )


def test_a_difference_by_hand() -> None:
    line = difference(pair([1, 0, 0, 1], [1, 1, 1, 0], 10), alpha=0.1)
    assert (line.num_used, line.num_items) == (4, 10)
    assert (line.champion_mean, line.challenger_mean, line.delta) == (0.5, 0.75, 0.25)
    assert (line.wins, line.losses, line.ties) == (2, 1, 1)
    # Deltas 0, 1, 1, -1: sum of squares about 0.25 is 2.75.
    assert line.standard_error == pytest.approx((2.75 / 3) ** 0.5 / 2)
    test = SequentialTest(num_items=10, threshold=0, strict=True, alpha_pass=0.05, alpha_fail=0.05)
    state = decide(test, [0, 1, 1, -1])
    assert (line.lower, line.upper) == (state.lower, state.upper)
    # Six items of -1 or +1 are left.
    assert (1 - 6) / 10 <= line.lower < 0.25 < line.upper <= (1 + 6) / 10
    assert line.state == "undecided"


@pytest.mark.parametrize(
    ("challenger", "state"), [([1, 1, 1], "better"), ([0, 0, 1], "worse"), ([0, 1, 1], "equal")]
)
def test_all_items_leave_nothing_open(challenger: list[float], state: str) -> None:
    line = difference(pair([0, 1, 1], challenger, 3), alpha=0.05)
    assert line.state == state
    assert line.lower == line.upper == pytest.approx(sum(challenger) / 3 - 2 / 3)


def test_decided_long_before_the_end() -> None:
    line = difference(pair([0.0] * 40, [1.0] * 40, 1_000), alpha=0.05)
    assert line.state == "better"
    assert 0 < line.lower <= 1.0 == line.delta


def test_nothing_is_scored_yet() -> None:
    line = difference(pair([], [], 5), alpha=0.05)
    assert (line.delta, line.champion_mean, line.standard_error) == (None, None, None)
    assert (line.lower, line.upper, line.state) == (-1, 1, "undecided")


def test_what_is_known_of_the_champion_sharpens_the_bounds() -> None:
    known = SlicePrefix(scores_of(4, 2), (1.0, 1.0), (1.0, 1.0), champion_rest=(1.0, 1.0))
    # A champion that is right everywhere cannot be surpassed.
    assert difference(known, 0.05).upper == 0.0
    assert difference(known._replace(champion_rest=None), 0.05).upper > 0.0


def test_a_delta_outside_its_bounds_has_a_reason() -> None:
    # Won where it could be, and the rest leaves nothing to win.
    known = SlicePrefix(scores_of(4, 2), (0.0, 0.0), (1.0, 1.0), champion_rest=(1.0, 1.0))
    line = difference(known, 0.05)
    assert line.delta == 1.0 > 0.5 >= line.upper
    assert line.champion_rest_known
    assert not difference(known._replace(champion_rest=None), 0.05).champion_rest_known


@pytest.mark.parametrize("clusters", [None, ("a", "a", "b")])
def test_what_is_all_the_same_says_nothing_of_other_items(clusters: tuple[str, ...] | None) -> None:
    ties = pair([0.3, 1, 0], [0.3, 1, 0], 9)._replace(clusters=clusters)
    assert difference(ties, 0.05).standard_error is None
    assert adapter_mean(ties, 0.05).standard_error is not None
    same = pair([], [0.3, 0.3, 0.3], 9)._replace(clusters=clusters)
    assert adapter_mean(same, 0.05).standard_error is None


def test_clusters_move_together() -> None:
    prefix = pair([0, 0, 0, 0], [1, 1, 0, 0], 8)._replace(clusters=("a", "a", "b", "b"))
    line = difference(prefix, 0.05)
    # Sums about the mean 0.5 are 1 and -1.
    assert line.standard_error == pytest.approx(2**0.5 / 4)
    longer = prefix._replace(clusters=("a", "a", "b", "b", "c", "c", "d", "d"))
    assert difference(longer, 0.05).standard_error == line.standard_error


def test_one_adapter_on_scores_of_any_range() -> None:
    scores = scores_of(5, 2, score_low=0.0, score_high=10.0)
    line = adapter_mean(SlicePrefix(scores, (), (4.0, 6.0)), alpha=0.05)
    assert (line.mean, line.num_used, line.in_percent) == (5.0, 2, False)
    assert 10 / 5 <= line.lower < 5.0 < line.upper <= (10 + 3 * 10) / 5
    assert line.standard_error == pytest.approx(1.0)


def test_bounds_hold_as_often_as_they_say() -> None:
    """A wrong bound at any of all looks, over 120 random orders: at most alpha of them, and noise."""
    random = np.random.default_rng(0)
    population = np.repeat([1.0, -1.0, 0.0], [12, 6, 42])
    theta = population.mean()
    wrong = 0
    for _ in range(120):
        d = random.permutation(population)
        looks = [
            difference(pair([0.5 - x / 2 for x in d[:n]], [0.5 + x / 2 for x in d[:n]], 60), 0.2)
            for n in (8, 24, 40)
        ]
        wrong += any(not x.lower - 1e-9 <= theta <= x.upper + 1e-9 for x in looks)
    assert wrong <= 120 * 0.2 + 3 * (120 * 0.2 * 0.8) ** 0.5


# ---------------------------------------------------------------- from items and scores


ITEMS = [
    OrderedItem("coding", "a/0/x", "a"),
    OrderedItem("coding", "b/0/x", "b"),
    OrderedItem("coding", "a/1/x", "a"),
    OrderedItem("coding", "b/1/x", "b"),
]


def scored(values: dict[Side, list[float]]) -> dict[tuple[Side, str], ItemScore]:
    return {
        (side, item.item_id): ItemScore(
            slice=item.slice,
            task=item.task,
            item_id=item.item_id,
            adapter=side,
            score=score,
            prompt="?",
            output=f"{side} {score}",
        )
        for side, scores in values.items()
        for item, score in zip(ITEMS, scores, strict=False)
    }


def test_tasks_are_prefixes_of_their_own_items() -> None:
    found = scored({"champion": [0, 1, 1], "challenger": [1, 1, 0]})
    whole = slice_prefix(scores_of(4, 3), ITEMS, found)
    assert (whole.champion, whole.challenger, whole.champion_rest) == ((0, 1, 1), (1, 1, 0), None)
    parts = by_task(scores_of(4, 3), ITEMS, found)
    assert list(parts) == ["a", "b"]
    assert (parts["a"].champion, parts["a"].challenger) == ((0, 1), (1, 0))
    assert (parts["a"].scores.num_items, parts["a"].scores.num_scored) == (2, 2)
    assert (parts["b"].challenger, parts["b"].scores.num_scored) == ((1,), 1)


def test_a_champion_known_to_the_end_is_the_rest() -> None:
    found = scored({"champion": [0, 1, 1, 0], "challenger": [1, 1]})
    prefix = slice_prefix(scores_of(4, 2), ITEMS, found)
    assert (prefix.champion, prefix.champion_rest) == ((0, 1), (1, 0))


# ---------------------------------------------------------------- the file


def item(name: str, delta: float, champion: str = "x", challenger: str = "y") -> ComparedItem:
    return ComparedItem("coding", "a", name, 0.0, delta, delta, "?", champion, challenger)


def comparison(path: Path) -> Comparison:
    return Comparison(
        champion="a",
        challenger="b",
        champion_digest=None,
        challenger_digest="d",
        champion_revision=None,
        challenger_revision=None,
        base_model="base",
        base_revision="r",
        alpha=0.05,
        slices=(),
        tasks=(),
        items_path=path,
        engine={},
        seconds=0.0,
    )


def test_the_most_different_items_come_first(tmp_path: Path) -> None:
    items = [
        item("same", 0.0, "x", "x"),
        item("other words", 0.0),
        item("small", 0.1),
        item("lost", -1.0),
        item("changed without a word", 1.0, "x", "x"),
        item("won", 1.0),
    ]
    write_compared(tmp_path / "c.parquet", items)
    assert read_compared(tmp_path / "c.parquet") == items
    found = comparison(tmp_path / "c.parquet")
    names = [one.item_id for one in found.most_different(10)]
    assert names == ["lost", "won", "changed without a word", "small", "other words"]
    assert [one.item_id for one in found.most_different(2)] == ["lost", "won"]
    assert found.most_different(0) == []


def test_a_pair_of_scores_is_a_row() -> None:
    found = scored({"champion": [0.25], "challenger": [1.0]})
    row = compared_item(found["champion", "a/0/x"], found["challenger", "a/0/x"])
    assert row == ComparedItem(
        "coding", "a", "a/0/x", 0.25, 1.0, 0.75, "?", "champion 0.25", "challenger 1.0"
    )


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_compared(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_compared(tmp_path / "text.parquet")
