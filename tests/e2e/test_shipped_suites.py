"""The shipped suites on real benchmarks, served by the embedded Hub under their real names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ct_llm.config import Suite, TaskConfig, shipped
from ct_llm.errors import SecurityError
from ct_llm.evaluate.sandbox import sandbox_problem
from ct_llm.evaluate.scores import read_scores
from ct_llm.evaluate.tasks.tasks import load_tasks
from ct_llm.records import EvalResult
from scripts.bench.real_tasks import human_eval, mbpp
from tests.real_tasks import RealHub

pytestmark = pytest.mark.e2e

NUM_ROWS = 20
"""Of each benchmark whose own solutions are graded."""
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
config = EvaluateConfig(
    suites=names,
    limit=4,
    newest=NewestConfig(enabled=False),
    dataset_revisions=json.loads(sys.argv[3]),
)
result = evaluate(
    config,
    load_suites(config),
    base=BaseModelFolder(base, "base", "0"),
    base_config=BaseModelConfig(repo=str(base), chat_template=folder / "template.jinja"),
    adapters={"champion": None, "challenger": folder / "adapter"},
    folder=folder,
    on_progress=lambda progress: print(progress.text, file=sys.stderr),
)
print(result.model_dump_json())
"""


def test_the_default_suites(real_hub: RealHub, real_data: Path, tmp_path: Path) -> None:
    result = _evaluate(real_hub, real_data, tmp_path, "coding,reasoning,chat")
    num_items = {part.slice: part.num_items for part in result.slices}
    coding = 0 if sandbox_problem() else 8
    assert num_items == {"coding": coding, "reasoning": 24, "chat": 8}
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
    for doc in human_eval(real_data / "eval")[:NUM_ROWS]:
        whole = f"Here:\n```python\n{doc['prompt']}{doc['canonical_solution']}\n```"
        assert grading.grade_humaneval(doc, [whole]) == {"passed": 1.0}, doc["task_id"]
        assert grading.grade_humaneval(doc, [doc["canonical_solution"]]) == {"passed": 1.0}
        assert grading.grade_humaneval(doc, ["    return None"]) == {"passed": 0.0}
    for doc in mbpp(real_data / "eval")[:NUM_ROWS]:
        assert grading.grade_mbpp(doc, [f"```python\n{doc['code']}\n```"]) == {"passed": 1.0}
        assert grading.grade_mbpp(doc, ["I would rather not."]) == {"passed": 0.0}


@pytest.mark.parametrize(
    ("task", "metric", "named"),
    [
        ("humaneval", "pass@1", "humaneval"),
        ("mbpp_plus_instruct", "pass_at_1", "mbpp_plus_instruct"),
        ("own_group", "pass@1", "humaneval"),  # a member of a group that is imported with it
    ],
)
def test_lm_evals_own_code_tasks_are_refused(
    tmp_path: Path, task: str, metric: str, named: str
) -> None:
    (tmp_path / "own_group.yaml").write_text("group: own_group\ntask: [humaneval]\n")
    config = TaskConfig(task=task, metric=metric)
    suite = Suite(slice="coding", tasks=[config], tolerance=0.0, task_dir=tmp_path)
    with pytest.raises(SecurityError, match=f"task {named} runs generated code"):
        load_tasks(suite, None, tmp_path / "cache")


# ---------------------------------------------------------------- means


def _evaluate(hub: RealHub | None, real_data: Path, folder: Path, names: str) -> EvalResult:
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
    home = folder / "hf"
    env = {**os.environ, "HF_HOME": str(home)} if hub is None else hub.environment(home)
    revisions = json.dumps({} if hub is None else hub.revisions)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), names, revisions],
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
