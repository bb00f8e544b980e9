"""The trigger: every rule with its figures, and one sentence for people."""

import pytest

from ct_llm.config import WatchConfig
from ct_llm.records import DatasetSnapshot, DataSnapshot
from ct_llm.watch.decide import decide

NOW = "2026-11-24T16:00:00Z"


def data(unseen: int, new: int, notes: tuple[str, ...] = ()) -> DataSnapshot:
    dataset = DatasetSnapshot(
        repo="acme/chats",
        revision="a" * 40,
        seen_revision=None,
        files=(),
        num_rows=unseen,
        num_unseen_rows=unseen,
        num_new_rows=new,
        notes=notes,
    )
    return DataSnapshot(datasets=(dataset,), num_unseen_rows=unseen, num_new_rows=new)


def test_below_the_threshold():
    decision = decide(WatchConfig(), data(3_120, 3_120), now=NOW)
    assert not decision.should_train
    assert decision.sentence == "not training: 3,120 of 10,000 new rows"
    assert decision.checked_at == NOW


def test_above_the_threshold():
    decision = decide(WatchConfig(), data(12_400, 12_400), now=NOW)
    assert decision.should_train
    assert decision.sentence == "training: 12,400 new rows (threshold 10,000)"


@pytest.mark.parametrize(("new", "met"), [(9_999, False), (10_000, True)])
def test_exactly_the_threshold_is_enough(new: int, met: bool):
    [reason] = decide(WatchConfig(), data(new, new), now=NOW).reasons
    assert (reason.rule, reason.value, reason.threshold) == ("volume", new, 10_000)
    assert reason.met is met


@pytest.mark.parametrize(
    ("new", "start"), [(500, "not training: 500 of 10,000"), (10_000, "training: 10,000")]
)
def test_rows_of_a_rejected_attempt_do_not_count_but_are_named(new: int, start: str):
    decision = decide(WatchConfig(), data(new + 2_000, new), now=NOW)
    assert decision.should_train == (new >= 10_000)
    assert decision.sentence.startswith(start)
    assert "2,000 rows of an attempt that was not promoted will be used again" in decision.sentence


def test_what_happened_to_a_repo_is_said():
    decision = decide(WatchConfig(), data(5, 5, ("history was squashed",)), now=NOW)
    assert decision.sentence.endswith("; history was squashed")
