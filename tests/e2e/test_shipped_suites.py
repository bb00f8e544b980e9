"""The shipped suites on real benchmarks, served by the embedded Hub under their real names."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ct_llm.config import shipped
from ct_llm.errors import SecurityError
from ct_llm.evaluate.sandbox import sandbox_problem
from ct_llm.evaluate.scores import read_scores
from ct_llm.hub_server import RunningHub, running_hub
from ct_llm.records import EvalResult

pytestmark = pytest.mark.e2e

Rows = list[dict[str, Any]]
NUM_ROWS = 20
"""Of each benchmark: enough for few-shot examples and `limit`."""
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}</s>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from ct_llm.config import BaseModelConfig, EvaluateConfig, NewestConfig
from ct_llm.evaluate.evaluate import evaluate
from ct_llm.evaluate.suite import load_suites
from ct_llm.hub.client import BaseModelFolder

torch.set_num_threads(1)
folder, names = Path(sys.argv[1]), sys.argv[2].split(",")
base = folder / "base"
torch.manual_seed(0)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(base),
    LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
)
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.05)
model.save_pretrained(folder / "adapter")
config = EvaluateConfig(suites=names, limit=4, newest=NewestConfig(enabled=False))
result = evaluate(
    config,
    load_suites(config),
    base=BaseModelFolder(base, "base", "0"),
    base_config=BaseModelConfig(repo=str(base), chat_template=folder / "template.jinja"),
    challenger=folder / "adapter",
    champion=None,
    champion_revision=None,
    holdout=None,
    folder=folder,
    on_progress=lambda line: print(line, file=sys.stderr),
)
print(result.model_dump_json())
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[RunningHub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as hub:
        for repo, splits in _benchmarks(real_data / "eval").items():
            _publish(hub, repo, splits)
        yield hub


def test_the_default_suites(hub: RunningHub, real_data: Path, tmp_path: Path) -> None:
    result = _evaluate(hub, real_data, tmp_path, "coding,reasoning,chat")
    num_items = {part.slice: part.num_items for part in result.slices}
    coding = 0 if sandbox_problem() else 8
    assert num_items == {"coding": coding, "reasoning": 24, "chat": 4}
    scores = read_scores(tmp_path / result.scores_path)
    assert len(scores) == 2 * sum(num_items.values())
    assert {score.score for score in scores} <= {0.0, 1.0}
    assert all(score.output for score in scores if score.task.startswith("arc"))


def test_smoke_needs_no_hub(real_data: Path, tmp_path: Path) -> None:
    result = _evaluate(None, real_data, tmp_path, "smoke")
    assert [part.num_items for part in result.slices] == [8]


def test_the_benchmarks_own_solutions_pass(real_data: Path) -> None:
    """The graders agree with HumanEval: right answers count, and wrong ones do not."""
    if (problem := sandbox_problem()) is not None:
        pytest.skip(problem)
    grading = _load_grading()
    for doc in _human_eval(real_data / "eval")[:NUM_ROWS]:
        whole = f"Here:\n```python\n{doc['prompt']}{doc['canonical_solution']}\n```"
        assert grading.grade_humaneval(doc, [whole]) == {"passed": 1.0}, doc["task_id"]
        assert grading.grade_humaneval(doc, [doc["canonical_solution"]]) == {"passed": 1.0}
        assert grading.grade_humaneval(doc, ["    return None"]) == {"passed": 0.0}
    for doc in _mbpp(real_data / "eval")[:NUM_ROWS]:
        assert grading.grade_mbpp(doc, [f"```python\n{doc['code']}\n```"]) == {"passed": 1.0}
        assert grading.grade_mbpp(doc, ["I would rather not."]) == {"passed": 0.0}


def test_lm_evals_own_humaneval_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lm_eval.tasks

    from ct_llm.config import Suite, TaskConfig
    from ct_llm.evaluate import tasks as tasks_module
    from ct_llm.evaluate.tasks import load_tasks

    # One folder of lm-eval's index instead of all of it: 0.1 seconds instead of 15.
    there = Path(lm_eval.tasks.__file__).parent / "humaneval"
    index = lm_eval.tasks.TaskManager(include_path=str(there), include_defaults=False)
    monkeypatch.setattr(tasks_module, "_builtin_index", lambda: index)
    tasks = [TaskConfig(task="humaneval", metric="pass@1", filter="create_test")]
    suite = Suite(slice="coding", tasks=tasks, tolerance=0.0)
    with pytest.raises(SecurityError, match="humaneval runs generated code"):
        load_tasks(suite, None, tmp_path)


# ---------------------------------------------------------------- means


def _evaluate(hub: RunningHub | None, real_data: Path, folder: Path, names: str) -> EvalResult:
    """In a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
    base = folder / "base"
    shutil.copytree(real_data / "model_stories260k", base, copy_function=shutil.copyfile)
    base.chmod(0o755)
    config = json.loads((base / "config.json").read_text())
    # The tasks' longest answers (1,280 tokens) do not fit into this model's 512; rotary positions
    # go on beyond.
    (base / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    # It knows no end of turn and would tell stories up to that length: a token in sixteen ends one.
    endings = {"bos_token_id": 1, "eos_token_id": list(range(2, 512, 16))}
    (base / "generation_config.json").write_text(json.dumps(endings))
    (folder / "template.jinja").write_text(TEMPLATE)
    env = {**os.environ, "HF_HOME": str(folder / "hf")}
    if hub is not None:
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), names],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return EvalResult.model_validate_json(done.stdout.splitlines()[-1])


def _load_grading() -> Any:
    import importlib.util

    path = shipped("eval_suites/tasks/code_grading.py")
    spec = importlib.util.spec_from_file_location("code_grading", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _publish(hub: RunningHub, repo: str, splits: dict[tuple[str, str], Rows]) -> None:
    """One JSONL file a config and split, and the card that says so."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo(repo, repo_type="dataset")
    configs: dict[str, list[dict[str, str]]] = {}
    files: list[CommitOperationAdd] = []
    for (config, split), rows in splits.items():
        path = f"{config}/{split}.jsonl"
        text = "".join(json.dumps(row) + "\n" for row in rows)
        files.append(CommitOperationAdd(path, text.encode()))
        configs.setdefault(config, []).append({"split": split, "path": path})
    card = {"configs": [{"config_name": c, "data_files": f} for c, f in configs.items()]}
    files.append(CommitOperationAdd("README.md", f"---\n{yaml.safe_dump(card)}---\n".encode()))
    api.create_commit(repo, files, commit_message="data", repo_type="dataset")


def _benchmarks(folder: Path) -> dict[str, dict[tuple[str, str], Rows]]:
    """Dataset ids as the tasks name them, to rows by config and split."""
    gsm8k = _jsonl(folder / "reasoning" / "gsm8k" / "train.jsonl")
    arc = _arc(folder)
    bbh = ("boolean_expressions", "date_understanding", "logical_deduction_three_objects")
    return {
        "openai/openai_humaneval": {("default", "test"): _human_eval(folder)[:NUM_ROWS]},
        "google-research-datasets/mbpp": {("full", "test"): _mbpp(folder)[:NUM_ROWS]},
        "openai/gsm8k": {
            ("main", "train"): gsm8k[:NUM_ROWS],
            ("main", "test"): gsm8k[NUM_ROWS : 2 * NUM_ROWS],
        },
        "allenai/ai2_arc": {
            (config, split): arc
            for config in ("ARC-Easy", "ARC-Challenge")
            for split in ("train", "validation", "test")
        },
        "SaylorTwift/bbh": {
            (name, "test"): json.loads((folder / "reasoning" / "bbh" / f"{name}.json").read_text())[
                "examples"
            ][:NUM_ROWS]
            for name in bbh
        },
        "google/IFEval": {("default", "train"): _ifeval(folder)},
    }


def _jsonl(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _human_eval(folder: Path) -> Rows:
    with gzip.open(folder / "coding" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _mbpp(folder: Path) -> Rows:
    """From HumanEval's form back to that of the original dataset."""
    rows: Rows = []
    for row in _jsonl(folder / "coding" / "mbpp.jsonl")[:NUM_ROWS]:
        asserts = re.findall(r"^    (assert .*)$", row["test"], re.MULTILINE)
        rows.append(
            {
                "task_id": int(row["task_id"].removeprefix("MBPP/")),
                "text": row["description"],
                "code": row["prompt"] + row["canonical_solution"],
                "test_list": [a.replace("candidate(", f"{row['entry_point']}(") for a in asserts],
                "test_setup_code": "",
            }
        )
    return rows


def _ifeval(folder: Path) -> Rows:
    """With the nulls that Parquet puts where another instruction has an argument."""
    rows = _jsonl(folder / "chat" / "ifeval_even.jsonl")
    keys = sorted({key for row in rows for given in row["kwargs"] for key in given})
    for row in rows:
        row["kwargs"] = [{key: given.get(key) for key in keys} for given in row["kwargs"]]
    return rows


def _arc(folder: Path) -> Rows:
    """From instruction form back to questions with choices."""
    rows: Rows = []
    items = json.loads((folder / "reasoning" / "arc_easy" / "test.json").read_text())
    for number, item in enumerate(items[:NUM_ROWS]):
        question, answers = re.search(
            r"question: (.*?)\n\n(Answer1:.*?)\n\nAnswer format", item["instruction"], re.DOTALL
        ).groups()  # pyright: ignore[reportOptionalMemberAccess]
        texts = [text.strip() for text in re.split(r"Answer\d: ", answers)[1:]]
        rows.append(
            {
                "id": str(number),
                "question": question,
                "choices": {"text": texts, "label": list("ABCDE"[: len(texts)])},
                "answerKey": "ABCDE"[int(item["answer"].removeprefix("answer")) - 1],
            }
        )
    return rows
