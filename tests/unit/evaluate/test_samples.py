from typing import Any

import numpy as np
import pytest

from ct_llm.config import Suite, TaskConfig
from ct_llm.errors import InputError
from ct_llm.evaluate.tasks.samples import Scored, item_id, read_sample

SUITE = Suite(slice="coding", tasks=[TaskConfig(task="t", metric="acc")], tolerance=0.0)


def _sample(value: Any, **changes: Any) -> dict[str, Any]:
    sample = {
        "prompt_hash": "cd" * 32,
        "metrics": ["acc"],
        "acc": value,
        "arguments": [("What?", {"until": []})],
        "resps": [["That."]],
    }
    return {**sample, **changes}


def _read(sample: dict[str, Any], metric: str = "acc") -> Scored:
    return read_sample("t", "t/0/ab", sample, TaskConfig(task="t", metric=metric), SUITE)


@pytest.mark.parametrize("value", [True, 1, 1.0, np.float32(1), np.int64(1), np.bool_(True)])
def test_one_number_is_a_score(value: Any) -> None:
    scored = _read(_sample(value))
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


def test_a_score_off_the_declared_step_is_refused() -> None:
    thirds = SUITE.model_copy(update={"score_step": 1 / 3})
    config = TaskConfig(task="t", metric="acc")
    assert read_sample("t", "t/0/ab", _sample(2 / 3), config, thirds).score == 2 / 3
    with pytest.raises(InputError, match=r"0\.5, no multiple of the suite's score_step 0\.333333"):
        read_sample("t", "t/0/ab", _sample(0.5), config, thirds)


def test_a_missing_metric_names_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"no metric 'f1' per item\. It has: acc"):
        _read(_sample(1.0), metric="f1")


def test_the_likeliest_choice_is_the_output_of_a_multiple_choice_item() -> None:
    choices = {
        "arguments": [("What?", " this"), ("What?", " that")],
        "resps": [[(-3.0, False)], [(-1.0, True)]],
    }
    scored = _read(_sample(1.0, **choices))
    assert scored.output == " that (log-likelihood -1.0000)"


def test_an_item_is_named_by_task_position_and_content() -> None:
    assert item_id("t", 0, "ab" * 32) == "t/0/abababababababab"
