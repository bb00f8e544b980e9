"""The rules at their edges, at a fixed moment."""

from typing import Any

import pytest

from ct_llm.config import DriftConfig, WatchConfig
from ct_llm.records import TriggerReason
from ct_llm.watch.facts import Facts
from ct_llm.watch.rules import rules
from tests.unit.watch.facts import ago, facts, past, report, state, use


def the_rule(found: Facts, **config: Any) -> TriggerReason:
    [reason] = rules(WatchConfig(**{"threshold_samples": None, **config}), found)
    return reason


# ---------------------------------------------------------------- volume


@pytest.mark.parametrize(("new", "met"), [(9_999, False), (10_000, True)])
def test_exactly_the_threshold_is_enough(new: int, met: bool):
    reason = the_rule(facts(new), threshold_samples=10_000)
    assert (reason.rule, reason.value, reason.threshold) == ("volume", new, 10_000)
    assert (reason.unit, reason.kind, reason.met) == ("rows", "reason", met)


def test_a_bound_is_called_one():
    found = facts(3_120, datasets=(state(3_120, counted_by="bounds"),))
    reason = the_rule(found, threshold_samples=10_000)
    assert reason.sentence == "at most 3,120 of 10,000 new rows"


# ---------------------------------------------------------------- ages


@pytest.mark.parametrize(
    ("as_of", "new", "met"),
    [
        (ago(days=14), 1, True),
        (ago(days=14, seconds=-1), 1, False),
        (ago(days=14), 0, False),
        (ago(days=-1), 1, False),
        (None, 1, False),
    ],
    ids=["old enough", "a second too young", "nothing new", "another clock", "not known"],
)
def test_freshness(as_of: str | None, new: int, met: bool):
    reason = the_rule(facts(new, champion=use(as_of)), max_data_age="14d")
    assert (reason.rule, reason.unit, reason.threshold) == ("freshness", "seconds", 14 * 86_400)
    assert reason.met is met


def test_the_champions_newest_data_counts():
    found = facts(1, champion=use(ago(days=40), ago(days=2), None))
    reason = the_rule(found, max_data_age="14d")
    assert reason.value == 2 * 86_400
    assert reason.sentence == "champion's data is 2 days old"


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (1, "champion's data is 20 days old (limit 14 days)"),
        (0, "champion's data is 20 days old, but there are no new rows"),
    ],
)
def test_what_is_said_of_old_data(new: int, sentence: str):
    found = facts(new, champion=use(ago(days=20)))
    assert the_rule(found, max_data_age="14d").sentence == sentence


def test_an_hour_of_daylight_saving_is_no_hour():
    # In Berlin clocks went back on 2026-10-25; 14 days are 14 times 24 hours all the same.
    written_in_berlin = facts(1, champion=use("2026-10-20T02:30:00+02:00"))
    in_utc = facts(1, champion=use("2026-10-20T00:30:00Z"))
    ages = [the_rule(found, max_data_age="14d").value for found in (written_in_berlin, in_utc)]
    assert ages == [35 * 86_400 + 15.5 * 3_600] * 2


def test_a_time_without_offset_is_utc():
    assert the_rule(facts(1, champion=use("2026-11-24T15:00:00")), max_data_age="1h").met


def test_a_lost_comparison_is_newer_than_the_champions_data():
    found = facts(1, champion=use(ago(days=20)), last_attempt=use(ago(days=3)))
    reason = the_rule(found, max_holdout_age="7d")
    assert (reason.rule, reason.value, reason.met) == ("holdout_age", 3 * 86_400, False)
    assert the_rule(found, max_holdout_age="3d").met
    assert the_rule(facts(1, champion=found.champion), max_holdout_age="7d").met


def test_without_a_champion_there_is_no_age():
    for rule in ("max_data_age", "max_holdout_age"):
        reason = the_rule(facts(5, last_attempt=use(ago(days=3))), **{rule: "7d"})
        assert (reason.value, reason.met) == (None, False)


# ---------------------------------------------------------------- drift


@pytest.mark.parametrize(
    ("new", "changes", "met", "sentence"),
    [
        (200, {}, False, "no drift (AUC 0.52, p 0.40)"),
        (
            200,
            {"auc": 0.81, "p_value": 0.004, "drifted": True},
            True,
            "drift (AUC 0.81, p 0.004): median length 300 characters, 120 in the champion's data",
        ),
        (199, {"drifted": True}, False, "drift not judged (199 of 200 new rows)"),
        (500, {"num_new": 150}, False, "drift not judged (150 of 200 new rows)"),
        (
            500,
            {"num_reference": 150},
            False,
            "drift not judged (150 of 200 rows of the champion's data)",
        ),
    ],
)
def test_drift(new: int, changes: dict[str, Any], met: bool, sentence: str):
    reason = the_rule(facts(new, drift=report(**changes)), drift=DriftConfig(enabled=True))
    assert (reason.met, reason.sentence) == (met, sentence)
    assert reason.threshold == 0.65


def test_drift_that_was_not_measured():
    drift = DriftConfig(enabled=True)
    assert the_rule(facts(12), drift=drift).sentence == "drift not judged (12 of 200 new rows)"
    reason = the_rule(facts(500), drift=drift)
    assert (reason.value, reason.met) == (None, False)
    assert reason.sentence == "drift not judged (nothing to compare with)"


# ---------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("finished", "schedule", "met"),
    [
        ("2026-11-24T15:59:59Z", "0 16 * * *", True),
        ("2026-11-24T16:00:00Z", "0 16 * * *", False),
        ("2026-11-23T17:00:00Z", "1 16 * * *", False),
        ("2026-11-01T00:00:00Z", "0 3 * * 0", True),
        ("2026-11-22T03:00:00Z", "0 3 * * 0", False),
    ],
    ids=["due now", "ran at that second", "due in a minute", "missed thrice", "ran on Sunday"],
)
def test_the_schedule(finished: str, schedule: str, met: bool):
    reason = the_rule(facts(1, recent=(past("promoted", finished),)), schedule=schedule)
    assert reason.met is met


def test_what_is_said_of_a_schedule():
    ran = (past("rejected", "2026-11-22T12:00:00Z"),)
    assert (
        the_rule(facts(1, recent=ran), schedule="0 3 * * 0").sentence
        == "schedule '0 3 * * 0' is due 2026-11-29 03:00 UTC"
    )
    reason = the_rule(facts(0, recent=ran), schedule="0 4 * * *")
    assert (
        reason.sentence
        == "schedule '0 4 * * *' was due 2026-11-23 04:00 UTC, but there are no new rows"
    )
    assert (reason.value, reason.met) == (36 * 3_600, False)


def test_the_first_cycle_need_not_wait_for_the_schedule():
    assert the_rule(facts(1), schedule="0 3 * * 0").met
    assert not the_rule(facts(0), schedule="0 3 * * 0").met


def test_a_rollback_is_no_cycle_of_the_schedule():
    recent = (past("rolled_back", ago(minutes=1)), past("promoted", ago(days=9), 1))
    assert the_rule(facts(1, recent=recent), schedule="0 3 * * 0").met
