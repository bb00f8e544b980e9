from typing import Any

import numpy as np
import pytest

from ct_llm.config import Suite, TaskConfig
from ct_llm.errors import InputError
from ct_llm.evaluate.samples import check_same_prompts, read_samples

SUITE = Suite(slice="coding", tasks=[TaskConfig(task="t", metric="acc")], tolerance=0.0)


def _sample(value: Any, **changes: Any) -> dict[str, Any]:
    sample = {
        "doc_id": 0,
        "doc_hash": "ab" * 32,
        "prompt_hash": "cd" * 32,
        "filter": "none",
        "metrics": ["acc"],
        "acc": value,
        "arguments": [("What?", {"until": []})],
        "resps": [["That."]],
    }
    return {**sample, **changes}


def _read(*samples: dict[str, Any], metric: str = "acc", filter_: str = "none") -> Any:
    return read_samples("t", samples, TaskConfig(task="t", metric=metric, filter=filter_), SUITE)


@pytest.mark.parametrize("value", [True, 1, 1.0, np.float32(1), np.int64(1), np.bool_(True)])
def test_one_number_is_a_score(value: Any) -> None:
    (identity, scored), *_ = _read(_sample(value)).items()
    assert identity == "t/0/abababababababab"
    assert (scored.score, scored.prompt, scored.output) == (1.0, "What?", "That.")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (float("nan"), "'acc' is nan"),
        (float("inf"), "'acc' is inf"),
        (None, "not one number per item but NoneType"),
        ((1, 0), "not one number per item but tuple"),
        (1.5, r"1\.5, outside \[0, 1\]"),
    ],
)
def test_what_is_no_score_is_refused(value: Any, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        _read(_sample(value))


def test_a_missing_metric_names_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"no metric 'f1' per item\. It has: acc"):
        _read(_sample(1.0), metric="f1")


def test_the_filter_chooses_among_samples() -> None:
    samples = [_sample(0.0, filter="strict"), _sample(1.0, filter="flexible")]
    assert [s.score for s in _read(*samples, filter_="flexible").values()] == [1.0]
    with pytest.raises(InputError, match=r"no filter 'none'\. It has: flexible, strict"):
        _read(*samples)


def test_the_likeliest_choice_is_the_output_of_a_multiple_choice_item() -> None:
    choices = {
        "arguments": [("What?", " this"), ("What?", " that")],
        "resps": [[(-3.0, False)], [(-1.0, True)]],
    }
    (scored,) = _read(_sample(1.0, **choices)).values()
    assert scored.output == " that (log-likelihood -1.0000)"


def test_other_items_or_other_prompts_are_not_paired() -> None:
    champion = _read(_sample(1.0))
    check_same_prompts("t", champion, _read(_sample(0.0)))
    with pytest.raises(InputError, match="different items"):
        check_same_prompts("t", champion, _read(_sample(0.0, doc_id=1)))
    with pytest.raises(InputError, match="another prompt for each adapter"):
        check_same_prompts("t", champion, _read(_sample(0.0, prompt_hash="ef" * 32)))
