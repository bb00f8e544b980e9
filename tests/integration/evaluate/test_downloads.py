"""Nothing but datasets is fetched: neither from the Hub nor from the current folder."""

import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from ct_llm.config import Suite, TaskConfig
from ct_llm.errors import CtError, InputError, SecurityError
from ct_llm.evaluate.tasks.downloads import no_downloads
from ct_llm.evaluate.tasks.tasks import load_tasks

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: items.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{until: ["\\n"]}}
{more}
"""
SCRIPT = "raise SystemExit('a script of the current folder was run')\n"


def _suite(folder: Path, more: str, code: str = "", metric: str = "exact_match") -> Suite:
    (folder / "items.jsonl").write_text(json.dumps({"question": "1?", "answer": "1"}) + "\n")
    (folder / "own.yaml").write_text(TASK.format(name="own", more=more))
    (folder / "grading.py").write_text(code)
    named = TaskConfig(task="own", metric=metric)
    return Suite(slice="s", tasks=[named], tolerance=0.0, task_dir=folder)


def _metric(name: str, *, hf: bool = False) -> str:
    return (
        f"metric_list: [{{metric: {name}, aggregation: mean, higher_is_better: true"
        f"{', hf_evaluate: true' if hf else ''}}}]"
    )


@pytest.mark.slow  # lm-eval imports `evaluate` to look for it
def test_a_metric_that_lm_eval_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, here = tmp_path / "tasks", tmp_path / "here"
    tasks.mkdir()
    (here / "sari").mkdir(parents=True)
    (here / "sari" / "sari.py").write_text(SCRIPT)
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match=r"task own: no metric 'sari'\. metric 'sari' is code"):
        load_tasks(_suite(tasks, _metric("sari"), metric="sari"), None, tmp_path / "cache")


@pytest.mark.slow  # as above
def test_exact_match_is_lm_evals_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks, here = tmp_path / "tasks", tmp_path / "here"
    tasks.mkdir()
    (here / "exact_match").mkdir(parents=True)
    (here / "exact_match" / "exact_match.py").write_text(SCRIPT)
    monkeypatch.chdir(here)
    suite = _suite(tasks, _metric("exact_match", hf=True))
    (task,) = load_tasks(suite, None, tmp_path / "cache")
    assert task.task.process_results({"question": "1?", "answer": "1"}, ["1"]) == {
        "exact_match": 1.0
    }


@pytest.mark.parametrize(
    ("code", "error", "complaint"),
    [
        ("import evaluate\nevaluate.load('rouge')", InputError, "metric 'rouge' is code"),
        ("from evaluate import load\nload('code_eval')", SecurityError, "code_eval runs generated"),
        ("import nltk\nnltk.download('punkt_tab')", InputError, "NLTK data punkt_tab is missing"),
        ("import not_a_module_of_anybody", InputError, "No module named"),
    ],
)
def test_what_a_tasks_own_code_fetches(
    tmp_path: Path, code: str, error: type[CtError], complaint: str
) -> None:
    code += "\n\ndef grade(doc, results):\n    return {'passed': 1.0}\n"
    suite = _suite(tmp_path, "process_results: !function grading.grade", code, "passed")
    with pytest.raises(error, match=complaint):
        load_tasks(suite, None, tmp_path / "cache")


def test_everybody_elses_modules_behave_as_always(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nltk")
    module.__dict__["download"] = lambda name: f"fetched {name}"
    monkeypatch.setitem(sys.modules, "nltk", module)
    with no_downloads() as refused:
        with pytest.raises(InputError, match="NLTK data x is missing"):
            module.download("x")
        with no_downloads(), pytest.raises(InputError):
            module.download("y")
        assert len(refused) == 1
    assert module.download("x") == "fetched x"


def test_it_costs_no_import() -> None:
    program = (
        "import sys\n"
        "from ct_llm.evaluate.tasks.downloads import no_downloads\n"
        "with no_downloads():\n    import json\n"
        "print([name for name in ('evaluate', 'nltk', 'datasets') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_folder_here_is_not_taken_for_a_hub_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openai" / "gsm8k").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    suite = Suite(slice="s", tasks=[TaskConfig(task="gsm8k", metric="exact_match")], tolerance=0.0)
    with pytest.raises(InputError, match="current folder holds openai/gsm8k"):
        load_tasks(suite, None, tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"revision": "0" * 40}, "revision: it reads no dataset of the Hub"),
        ({"num_fewshot": 3}, None),
        ({"max_gen_toks": 5}, None),
    ],
)
def test_settings_of_a_task(
    tmp_path: Path, changes: dict[str, int | str], complaint: str | None
) -> None:
    suite = _suite(tmp_path, _metric("exact_match"))
    named = suite.tasks[0].model_copy(update=changes)
    suite = suite.model_copy(update={"tasks": [named]})
    if complaint is not None:
        with pytest.raises(InputError, match=complaint):
            load_tasks(suite, None, tmp_path / "cache")
        return
    (task,) = load_tasks(suite, None, tmp_path / "cache")
    assert task.num_fewshot() == changes.get("num_fewshot", 0)
    assert task.max_new_tokens(256) == changes.get("max_gen_toks", 256)


def test_a_task_that_generates_nothing_has_no_longest_answer(tmp_path: Path) -> None:
    suite = _suite(tmp_path, "output_type: loglikelihood", metric="acc")
    text = (tmp_path / "own.yaml").read_text().replace("output_type: generate_until\n", "")
    (tmp_path / "own.yaml").write_text(text.replace('generation_kwargs: {until: ["\\n"]}\n', ""))
    named = suite.tasks[0].model_copy(update={"max_gen_toks": 5})
    with pytest.raises(InputError, match="max_gen_toks: it generates nothing"):
        load_tasks(suite.model_copy(update={"tasks": [named]}), None, tmp_path / "cache")


@pytest.mark.parametrize(
    ("line", "by", "complaint"),
    [
        ("doc_to_text: question", "doc_to_text: '{{question.nothing.at_all}}'", "UndefinedError"),
        ("test_split: test", "test_split: nowhere", "KeyError: 'nowhere'"),
    ],
)
def test_a_yaml_that_does_not_fit_its_dataset(
    tmp_path: Path, line: str, by: str, complaint: str
) -> None:
    suite = _suite(tmp_path, _metric("exact_match"))
    path = tmp_path / "own.yaml"
    path.write_text(path.read_text().replace(line, by))
    with pytest.raises(InputError, match=f"task own could not be loaded: {complaint}"):
        load_tasks(suite, None, tmp_path / "cache")
