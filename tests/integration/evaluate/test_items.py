"""Items of real suites through the real lm-eval; one of its datasets is on the embedded Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from ct_llm.config import EvaluateConfig, Suite
from ct_llm.errors import ConfigError, InputError
from ct_llm.evaluate.suite import load_suites
from ct_llm.evaluate.tasks.items import MAX_SHARED, SuiteItem, suite_items
from ct_llm.hub_server import RunningHub

Docs = list[dict[str, Any]]

PROGRAM = """
import json, os, sys
from pathlib import Path
from ct_llm.config import EvaluateConfig, HubConfig
from ct_llm.evaluate.tasks.items import suite_items
from ct_llm.evaluate.suite import load_suites
from ct_llm.hub.client import hub_api

suites = load_suites(EvaluateConfig(suites=[sys.argv[1]]))
api = hub_api(HubConfig(endpoint=os.environ["HF_ENDPOINT"]))
items = suite_items(suites, cache=Path(sys.argv[2]), api=api)
heavy = [name for name in ("lm_eval", "torch", "datasets") if name in sys.modules]
print(json.dumps([[item.question for item in items], heavy]))
"""


def _suite(folder: Path, docs: Docs | None = None, name: str = "own", **task: Any) -> Suite:
    """One task over these documents, beside a few that are not scored."""
    tasks = folder / "tasks"
    tasks.mkdir(exist_ok=True)
    for split, rows in {"test": docs or [], "train": (docs or [])[:1]}.items():
        lines = [json.dumps({**doc, "split": f"{split} of {name}"}) + "\n" for doc in rows]
        (tasks / f"{name}_{split}.jsonl").write_text("".join(lines))
    config = {
        "task": f"{name}_task",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": f"{name}_test.jsonl", "train": f"{name}_train.jsonl"}
        },
        "training_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **task,
    }
    (tasks / f"{name}_task.yaml").write_text(json.dumps(config))
    (folder / f"{name}.yaml").write_text(
        json.dumps(
            {
                "slice": name,
                "tolerance": 0.1,
                "task_dir": "tasks",
                "tasks": [{"task": f"{name}_task", "metric": "exact_match", "limit": 1}],
            }
        )
    )
    (suite,) = load_suites(EvaluateConfig(suites=[str(folder / f"{name}.yaml")]))
    return suite


def _items(suite: Suite, folder: Path) -> list[SuiteItem]:
    return suite_items([suite], cache=folder / "cache")


def test_the_smoke_suite(tmp_path: Path) -> None:
    (smoke,) = load_suites(EvaluateConfig(suites=["smoke"]))
    said: list[str] = []
    items = suite_items([smoke], cache=tmp_path, on_progress=said.append)
    assert len(items) == 40
    assert {item.slice for item in items} == {"smoke"}
    assert items[0].question == "What is 25 plus 49? Answer with the number only."
    assert items[0].texts == (items[0].question,)
    assert items[0].item_id.startswith("ct_smoke_write/0/")
    assert len({item.item_id for item in items}) == 40
    assert len(said) == 1
    assert suite_items([smoke], cache=tmp_path, on_progress=said.append) == items
    assert len(said) == 1, "the second time they come from the cache"


def test_every_document_of_the_scored_split_by_its_evaluation_id(tmp_path: Path) -> None:
    from ct_llm.evaluate.tasks.tasks import load_tasks

    docs: Docs = [{"question": f"How many is {n}?", "answer": str(n)} for n in range(3)]
    suite = _suite(tmp_path, docs)
    items = _items(suite, tmp_path)
    assert [item.question for item in items] == [
        "How many is 0?",
        "How many is 1?",
        "How many is 2?",
    ]
    (task,) = load_tasks(suite, None, tmp_path / "files")
    assert task.item_ids() == [items[0].item_id], "the suite's limit is the evaluation's alone"


def test_texts_are_what_of_an_item_may_turn_up_in_a_row(tmp_path: Path) -> None:
    solution = "def add(a, b):\n    return a + b  # the sum of both of them"
    passage = "A passage that all of the questions are about, so it is nobody's alone."
    docs: Docs = [
        {
            "question": f"Write a function that adds {n} numbers, please.",
            "answer": f"{solution} {n}",
            "tests": [f"assert add(1, 2) == 3 + {n}", f"assert add(2, 2) == 4 + {n}"],
            "choices": {
                "text": ["short", f"a rather longer choice, number {n}"],
                "label": ["A", "B"],
            },
            "passage": passage,
            "level": 3,
        }
        for n in range(MAX_SHARED + 1)
    ]
    item = _items(_suite(tmp_path, docs), tmp_path)[1]
    assert item.texts == (
        "Write a function that adds 1 numbers, please.",
        "Question: Write a function that adds 1 numbers, please.\nAnswer:",
        f"{solution} 1",
        "assert add(1, 2) == 3 + 1\nassert add(2, 2) == 4 + 1",
        "short\na rather longer choice, number 1\nA\nB",
    )


def test_a_field_that_does_not_tell_the_question_is_not_taken_for_it(tmp_path: Path) -> None:
    docs: Docs = [
        {
            "instruction": "Name the sentiment of the following sentence.",
            "input": text,
            "answer": "-",
        }
        for text in ("I love it.", "I hate it.", "I love it.")
    ]
    rendered = "{{instruction}}\n{{input}}"
    items = _items(_suite(tmp_path, docs, doc_to_text=rendered), tmp_path)
    assert [item.question for item in items] == ["I love it.", "I hate it.", "I love it."]

    docs = [
        {"instruction": docs[0]["instruction"], "rest": f"{n}", "answer": "-"} for n in range(2)
    ]
    items = _items(_suite(tmp_path, docs, doc_to_text="{{instruction}} {{rest}}"), tmp_path)
    assert [item.question for item in items] == [f"{docs[0]['instruction']} {n}" for n in range(2)]


def test_a_document_that_cannot_be_rendered_is_named(tmp_path: Path) -> None:
    docs: Docs = [{"question": "?", "answer": "1"}, {"question": "?", "answer": "x"}]
    suite = _suite(tmp_path, docs, doc_to_target="{{[10, 20][answer | int(default='none')]}}")
    with pytest.raises(InputError, match="own_task: document 1 cannot be rendered"):
        _items(suite, tmp_path)
    assert not (tmp_path / "cache").exists()


def test_an_unknown_task_is_said_as_the_evaluation_says_it(tmp_path: Path) -> None:
    suite = _suite(tmp_path, [{"question": "?", "answer": "1"}])
    task = suite.tasks[0].model_copy(update={"filter": "nonsense"})
    with pytest.raises(InputError, match="no filter 'nonsense'"):
        _items(suite.model_copy(update={"tasks": [task]}), tmp_path)
    with pytest.raises(ConfigError, match="more than once"):
        _items(suite.model_copy(update={"tasks": suite.tasks * 2}), tmp_path)


def test_changed_items_and_a_damaged_cache_are_read_anew(tmp_path: Path) -> None:
    docs: Docs = [{"question": "How many is one?", "answer": "1"}]
    before = _items(_suite(tmp_path, docs), tmp_path)
    docs[0]["question"] = "How many is two?"
    suite = _suite(tmp_path, docs)
    items = _items(suite, tmp_path)
    assert [item.question for item in (*before, *items)] == ["How many is one?", "How many is two?"]
    for kept in (tmp_path / "cache" / "items").iterdir():
        kept.write_bytes(kept.read_bytes()[:-20])
    assert _items(suite, tmp_path) == items


def test_a_dataset_that_has_moved_on_the_hub_is_loaded_anew(
    hub: RunningHub, tmp_path: Path
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("items/questions", repo_type="dataset")

    def push(question: str) -> None:
        line = json.dumps({"question": question, "answer": "1"}).encode()
        files = [CommitOperationAdd(f"{split}.jsonl", line) for split in ("train", "test")]
        api.create_commit("items/questions", files, commit_message="data", repo_type="dataset")

    _suite(tmp_path, name="hub", dataset_path="items/questions", dataset_kwargs={})
    push("How many is one?")
    assert _run(hub, tmp_path)[0] == ["How many is one?"]
    assert _run(hub, tmp_path) == (["How many is one?"], []), "without lm-eval, torch and datasets"
    push("How many is two?")
    assert _run(hub, tmp_path)[0] == ["How many is two?"]
    assert _run(hub, tmp_path) == (["How many is two?"], [])
    assert _run(None, tmp_path) == (["How many is two?"], []), "no Hub: as they were last found"


def _run(hub: RunningHub | None, folder: Path) -> tuple[list[str], list[str]]:
    """Questions, and heavy modules imported for them, in a process that speaks to this Hub."""
    endpoint = hub.endpoint if hub else "http://127.0.0.1:9"
    env = {**os.environ, "HF_HOME": str(folder / "hf"), "HF_ENDPOINT": endpoint}
    if hub is not None:
        env["HF_TOKEN"] = hub.token
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder / "hub.yaml"), str(folder / "cache")],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    questions, heavy = json.loads(done.stdout.splitlines()[-1])
    return questions, heavy
