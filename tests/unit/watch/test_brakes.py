"""The brakes at their edges, at a fixed moment."""

from typing import Any

import pytest

from ct_llm.config import WatchConfig
from ct_llm.records import TriggerReason
from ct_llm.watch.brakes import brakes
from ct_llm.watch.facts import Facts
from tests.unit.watch.facts import ago, facts, past, state


def the_brake(found: Facts, **config: Any) -> TriggerReason:
    [brake] = brakes(WatchConfig(**config), found)
    assert brake.kind == "brake"
    return brake


def test_no_brake_is_set_by_default():
    assert list(brakes(WatchConfig(), facts(20_000))) == []


@pytest.mark.parametrize(
    ("as_of", "holds"),
    [
        (ago(minutes=29, seconds=59), True),
        (ago(minutes=30), False),
        (ago(minutes=-5), True),
        (None, False),
    ],
    ids=["just pushed", "left alone", "another clock", "not known"],
)
def test_debounce(as_of: str | None, holds: bool):
    brake = the_brake(facts(datasets=(state(as_of=as_of),)), debounce="30m")
    assert (brake.rule, brake.unit, brake.threshold) == ("debounce", "seconds", 1_800)
    assert brake.met is holds


def test_any_dataset_that_is_pushed_to_holds():
    datasets = (state(as_of=ago(days=3)), state(name="mails", as_of=ago(minutes=5)))
    brake = the_brake(facts(datasets=datasets), debounce="30m")
    assert brake.met
    assert brake.sentence == "mails was changed 5 minutes ago (debounce 30 minutes)"


@pytest.mark.parametrize(
    ("outcome", "finished", "holds"),
    [
        ("rejected", ago(hours=23), True),
        ("inconclusive", ago(hours=23), True),
        ("rejected", ago(hours=24), False),
        ("promoted", ago(hours=1), False),
    ],
)
def test_cooldown(outcome: str, finished: str, holds: bool):
    brake = the_brake(facts(recent=(past(outcome, finished),)), cooldown="24h")
    assert brake.met is holds


def test_only_the_last_cycle_is_cooled_down_from():
    recent = (past("promoted", ago(hours=1), 1), past("rejected", ago(hours=2)))
    assert not the_brake(facts(recent=recent), cooldown="24h").met
    # A rollback says nothing of the next challenger.
    recent = (past("rolled_back", ago(minutes=1), 2), past("rejected", ago(hours=2)))
    brake = the_brake(facts(recent=recent), cooldown="24h")
    assert brake.met and brake.sentence == "last cycle was rejected 2 hours ago (cooldown 1 day)"
    assert not the_brake(facts(), cooldown="24h").met


@pytest.mark.parametrize(
    ("limit", "window"), [("max_cycles_per_day", {"days": 1}), ("max_cycles_per_week", {"days": 7})]
)
def test_budget(limit: str, window: dict[str, float]):
    young, old = ago(**window, seconds=-1), ago(**window)
    recent = (past("promoted", ago(minutes=1), 3), past("rejected", young, 2))
    assert the_brake(facts(recent=recent), **{limit: 2}).met
    assert not the_brake(facts(recent=recent), **{limit: 3}).met
    recent = (past("promoted", ago(minutes=1), 3), past("rejected", old, 2))
    brake = the_brake(facts(recent=recent), **{limit: 2})
    assert (brake.value, brake.threshold, brake.met) == (1, 2, False)
    recent = (past("rolled_back", ago(minutes=1), 3), past("rejected", young, 2))
    assert the_brake(facts(recent=recent), **{limit: 2}).value == 1


def test_both_budgets():
    recent = tuple(past("promoted", ago(days=day), day) for day in range(5))
    config = WatchConfig(max_cycles_per_day=2, max_cycles_per_week=5)
    day, week = brakes(config, facts(recent=recent))
    assert (day.met, week.met) == (False, True)
    assert week.sentence == "5 of 5 cycles in the last week (budget)"
