"""Rules and brakes together, and the sentence that tells all."""

from itertools import product
from typing import Any

import pytest

from ct_llm.config import DriftConfig, WatchConfig
from ct_llm.watch.decide import decide
from tests.unit.watch.facts import NOW, ago, facts, past, report, state, use


def test_below_the_threshold():
    decision = decide(WatchConfig(), facts(3_120))
    assert not decision
    assert decision.sentence == "not training: 3,120 of 10,000 new rows"
    assert decision.checked_at == NOW


def test_above_the_threshold():
    decision = decide(WatchConfig(), facts(12_400))
    assert decision
    assert decision.sentence == "training: 12,400 new rows (threshold 10,000)"


def test_the_sentence_names_every_rule_that_is_set():
    config = WatchConfig.model_validate({"max_data_age": "14d", "drift": {"enabled": True}})
    found = facts(3_120, champion=use(ago(days=2)), drift=report())
    decision = decide(config, found)
    assert decision.sentence == (
        "not training: 3,120 of 10,000 new rows; champion's data is 2 days old; "
        "no drift (AUC 0.52, p 0.40)"
    )
    assert [reason.rule for reason in decision.reasons] == ["volume", "freshness", "drift"]
    assert decision.data_age_seconds == 2 * 86_400
    assert decision.drift == report() and decision.datasets == found.datasets


@pytest.mark.parametrize(("many", "old"), list(product([False, True], repeat=2)))
def test_any_or_all(many: bool, old: bool):
    found = facts(20_000 if many else 5, champion=use(ago(days=30 if old else 1)))
    rules = {"max_data_age": "14d"}
    any_rule = WatchConfig.model_validate({**rules, "train_when": "any"})
    all_rules = WatchConfig.model_validate({**rules, "train_when": "all"})
    assert bool(decide(any_rule, found)) == (many or old)
    assert bool(decide(all_rules, found)) == (many and old)


# ---------------------------------------------------------------- without a champion


@pytest.mark.parametrize("train_when", ["any", "all"])
def test_what_is_about_the_champion_waits_for_the_first_one(train_when: str):
    config = WatchConfig.model_validate(
        {
            "max_data_age": "14d",
            "max_holdout_age": "14d",
            "drift": {"enabled": True},
            "train_when": train_when,
        }
    )
    assert not decide(config, facts(9_999))
    assert decide(config, facts(10_000))


@pytest.mark.parametrize("rule", [{"max_data_age": "14d"}, {"drift": DriftConfig(enabled=True)}])
def test_where_nothing_else_is_set_one_row_is_enough_for_the_first(rule: dict[str, Any]):
    config = WatchConfig.model_validate({"threshold_samples": None, **rule})
    assert decide(config, facts(1))
    assert not decide(config, facts(0))
    with_champion = facts(1, champion=use(ago(days=1)))
    assert not decide(config, with_champion)


def test_drift_that_cannot_be_judged_speaks_against_training():
    config = WatchConfig.model_validate(
        {"threshold_samples": 100, "train_when": "all", "drift": {"enabled": True}}
    )
    assert not decide(config, facts(150, champion=use(ago(days=1))))


# ---------------------------------------------------------------- brakes and force


def test_a_brake_stops_what_is_due_and_is_named():
    found = facts(12_400, recent=(past("rejected", ago(hours=2)),))
    decision = decide(WatchConfig.model_validate({"cooldown": "1d"}), found)
    assert not decision
    assert decision.sentence == (
        "not training: 12,400 new rows (threshold 10,000); held back: last cycle was rejected "
        "2 hours ago (cooldown 1 day)"
    )
    assert [reason.kind for reason in decision.reasons] == ["reason", "brake"]


def test_a_brake_that_does_not_hold_stays_out_of_the_sentence():
    found = facts(12_400, recent=(past("rejected", ago(days=2)),))
    decision = decide(WatchConfig.model_validate({"cooldown": "1d"}), found)
    assert decision
    assert "cooldown" not in decision.sentence
    assert decision.reasons[1].met is False


def test_force_passes_rules_and_brakes():
    few = decide(WatchConfig(), facts(5), force=True)
    assert few
    assert few.sentence == "training: forced by the user; 5 of 10,000 new rows"
    assert [reason.rule for reason in few.reasons] == ["volume", "forced"]

    config = WatchConfig.model_validate({"debounce": "1h"})
    pushed = facts(20_000, datasets=(state(20_000, as_of=ago(minutes=1)),))
    assert not decide(config, pushed)
    forced = decide(config, pushed, force=True)
    assert forced and "held back: chats was changed 1 minute ago" in forced.sentence


def test_what_is_due_anyway_was_not_forced():
    decision = decide(WatchConfig(), facts(10_000), force=True)
    assert [reason.rule for reason in decision.reasons] == ["volume"]


# ---------------------------------------------------------------- what else is said


@pytest.mark.parametrize(
    ("new", "start"), [(500, "not training: 500 of 10,000"), (10_000, "training: 10,000")]
)
def test_rows_of_a_rejected_attempt_do_not_count_but_are_named(new: int, start: str):
    decision = decide(WatchConfig(), facts(new, datasets=(state(new, unseen=new + 2_000),)))
    assert decision.should_train == (new >= 10_000)
    assert decision.sentence.startswith(start)
    assert "2,000 rows of an attempt that was not promoted will be used again" in decision.sentence


def test_what_happened_to_a_repo_is_said():
    decision = decide(WatchConfig(), facts(5, datasets=(state(5, notes=("it shrank",)),)))
    assert decision.sentence.endswith("; it shrank")
