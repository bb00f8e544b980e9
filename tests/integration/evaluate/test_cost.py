"""What a suite costs is known before it runs."""

import json
from pathlib import Path
from typing import Any

from ct_llm.config import EvaluateConfig, NewestConfig, Suite, TaskConfig
from ct_llm.evaluate.suite import load_suites
from ct_llm.evaluate.tasks.cost import TaskCost, costs

CHOOSE = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: 0
"""


class Words:
    """A tokenizer of which the costs can be told by hand."""

    chat_template = "there is one"

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, Any]:
        return {"input_ids": text.split()}

    def apply_chat_template(
        self,
        messages: list[dict[str, str]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        continue_final_message: bool,
    ) -> str:
        assert not tokenize and add_generation_prompt != continue_final_message
        return "<user> " + messages[-1]["content"]


def _suite(folder: Path, num_items: int) -> Suite:
    docs = [
        {"question": f"is {n} odd or even ?", "choices": ["odd", "very even"]}
        for n in range(num_items)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / "own.yaml").write_text(CHOOSE)
    named = TaskConfig(task="own", metric="acc")
    return Suite(slice="s", tasks=[named], tolerance=0.0, task_dir=folder)


def _config(**settings: Any) -> EvaluateConfig:
    return EvaluateConfig(suites=[], newest=NewestConfig(enabled=False), **settings)


def test_counted_by_hand(tmp_path: Path) -> None:
    (cost,) = costs(_config(), [_suite(tmp_path, 120)], Words())
    # A context of seven words once, and continuations of one and two.
    assert cost.tasks == (TaskCost("own", 120, 240, 120 * 10, 0),)
    assert (cost.num_items, cost.num_requests, cost.counted_by) == (120, 240, "tokenizer")
    (limited,) = costs(_config(limit=30), [_suite(tmp_path, 120)], Words())
    assert limited.tasks == (TaskCost("own", 30, 60, 300, 0),)


def test_without_a_tokenizer(tmp_path: Path) -> None:
    (cost,) = costs(_config(), [_suite(tmp_path, 10)])
    assert cost.counted_by == "characters / 4"
    assert cost.num_prompt_tokens == 10 * (5 + 1 + 3)


def test_longest_answers_count_for_every_request() -> None:
    (smoke,) = load_suites(EvaluateConfig(suites=["smoke"]))
    (cost,) = costs(_config(), [smoke])
    assert {task.task: task.max_new_tokens for task in cost.tasks} == {
        "ct_smoke_write": 20 * 8,
        "ct_smoke_choose": 0,
    }
    assert cost.max_new_tokens == 160
