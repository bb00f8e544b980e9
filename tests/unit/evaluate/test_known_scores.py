"""What is taken from a store before an evaluation: nothing that the suite cannot have given."""

from pathlib import Path
from typing import Any

import pytest

from ct_llm.config import Suite, TaskConfig
from ct_llm.evaluate.journal import Scores
from ct_llm.evaluate.known_scores import Keys, read_known, write_new
from ct_llm.evaluate.score_store import LocalScores
from ct_llm.evaluate.slices import EvalSlice
from ct_llm.records import KnownScore, OrderedItem, Side

SIDES: tuple[Side, ...] = ("champion", "challenger")


class Task:
    item_ids = ("sums/0/a", "sums/1/b")

    def identity(self) -> dict[str, str]:
        return {}

    def arguments_digest(self, item_id: str) -> str:
        return f"asked for {item_id}"


def _keys(**suite: Any) -> Keys:
    task: Any = Task()
    named = [TaskConfig(task="sums", metric="acc")]
    part = EvalSlice(Suite(slice="s", tasks=named, tolerance=0.0, **suite), {"sums": task}, SIDES)
    return Keys({"s": part}, {"champion": "c" * 64, "challenger": "d" * 64}, "r" * 40, {})


def _write(store: LocalScores, keys: Keys, score: float) -> None:
    items = [OrderedItem("s", item_id, "sums") for item_id in Task.item_ids]
    values = {items[0]: score, items[1]: 0.0}
    scores: Scores = {
        (item.slice, item.item_id): {side: KnownScore(values[item], "x") for side in SIDES}
        for item in items
    }
    write_new(store, keys, items, {}, scores)


def test_of_the_sides_that_are_asked_for(tmp_path: Path) -> None:
    store, keys = LocalScores(tmp_path), _keys()
    assert read_known(None, keys, SIDES) == {} == read_known(store, keys, SIDES)
    _write(store, keys, 0.5)
    known = read_known(store, keys, ["champion"])
    assert known == {
        ("s", "sums/0/a"): {"champion": KnownScore(0.5, "x")},
        ("s", "sums/1/b"): {"champion": KnownScore(0.0, "x")},
    }


@pytest.mark.parametrize(
    ("suite", "score", "is_known"),
    [
        ({}, 1.0, True),
        ({}, 1.5, False),
        ({}, -0.1, False),
        ({"score_low": -1.0, "score_high": 2.0}, 1.5, True),
        ({"score_step": 1.0}, 1.0, True),
        ({"score_step": 1.0}, 0.5, False),
        ({"score_step": 0.1}, 3 * 0.1, True),
        ({"score_step": 0.1}, 0.25, False),
    ],
)
def test_a_score_that_the_suite_cannot_have_given_is_made_again(
    tmp_path: Path, suite: dict[str, Any], score: float, is_known: bool
) -> None:
    store, keys = LocalScores(tmp_path), _keys(**suite)
    _write(store, keys, score)
    known = read_known(store, keys, SIDES)
    assert (("s", "sums/0/a") in known) is is_known
    assert ("s", "sums/1/b") in known, "its neighbours stay"
    _write(store, keys, 0.0)
    assert set(read_known(store, keys, SIDES)["s", "sums/0/a"]) == set(SIDES), "and goes over it"
