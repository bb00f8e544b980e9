from ct_llm.evaluate.progress import progress_of
from ct_llm.records import SlicePrefix, SliceScores


def _prefix(name: str, n: int, size: int, low: float = 0.0) -> SlicePrefix:
    scores = SliceScores(
        slice=name, tasks=("t",), num_items=size, num_scored=n, tolerance=0.0, score_low=low
    )
    return SlicePrefix(scores, champion=(0.25,) * n, challenger=(0.5,) * n)


def test_the_slice_of_the_batch_is_named_with_its_means() -> None:
    prefixes = [_prefix("chat", 10, 40), _prefix("coding", 128, 664)]
    said = progress_of(prefixes, "coding")
    assert said.text == "coding 128/664: challenger 50.0 %, champion 25.0 %"
    assert said.fraction == 138 / 704
    assert said.prefixes == tuple(prefixes)


def test_scores_that_are_no_shares_are_not_in_percent() -> None:
    said = progress_of([_prefix("chat", 10, 40, low=-5.0)], "chat")
    assert said.text == "chat 10/40: challenger 0.5, champion 0.25"


def test_a_batch_of_all_slices_counts_all() -> None:
    said = progress_of([_prefix("chat", 10, 40), _prefix("coding", 0, 60)], None)
    assert said.text == "all slices 10/100"
