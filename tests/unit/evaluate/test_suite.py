import os
from pathlib import Path

import pytest

from ct_llm.config import EvaluateConfig
from ct_llm.errors import ConfigError
from ct_llm.evaluate.suite import load_suites, suite_identity


def _suite(
    folder: Path, name: str, slice_name: str, tasks: str = "[{task: t, metric: acc}]"
) -> str:
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / "items.jsonl").write_text('{"q": 1}\n')
    text = f"slice: {slice_name}\ntolerance: 0.1\ntask_dir: tasks\ntasks: {tasks}\n"
    (folder / name).write_text(text)
    return name


def test_suites_by_name_and_by_path_in_their_order(tmp_path: Path) -> None:
    own = _suite(tmp_path, "own.yaml", "own")
    suites = load_suites(EvaluateConfig(suites=["chat", own]), tmp_path)
    assert [suite.slice for suite in suites] == ["chat", "own"]


@pytest.mark.parametrize(
    ("slice_names", "complaint"),
    [
        (["newest"], "the name of the held-out newest rows"),
        (["one", "one"], "slice one comes from more than one suite"),
    ],
)
def test_slices_have_names_of_their_own(
    tmp_path: Path, slice_names: list[str], complaint: str
) -> None:
    names = [_suite(tmp_path, f"{i}.yaml", name) for i, name in enumerate(slice_names)]
    with pytest.raises(ConfigError, match=complaint):
        load_suites(EvaluateConfig(suites=names), tmp_path)


def test_a_task_is_named_once(tmp_path: Path) -> None:
    twice = "[{task: t, metric: acc}, {task: t, metric: f1}]"
    name = _suite(tmp_path, "own.yaml", "own", twice)
    with pytest.raises(ConfigError, match="t named more than once"):
        load_suites(EvaluateConfig(suites=[name]), tmp_path)


def test_a_floor_is_a_score(tmp_path: Path) -> None:
    name = _suite(tmp_path, "own.yaml", "own")
    (tmp_path / name).write_text((tmp_path / name).read_text() + "floor: 30\n")
    with pytest.raises(ConfigError, match=r"floor 30 is no score from 0 to 1 \(30 % is 0\.30\)"):
        load_suites(EvaluateConfig(suites=[name]), tmp_path)


def test_identity_is_content_not_place(tmp_path: Path) -> None:
    identities = []
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        name = _suite(folder, "own.yaml", "own")
        (suite,) = load_suites(EvaluateConfig(suites=[name]), folder)
        identities.append(suite_identity(suite))
    assert identities[0] == identities[1]

    items = tmp_path / "there" / "tasks" / "items.jsonl"
    before = items.stat()
    items.write_text('{"q": 2}\n')
    os.utime(items, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert suite_identity(suite) != identities[1]
