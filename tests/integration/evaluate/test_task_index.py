"""The quick index finds what lm-eval's own index of all its tasks holds."""

import time
from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Kind

from ct_llm.evaluate.tasks import task_index

ROOT = Path(lm_eval.tasks.__file__).parent


@pytest.mark.parametrize(
    ("folder", "name", "num_entries"),
    [
        ("gsm8k", "gsm8k", 1),
        ("arc", "arc_easy", 1),
        ("arc", "ai2_arc", 3),  # a tag, and its two tasks
        ("bbh", "bbh", 28),
        ("bbh", "bbh_zeroshot_boolean_expressions", 1),
        ("squadv2", "squadv2", 1),  # a Python class
        ("mmlu/default", "mmlu", 66),  # groups of tags, whose names come with an include
    ],
)
def test_a_name_gives_what_lm_eval_gives(folder: str, name: str, num_entries: int) -> None:
    # Its index of one folder: that of all of them takes 10 seconds.
    whole = TaskManager(include_path=ROOT / folder, include_defaults=False)
    found = task_index.find(name)
    assert found is not None and len(found) == num_entries
    assert found == {known: whole.task_index[known] for known in found}
    manager = task_index.manager_of(found)
    assert manager.task_index == found
    members = {task for entry in found.values() if entry.kind == Kind.TAG for task in entry.tags}
    assert members <= found.keys()


def test_unknown_names_and_those_near_to_them() -> None:
    assert task_index.find("gsm8") is None
    assert task_index.near("gsm8")[0] == "gsm8k"
    assert task_index.near("arc_eazy")[0] == "arc_easy"
    assert task_index.near("~~~~~~~~~~~~") == []
    assert all(task_index.find(name) for name in task_index.near("bbh_zeroshot_bool"))


def test_local_tasks_go_before_and_may_group_lm_evals(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\ndataset_path: json\n")
    (tmp_path / "gsm8k.yaml").write_text("task: gsm8k\ndataset_path: json\n")
    (tmp_path / "both.yaml").write_text(
        "group: both\ntask:\n  - own\n# a comment between\n  - gsm8k\n  - task: arc_easy\n"
        "    num_fewshot: 2\n  - {group: inner, task: [arc_challenge]}\n  - {task: inline}\n"
    )
    found = task_index.find("both", tmp_path)
    assert found is not None
    assert sorted(found) == ["arc_challenge", "arc_easy", "both", "gsm8k", "own"]
    assert found["gsm8k"].yaml_path == tmp_path / "gsm8k.yaml"
    assert task_index.find("own") is None
    assert task_index.near("bothh", tmp_path)[0] == "both"


def test_names_in_every_shape_that_yaml_has(tmp_path: Path) -> None:
    (tmp_path / "template").write_text('tag:\n- "from_include"\n\n- second # not third\nx: 1\n')
    (tmp_path / "a.yaml").write_text("include: template\ntask: 'quoted'\n")
    (tmp_path / "b.yaml").write_text('"task": "json_like"\n"tag": ["in_list", in_list_2]\n')
    (tmp_path / "c.yaml").write_text("include: [template]\ntask: own_tag\ntag: overridden\n")
    (tmp_path / "d.yaml").write_text("task: quoted\nx: the second one loses\n")
    (tmp_path / "e.yaml").write_text("include: nowhere\ntask: without_its_include\n")
    (tmp_path / "f.yaml").write_text("task: broken\n  x: [\n")
    (tmp_path / "g.yaml").write_text("include: g.yaml\ntask: cycle\n")
    names = ["from_include", "second", "third", "quoted", "json_like", "in_list", "in_list_2"]
    names += ["own_tag", "overridden", "without_its_include", "broken", "cycle"]
    whole = TaskManager(include_path=tmp_path, include_defaults=False).task_index
    found = task_index.BuiltinTasks(tmp_path).entries(names)
    assert found == whole
    assert found["from_include"].tags == {"quoted"}


def test_a_first_look_takes_well_under_lm_evals_ten_seconds() -> None:
    started = time.process_time()
    index = task_index.BuiltinTasks(ROOT)
    assert "gsm8k" in index.entries(["gsm8k"])
    assert time.process_time() - started < 2.0


@pytest.mark.slow
def test_every_name_gives_what_lm_eval_gives() -> None:
    whole = TaskManager().task_index
    assert task_index.BuiltinTasks(ROOT).entries(whole) == whole
    assert len(whole) > 10_000
