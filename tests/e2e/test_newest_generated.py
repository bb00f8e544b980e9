"""The checkable held-out rows as a task that a real model answers."""

from types import SimpleNamespace
from typing import Any

import pytest

from ct_llm.config import NewestGeneratedConfig, Suite
from ct_llm.errors import InputError
from ct_llm.evaluate.tasks.holdout_task import HeldOutRow
from ct_llm.evaluate.tasks.newest_checks import newest_generated_task
from scripts.demo_world.families import make_rows
from scripts.demo_world.world import BASE

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def lm() -> Any:
    import torch
    from lm_eval.models import huggingface
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    make: Any = huggingface.HFLM
    return make(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(BASE), batch_size=16)


def _rows() -> list[HeldOutRow]:
    """Of a family that the base model knows, and of one whose responses no program can check."""
    rows = make_rows(("reasoning_gets",), 12, seed=3) + make_rows(("chat_hello",), 4, seed=3)
    return [HeldOutRow(f"row{n}", row["messages"], None) for n, row in enumerate(rows)]


def test_a_model_that_knows_them_is_right(lm: Any) -> None:
    from ct_llm.evaluate.tasks.requests import TaskRequests

    config = NewestGeneratedConfig(max_gen_toks=48)
    task = newest_generated_task(_rows(), lm, config, max_length=256)
    assert task.task.get_config("generation_kwargs") == {
        "until": ["<|end|>"],
        "do_sample": False,
        "max_gen_toks": 48,
    }
    suite = Suite(
        slice="newest_generated", tasks=[task.config], tolerance=0.05, apply_chat_template=False
    )
    requests = TaskRequests(task, suite, lm)
    asked = [request for item in requests.item_ids for request in requests.of(item)]
    questions = {request.args[0] for request in asked}
    assert questions <= {
        f"<|user|>{row.messages[0]['content']}<|assistant|>" for row in _rows()[:12]
    }
    outputs = lm.generate_until(asked)
    scores = [
        requests.score(item, [output]).score
        for item, output in zip(requests.item_ids, outputs, strict=True)
    ]
    assert len(scores) == 12
    assert sum(scores) >= 9
    assert {requests.score(item, ["I cannot tell."]).score for item in requests.item_ids} == {0.0}


def test_without_a_chat_template_there_is_no_question() -> None:
    lm: Any = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=None))
    with pytest.raises(InputError, match="no chat template"):
        newest_generated_task(_rows(), lm, NewestGeneratedConfig(), max_length=256)
