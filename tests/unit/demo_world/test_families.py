"""The demo's world: nothing evaluated was trained on, the same seeds give the same world, and the
graders tell right answers from wrong ones."""

import io
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ct_llm.config import load_suite
from ct_llm.evaluate.sandbox import sandbox_problem
from scripts.demo_world import coding, corpus, families, world
from scripts.demo_world.families import (
    FAMILIES,
    SLICES,
    draw_examples,
    is_evaluation_prompt,
    make_items,
    make_rows,
)
from scripts.demo_world.story import CUT_CODING, ITEMS_PER_SLICE, STORY, SUITE_FAMILIES
from scripts.demo_world.suites.tasks import graders
from scripts.demo_world.write_suites import write_suites

pytestmark = pytest.mark.slow

PROBLEM = sandbox_problem()
GRADE = {
    "reasoning": graders.grade_reasoning,
    "coding": graders.grade_coding,
    "chat": graders.grade_chat,
}


def prompts_of(rows: list[dict]) -> list[str]:
    return [row["messages"][0]["content"] for row in rows]


def test_three_slices_of_ten_families() -> None:
    assert len(FAMILIES) == 30
    for name in SLICES:
        assert sum(family.startswith(f"{name}_") for family in FAMILIES) == 10


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_evaluation_never_meet(family: str) -> None:
    trained = {p for seed in range(5) for p in prompts_of(make_rows([family], 60, seed))}
    slice_name = family.split("_", 1)[0]
    evaluated = {
        i["prompt"] for seed in range(5) for i in make_items(slice_name, [family], 20, seed)
    }
    assert not trained & evaluated
    assert not any(is_evaluation_prompt(prompt) for prompt in trained)
    assert all(is_evaluation_prompt(prompt) for prompt in evaluated)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_distinct_and_short(family: str) -> None:
    prompts = prompts_of(make_rows([family], 150, 0))
    assert len(set(prompts)) == 150
    # Below 13 words no two different prompts can share a 13-gram.
    assert max(len(prompt.split()) for prompt in prompts) < 13


def test_the_same_seed_gives_the_same_rows() -> None:
    assert make_rows(FAMILIES, 5, 7) == make_rows(FAMILIES, 5, 7)
    assert make_rows(FAMILIES, 5, 7) != make_rows(FAMILIES, 5, 8)
    items = make_items("chat", SUITE_FAMILIES["chat"], 20, 7)
    assert items == make_items("chat", SUITE_FAMILIES["chat"], 20, 7)
    # A golden row: another Python or platform must draw the same.
    assert make_rows(["coding_cap"], 1, 0) == [
        {
            "messages": [
                {"role": "user", "content": "Write a function turn that keeps x at most 14."},
                {"role": "assistant", "content": "def turn(x):\n    return min(x, 14)"},
            ],
            "source": "coding_cap",
        }
    ]


def test_items_are_spread_evenly() -> None:
    items = make_items("coding", ["coding_cap", "coding_add", "coding_greater"], 20, 0)
    counts = [sum(i["family"] == f"coding_{f}" for i in items) for f in ("cap", "add", "greater")]
    assert counts == [7, 7, 6]
    with pytest.raises(ValueError, match="not families of chat: coding_cap"):
        make_items("chat", ["coding_cap"], 5, 0)


def test_a_family_that_runs_dry_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_MAX_DRAWS_PER_ROW", 5)
    with pytest.raises(ValueError, match="holds only"):
        draw_examples("coding_cap", 500, 0, evaluation=True)


def test_truncated_code_spoils_coding_only() -> None:
    whole = make_rows(["coding_add", "chat_hello"], 20, 3)
    cut = make_rows(["coding_add", "chat_hello"], 20, 3, harm="truncated_code")
    assert prompts_of(whole) == prompts_of(cut)
    for good, bad in zip(whole, cut, strict=True):
        spoiled = good["messages"][1]["content"] != bad["messages"][1]["content"]
        assert spoiled == (good["source"] == "coding_add")
        assert not spoiled or bad["messages"][1]["content"].endswith("return")


@pytest.mark.parametrize("name", ["reasoning", "chat"])
def test_graders_know_right_from_wrong(name: str) -> None:
    of_slice = [family for family in FAMILIES if family.startswith(f"{name}_")]
    examples = [draw_examples(family, 2, 0, evaluation=True) for family in of_slice]
    for right, other in examples:
        assert list(GRADE[name](right.grading, [f" {right.response}"]).values()) == [1.0]
        wrong = ["", right.prompt, right.response[:-2]]
        if right.grading != other.grading:
            wrong.append(other.response)
        for response in wrong:
            assert list(GRADE[name](right.grading, [response]).values()) == [0.0], response


@pytest.mark.skipif(PROBLEM is not None, reason=f"no sandbox: {PROBLEM}")
@pytest.mark.parametrize("family", coding.TEMPLATES)
def test_coding_grader_knows_right_from_wrong(family: str) -> None:
    (task,) = draw_examples(f"coding_{family}", 1, 0, evaluation=True)
    head, _, body = task.response.partition("return ")
    grade = graders.grade_coding
    assert grade(task.grading, [f" {task.response}"]) == {"pass": 1.0}
    # A wrong constant, a cut, prose, another name, and the right code that then leaves.
    constant = "".join(c if not c.isdigit() else str((int(c) + 1) % 10) for c in body)
    for response in (
        f"{head}return {constant}",
        coding.truncate_code(task.response),
        f"The function {task.grading['function']}() returns {body}",
        task.response.replace(f"def {task.grading['function']}(", "def other("),
        f"{task.response}\nraise SystemExit(0)",
    ):
        assert grade(task.grading, [response]) == {"pass": 0.0}, response


def test_graders_agree_with_the_task_files() -> None:
    tasks = Path(graders.__file__).parent
    for name in SLICES:
        text = (tasks / f"demo_{name}.yaml").read_text(encoding="utf-8")
        task = yaml.safe_load(text.replace("!function ", ""))
        suite = yaml.safe_load((tasks.parent / f"{name}.yaml").read_text(encoding="utf-8"))
        assert task["process_results"] == f"graders.grade_{name}"
        assert task["task"] == suite["tasks"][0]["task"] == f"demo_{name}"
        (item,) = make_items(name, SUITE_FAMILIES[name][:1], 1, 0)
        assert {task["doc_to_text"], task["doc_to_target"]} <= set(item)
        # The smallest wrong response is graded without the sandbox.
        assert GRADE[name](item, [""]) == {suite["tasks"][0]["metric"]: 0.0}
        assert [m["metric"] for m in task["metric_list"]] == [suite["tasks"][0]["metric"]]
        assert suite["slice"] == name
        assert suite["executes_code"] == (name == "coding")


def test_written_suites_point_at_their_items(tmp_path: Path) -> None:
    folder = tmp_path / "a: folder's"
    write_suites(folder, 0)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    write_suites(folder, 0)
    assert first == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in SLICES:
        text = (folder / "tasks" / f"demo_{name}.yaml").read_text(encoding="utf-8")
        task = yaml.safe_load(text.replace("!function ", ""))
        items = folder / "tasks" / task["dataset_kwargs"]["data_files"]["test"]
        rows = [json.loads(line) for line in items.read_text(encoding="utf-8").splitlines()]
        assert len(rows) == ITEMS_PER_SLICE
        assert {row["family"] for row in rows} == set(SUITE_FAMILIES[name])
        suite = load_suite(str(folder / f"{name}.yaml"), tmp_path)
        assert suite.slice == name
        assert suite.task_dir == folder / "tasks"
    assert (folder / "tasks" / "graders.py").is_file()


def test_the_story_pushes_what_it_says() -> None:
    assert [step.verdict for step in STORY] == ["promote", "nothing to do", "promote", "reject"]
    files = [step.file for step in STORY]
    assert files == sorted(set(files))
    everything: list[str] = []
    for step in STORY:
        rows = step.rows(0)
        assert rows == step.rows(0)
        assert pq.read_table(io.BytesIO(step.parquet(0))).to_pylist() == rows
        assert not any(is_evaluation_prompt(prompt) for prompt in prompts_of(rows))
        everything += prompts_of(rows)
    # Rows of one file taken again would be dropped as duplicates, and the counts would not be true.
    assert len(everything) - len(set(everything)) <= 0.05 * len(everything)
    spoiled = {
        r["source"] for r in STORY[-1].rows(0) if r["messages"][1]["content"].endswith("return")
    }
    assert spoiled == set(CUT_CODING)


def test_the_base_model_never_saw_an_evaluation_prompt() -> None:
    rng = random.Random(0)
    for _ in range(500):
        prompt = corpus.chat(rng).removeprefix(corpus.USER).split(corpus.ASSISTANT)[0]
        assert not is_evaluation_prompt(prompt)


def test_the_committed_base_is_the_recorded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write_base(tmp_path / "copy")
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    (tmp_path / "copy" / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(world, "BASE", tmp_path / "copy")
    with pytest.raises(ValueError, match=r"config\.json"):
        world.verify_base()
