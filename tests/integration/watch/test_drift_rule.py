"""Drift is measured where there are rows enough, once for the same rows."""

import pytest

from ct_llm.config import DriftConfig
from tests.integration.watch.world import Dataset, rows

GERMAN = "Zeile Nummer {} erzählt von ganz anderen Dingen"
ENGLISH = "row number {} tells about the weather of today"


@pytest.fixture
def chats(dataset: Dataset) -> Dataset:
    """A champion that was trained on sixty rows in English."""
    dataset.drift = DriftConfig(enabled=True, min_new_rows=30)
    dataset.push(a__parquet=rows(0, 60, text=ENGLISH))
    dataset.promoted()
    assert dataset.num_sampled == 0, "without a champion there is nothing to compare with"
    return dataset


def test_rows_in_another_language_are_told_apart(chats: Dataset):
    chats.push(b__parquet=rows(0, 40, text=GERMAN))
    watched = chats.decide(threshold=1_000)
    assert watched.decision.should_train
    assert watched.decision.drift is not None and watched.decision.drift.drifted
    assert watched.decision.sentence.startswith("training: 40 of 1,000 new rows; drift (AUC 1.00")
    assert chats.num_sampled == 2


def test_rows_like_those_before_are_not(chats: Dataset):
    chats.push(b__parquet=rows(60, 100, text=ENGLISH))
    watched = chats.decide(threshold=1_000)
    assert not watched.decision.should_train
    assert "no drift (AUC" in watched.decision.sentence


def test_few_rows_are_not_judged_and_not_read(chats: Dataset):
    chats.push(b__parquet=rows(0, 29, text=GERMAN))
    assert "drift not judged (29 of 30 new rows)" in chats.decide().decision.sentence
    assert chats.num_sampled == 0


def test_the_same_rows_are_measured_once(chats: Dataset):
    chats.push(b__parquet=rows(0, 40, text=GERMAN))
    first = chats.decide(threshold=1_000)
    chats.state = first.state
    again = chats.decide(threshold=1_000)
    assert again.decision == first.decision and chats.num_sampled == 2
    assert len(chats.wire.requests) == 1
    chats.drift = DriftConfig(enabled=True, min_new_rows=30, seed=1)
    chats.decide(threshold=1_000)
    assert chats.num_sampled == 4, "another question has another answer"


def test_where_all_was_rewritten_what_was_there_is_compared_with(chats: Dataset):
    chats.push(a__parquet=rows(0, 40, text=GERMAN))
    decision = chats.decide(threshold=1_000).decision
    assert decision.drift is not None and decision.drift.num_reference == 60
