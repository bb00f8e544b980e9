"""The evaluation of two real (tiny) adapters, held against plain lm_eval runs item by item."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ct_llm.config import BaseModelConfig, EvaluateConfig, NewestConfig, Suite, TaskConfig
from ct_llm.errors import AdapterError, ConfigError, InputError, SecurityError
from ct_llm.evaluate import sandbox
from ct_llm.evaluate.evaluate import evaluate
from ct_llm.evaluate.scores import random_order, read_scores
from ct_llm.evaluate.tasks import load_tasks
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import EvalResult, ItemScore

pytestmark = pytest.mark.e2e

BASE = BaseModelFolder(
    Path(__file__).parents[2] / "scripts" / "demo_world" / "base", "demo/base", "0" * 40
)
NO_NEWEST = EvaluateConfig(suites=[], newest=NewestConfig(enabled=False))
TASKS = {
    "toy_write": """
        output_type: generate_until
        doc_to_text: question
        doc_to_target: answer
        generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
        metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
    """,
    "toy_choose": """
        output_type: multiple_choice
        doc_to_text: question
        doc_to_choice: choices
        doc_to_target: label
        metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
    """,
    "toy_likely": """
        output_type: loglikelihood
        doc_to_text: question
        doc_to_target: answer
        process_results: !function grading.likelihood
        metric_list: [{metric: likelihood, aggregation: mean, higher_is_better: true}]
    """,
    "toy_code": """
        output_type: generate_until
        unsafe_code: true
        doc_to_text: question
        doc_to_target: answer
    """,
}
METRICS = {"toy_write": "exact_match", "toy_choose": "acc", "toy_likely": "likelihood"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads only wait for each other over matrices this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_adapter(tmp_path_factory.mktemp("champion"), seed=1)


@pytest.fixture(scope="module")
def challenger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save_adapter(tmp_path_factory.mktemp("challenger"), seed=2)


@pytest.fixture(scope="module")
def task_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    _write_items(folder / "items.jsonl", "Say hello to")
    (folder / "grading.py").write_text(
        "import math\n\n\ndef likelihood(doc, results):\n"
        "    return {'likelihood': math.exp(results[0][0] / len(doc['answer']))}\n"
    )
    for name, text in TASKS.items():
        lines = [
            f"task: {name}",
            "dataset_path: json",
            "dataset_kwargs: {data_files: {test: items.jsonl}}",
            "test_split: test",
            *(line.strip() for line in text.strip().splitlines()),
        ]
        (folder / f"{name}.yaml").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def suite(task_dir: Path) -> Suite:
    tasks = [TaskConfig(task=task, metric=metric) for task, metric in METRICS.items()]
    return Suite(slice="toy", tasks=tasks, task_dir=task_dir, tolerance=0.1)


def test_scores_are_those_of_plain_lm_eval(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    result = _evaluate(tmp_path, [suite], challenger, champion)
    scores = read_scores(tmp_path / result.scores_path)
    assert len(scores) == 2 * result.slices[0].num_items == 2 * 36
    for adapter, folder in (("champion", champion), ("challenger", challenger)):
        assert _by_item(scores, adapter) == _plain_lm_eval(suite, folder)
    assert len({s.score for s in scores if s.task == "toy_likely"}) == 24
    assert len({s.output for s in scores if s.task == "toy_write"}) > 2


def test_the_base_itself_as_champion(tmp_path: Path, suite: Suite, challenger: Path) -> None:
    result = _evaluate(tmp_path, [suite], challenger, None)
    scores = read_scores(tmp_path / result.scores_path)
    assert _by_item(scores, "champion") == _plain_lm_eval(suite, None)
    assert result.champion_digest is None


def test_the_same_twice_in_an_order_drawn_from_the_items_alone(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    lines: list[str] = []
    first = _evaluate(tmp_path / "1", [suite], challenger, champion, on_progress=lines.append)
    second = _evaluate(tmp_path / "2", [suite], challenger, champion)
    assert first.scores_digest == second.scores_digest
    scores = read_scores(tmp_path / "1" / first.scores_path)
    order = [s.item_id for s in scores if s.adapter == "champion"]
    assert order == [s.item_id for s in scores if s.adapter == "challenger"]
    assert order == random_order(sorted(order), order_seed=0, slice_name="toy")
    assert lines[-1] == "toy: challenger 36/36 items"


def test_a_limit_takes_the_first_items(
    tmp_path: Path, suite: Suite, champion: Path, challenger: Path
) -> None:
    config = NO_NEWEST.model_copy(update={"limit": 3})
    result = _evaluate(tmp_path, [suite], challenger, champion, config=config)
    scores = read_scores(tmp_path / result.scores_path)
    assert {s.item_id.split("/")[1] for s in scores} == {"0", "1", "2"}
    assert result.slices[0].num_items == 9


def test_the_newest_slice(tmp_path: Path, champion: Path, challenger: Path) -> None:
    responses = ["Hello Ada!", "Hello Ben!", "", "on and on " * 500]
    rows = [
        [{"role": "user", "content": f"Greet {n}"}, {"role": "assistant", "content": text}]
        for n, text in enumerate(responses)
    ]
    holdout = tmp_path / "holdout.parquet"
    table = {"row_id": ["a", "b", "c", "d"], "messages": [json.dumps(row) for row in rows]}
    pq.write_table(pa.table(table), holdout)
    result = _evaluate(
        tmp_path, [], challenger, champion, config=EvaluateConfig(suites=[]), holdout=holdout
    )
    scores = read_scores(tmp_path / result.scores_path)
    assert len(scores) == 2 * 4
    assert all(0.0 < s.score <= 1.0 for s in scores)
    assert len({s.score for s in scores}) == 8


def test_no_newest_rows_is_said_and_not_scored(tmp_path: Path, challenger: Path) -> None:
    result = _evaluate(tmp_path, [], challenger, None, config=EvaluateConfig(suites=[]))
    (newest,) = result.slices
    assert newest.not_evaluated is not None
    assert newest.not_evaluated.startswith("no held-out rows")
    assert read_scores(tmp_path / result.scores_path) == []


def test_without_a_sandbox_no_code_is_run(
    tmp_path: Path, suite: Suite, challenger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coding = suite.model_copy(update={"slice": "coding", "executes_code": True})
    (tmp_path / "bin").mkdir()
    sandbox.sandbox_problem.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path / "bin"))  # a machine without bubblewrap
        result = _evaluate(tmp_path, [coding], challenger, None)
    sandbox.sandbox_problem.cache_clear()
    (part,) = result.slices
    assert part.num_items == 0
    assert part.not_evaluated is not None
    assert "bubblewrap" in part.not_evaluated


# ---------------------------------------------------------------- what is refused


def _nan(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor.fill_(float("nan")))


def _zero(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor.zero_() if "lora_B" in name else tensor)


def _tiny(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor.mul_(1e-30))


def _renamed(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({k.replace("q_proj", "w_proj"): v for k, v in load_file(path).items()}, path)


def _narrow(folder: Path) -> None:
    _change_weights(folder, lambda name, tensor: tensor[..., :-1].contiguous())


def _truncated(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _foreign(folder: Path) -> None:
    _change_config(folder, base_model_name_or_path="somebody/else")


def _pissa(folder: Path) -> None:
    _change_config(folder, init_lora_weights="pissa_niter_4")


def _other_vocabulary(folder: Path) -> None:
    for path in BASE.folder.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"<|user|>"', '"<|human|>"'))


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (_nan, "NaN or infinite"),
        (_zero, "every weight is zero"),
        (_tiny, "changes nothing"),
        (_renamed, "does not fit the base model"),
        (_narrow, "does not fit the base model"),
        (_truncated, "cannot be read"),
        (_foreign, "made for base model 'somebody/else', not for 'demo/base'"),
        (_pissa, "changes the base model while loading"),
        (_other_vocabulary, "another vocabulary"),
    ],
)
def test_a_broken_challenger_is_refused(
    tmp_path: Path, challenger: Path, break_it: Callable[[Path], None], complaint: str
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(challenger, broken)
    break_it(broken)
    with pytest.raises(AdapterError, match=complaint):
        _evaluate(tmp_path, [], broken, None)


@pytest.mark.parametrize(
    ("task", "error", "complaint"),
    [
        (TaskConfig(task="toy_writ", metric="acc"), ConfigError, "Near: toy_write"),
        (TaskConfig(task="toy_write", metric="acc", filter="x"), InputError, "It has: none"),
        (TaskConfig(task="toy_code", metric="acc"), SecurityError, "unprotected"),
    ],
)
def test_tasks_that_cannot_be_gated_are_refused(
    tmp_path: Path,
    suite: Suite,
    monkeypatch: pytest.MonkeyPatch,
    task: TaskConfig,
    error: type[Exception],
    complaint: str,
) -> None:
    from ct_llm.evaluate import tasks

    # lm-eval's own index takes 15 seconds and holds nothing of this name either.
    assert suite.task_dir is not None
    local = tasks._local_index(suite.task_dir)
    monkeypatch.setattr(tasks, "_builtin_index", lambda: local)
    with pytest.raises(error, match=complaint):
        load_tasks(suite.model_copy(update={"tasks": [task]}), None, tmp_path)


def test_a_metric_that_does_not_exist_names_those_that_do(
    tmp_path: Path, suite: Suite, challenger: Path
) -> None:
    wrong = suite.model_copy(update={"tasks": [TaskConfig(task="toy_choose", metric="f1")]})
    with pytest.raises(InputError, match=r"toy_choose: no metric 'f1' per item\. It has: acc"):
        _evaluate(tmp_path, [wrong], challenger, None)


def test_a_task_without_documents_is_said(tmp_path: Path, task_dir: Path) -> None:
    folder = tmp_path / "tasks"
    shutil.copytree(task_dir, folder)
    (folder / "items.jsonl").write_text("")
    tasks = [TaskConfig(task="toy_write", metric="exact_match")]
    suite = Suite(slice="toy", tasks=tasks, task_dir=folder, tolerance=0.1)
    with pytest.raises(InputError, match="toy_write: its dataset has no documents"):
        load_tasks(suite, None, tmp_path / "cache")


def test_changed_items_are_read_anew(tmp_path: Path, task_dir: Path) -> None:
    """Even when size and time of the file are those of before."""
    folder = tmp_path / "tasks"
    shutil.copytree(task_dir, folder)
    tasks = [TaskConfig(task="toy_write", metric="exact_match")]
    suite = Suite(slice="toy", tasks=tasks, task_dir=folder, tolerance=0.1)
    (tmp_path / "1").mkdir()
    before = load_tasks(suite, None, tmp_path / "1")[0].item_ids()
    items = folder / "items.jsonl"
    stat = items.stat()
    _write_items(items, "Say howdy to")
    os.utime(items, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "2").mkdir()
    after = load_tasks(suite, None, tmp_path / "2")[0].item_ids()
    assert len(before) == len(after) == 12
    assert not set(before) & set(after)


# ---------------------------------------------------------------- means


def _save_adapter(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(BASE.folder, dtype=torch.float32)
    config = LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj", "down_proj"],
        task_type="CAUSAL_LM",
        base_model_name_or_path=BASE.repo,
    )
    peft_model = get_peft_model(model, config)
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    peft_model.save_pretrained(str(folder))
    _change_config(folder, base_model_name_or_path=BASE.repo)
    return folder


def _change_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _change_weights(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)


def _write_items(path: Path, verb: str) -> None:
    names = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ian", "Jo", "Kim", "Leo"]
    rows = [
        {
            "question": f"{verb} {name}.",
            "answer": f"Hello {name}!",
            "choices": [f"Hello {other}!" for other in sorted({name, *names[:3]})],
            "label": sorted({name, *names[:3]}).index(name),
        }
        for name in names
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _evaluate(
    folder: Path,
    suites: list[Suite],
    challenger: Path,
    champion: Path | None,
    *,
    config: EvaluateConfig = NO_NEWEST,
    holdout: Path | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> EvalResult:
    return evaluate(
        config,
        suites,
        base=BASE,
        base_config=BaseModelConfig(repo=BASE.repo),
        challenger=challenger,
        champion=champion,
        champion_revision=None,
        holdout=holdout,
        folder=folder,
        on_progress=on_progress,
    )


def _by_item(scores: list[ItemScore], adapter: str) -> dict[str, tuple[float, str, str | None]]:
    """Item id to score, prompt and, where something was generated, output."""
    return {
        s.item_id: (s.score, s.prompt, s.output if s.task == "toy_write" else None)
        for s in scores
        if s.adapter == adapter
    }


def _plain_lm_eval(suite: Suite, adapter: Path | None) -> dict[str, tuple[float, str, str | None]]:
    """What `lm_eval --model hf --apply_chat_template` gives, in the form of `_by_item`."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    assert suite.task_dir is not None
    hflm: Any = HFLM  # decorators hide both signatures from type checkers
    simple_evaluate: Any = lm_eval.simple_evaluate
    here = Path.cwd()
    os.chdir(suite.task_dir)  # lm-eval takes data files relative to it
    try:
        results = simple_evaluate(
            model=hflm(
                pretrained=str(BASE.folder),
                peft=None if adapter is None else str(adapter),
                dtype="float32",
                device="cpu",
                batch_size=64,
            ),
            tasks=list(METRICS),
            task_manager=TaskManager(include_path=str(suite.task_dir), include_defaults=False),
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    finally:
        os.chdir(here)
    return {
        f"{task}/{sample['doc_id']}/{sample['doc_hash'][:16]}": (
            float(sample[METRICS[task]]),
            sample["arguments"][0][0],
            sample["resps"][0][0] if task == "toy_write" else None,
        )
        for task, samples in results["samples"].items()
        for sample in samples
    }
