"""lm-eval's own tasks on real benchmarks: our requests and scores are `lm_eval`'s, item for item."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.real_tasks import RealHub

pytestmark = pytest.mark.e2e

LIMIT = 10
MAX_GEN_TOKS = 16
BASE = Path(__file__).parents[2] / "scripts" / "demo_world" / "base"
"""0.85 M parameters and a context of 256 tokens, so that long prompts lose their beginning too."""

Pair = tuple[dict[str, Any], dict[str, Any]]
"""Our scores and lm-eval's, by side and item."""


class Case(NamedTuple):
    task: str
    metric: str
    filter: str = "none"
    num_fewshot: int | None = None
    chat: bool = False

    @property
    def name(self) -> str:
        return f"{self.task}-{self.num_fewshot}{'-chat' if self.chat else ''}"


CASES = [
    Case("gsm8k", "exact_match", "flexible-extract"),  # five examples, drawn anew for each question
    Case("gsm8k", "exact_match", "strict-match", num_fewshot=2, chat=True),
    Case("arc_easy", "acc"),
    Case("arc_easy", "acc_norm", num_fewshot=3),
    Case("arc_challenge", "acc", num_fewshot=2, chat=True),
    Case("bbh_zeroshot_boolean_expressions", "exact_match", "flexible-extract"),
    Case("bbh_zeroshot_date_understanding", "exact_match", "flexible-extract", chat=True),
    Case("bbh_fewshot_object_counting", "exact_match"),  # three fixed examples
    Case("bbh_cot_fewshot_sports_understanding", "exact_match", "get-answer"),
    Case("lambada_openai", "acc"),
    Case("lambada_openai", "acc", num_fewshot=2),  # drawn from the split that is scored
]
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
import lm_eval.tasks
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from ct_llm.config import BaseModelConfig, EvaluateConfig, Suite, TaskConfig
from ct_llm.errors import HubNotFoundError
from ct_llm.evaluate.engine.engine import open_engine
from ct_llm.evaluate.tasks.requests import TaskRequests
from ct_llm.evaluate.tasks.tasks import load_tasks
from ct_llm.hub.client import BaseModelFolder

torch.set_num_threads(1)
base, cache, limit, max_gen_toks = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
cases, revisions = json.loads(sys.argv[5]), json.loads(sys.argv[6])
torch.manual_seed(0)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
    LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"),
)
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter, std=0.05)
model.save_pretrained(cache / "adapter")
tokenizer = AutoTokenizer.from_pretrained(base)
plain = {
    "champion": HFLM(
        pretrained=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        tokenizer=tokenizer,
        batch_size=16,
    ),
    "challenger": HFLM(pretrained=model.eval(), tokenizer=tokenizer, batch_size=16),
}
engine = open_engine(
    EvaluateConfig(suites=[]),
    BaseModelFolder(base, "stories", "0" * 40),
    BaseModelConfig(repo=str(base)),
    {"champion": None, "challenger": cache / "adapter"},
)
# Its folders of these tasks: an index of all takes 15 seconds.
folder = Path(lm_eval.tasks.__file__).parent
manager = TaskManager(
    include_path=[folder / name for name in ("gsm8k", "arc", "bbh", "lambada")], include_defaults=False
)


def ours(task, metric, filter, num_fewshot, chat, revisions=revisions):
    generates = not task.startswith(("arc", "lambada"))
    config = TaskConfig(
        task=task, metric=metric, filter=filter, num_fewshot=num_fewshot,
        max_gen_toks=max_gen_toks if generates else None, revision="0" * 40,  # overridden
    )
    suite = Suite(slice="s", tasks=[config], tolerance=0.0, apply_chat_template=chat)
    (loaded,) = load_tasks(suite, limit, cache, revisions)
    requests = TaskRequests(loaded, suite, engine.lm)
    scored = {side: {} for side in plain}
    # Whatever the order, and a few at a time.
    items = requests.item_ids[::-1]
    for batch in (items[:3], items[3:]):
        asked = {item: requests.of(item) for item in batch}
        answers = engine.respond([request for item in batch for request in asked[item]], list(plain))
        for side in plain:
            given = iter(answers[side])
            for item in batch:
                outcome = requests.score(item, [next(given) for _ in asked[item]])
                arguments = [list(map(str, request.args)) for request in asked[item]]
                scored[side][item] = [
                    outcome.score, outcome.prompt_hash, outcome.output, arguments
                ]
    return scored


def theirs(side, task, metric, filter, num_fewshot, chat):
    generates = not task.startswith(("arc", "lambada"))
    found = simple_evaluate(
        plain[side], tasks=[task], num_fewshot=num_fewshot, limit=limit, bootstrap_iters=0,
        apply_chat_template=chat, task_manager=manager,
        gen_kwargs={"max_gen_toks": max_gen_toks} if generates else None,
    )["samples"][task]
    return {
        f"{task}/{sample['doc_id']}/{sample['doc_hash'][:16]}": [
            float(sample[metric]),
            sample["prompt_hash"],
            None if len(sample["resps"]) > 1 or not generates else sample["resps"][0][0],
            [list(map(str, arguments)) for arguments in sample["arguments"]],
        ]
        for sample in found
        if sample["filter"] == filter
    }


try:
    ours("gsm8k", "exact_match", "strict-match", None, False, {})
    problem = ""
except HubNotFoundError as error:
    problem = str(error)
print(json.dumps({"problem": problem, "pairs": [
    [ours(*case), {side: theirs(side, *case) for side in plain}] for case in cases
]}))
"""


@pytest.fixture(scope="module")
def run(real_hub: RealHub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One process that loads the model once."""
    folder = tmp_path_factory.mktemp("run")
    arguments = [str(BASE), str(folder), str(LIMIT), str(MAX_GEN_TOKS), json.dumps(CASES)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, json.dumps(real_hub.revisions)],
        env=real_hub.environment(folder / "hf"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def both(run: dict[str, Any]) -> dict[str, Pair]:
    return {case.name: pair for case, pair in zip(CASES, run["pairs"], strict=True)}


def test_a_pinned_commit_that_this_hub_lacks_says_what_to_do(run: dict[str, Any]) -> None:
    assert "task gsm8k: its dataset is not on the Hub" in run["problem"]
    assert "evaluate.dataset_revisions" in run["problem"]


@pytest.mark.parametrize("side", ["champion", "challenger"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scores_and_requests_are_those_of_simple_evaluate(
    case: Case, side: str, both: dict[str, Pair]
) -> None:
    ours, theirs = (scores[side] for scores in both[case.name])
    assert len(theirs) == LIMIT
    assert ours.keys() == theirs.keys()
    for item, (score, prompt_hash, output, asked) in ours.items():
        their_score, their_hash, their_output, their_asked = theirs[item]
        assert asked == their_asked, item
        assert (score, prompt_hash) == (their_score, their_hash), item
        if their_output is not None:
            assert output == their_output, item


def test_the_comparison_can_fail(both: dict[str, Pair]) -> None:
    """Few-shot examples differ between questions, answers between the sides, and not all is wrong."""
    for name in ("gsm8k-None", "arc_easy-3", "lambada_openai-2"):
        asked = [asked for _, _, _, asked in both[name][0]["champion"].values()]
        assert len({requests[0][0].rpartition("\n\n")[0] for requests in asked}) == LIMIT, name
    for name in ("gsm8k-None", "bbh_fewshot_object_counting-None"):
        outputs = [{output for _, _, output, _ in side.values()} for side in both[name][0].values()]
        assert outputs[0] != outputs[1]
    for name in ("arc_easy-None", "arc_easy-3"):
        scores = {score for side in both[name][0].values() for score, *_ in side.values()}
        assert scores == {0.0, 1.0}, name


@pytest.mark.slow
def test_scores_are_those_of_the_lm_eval_command(
    real_hub: RealHub,
    both: dict[str, Pair],
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lm_eval", "--model", "hf"),
            *("--model_args", f"pretrained={BASE},dtype=float32", "--device", "cpu"),
            *("--tasks", "gsm8k,arc_easy,lambada_openai", "--limit", str(LIMIT)),
            *("--gen_kwargs", f"max_gen_toks={MAX_GEN_TOKS}", "--batch_size", "16"),
            *("--log_samples", "--output_path", str(tmp_path / "out")),
        ],
        env=real_hub.environment(tmp_path / "hf"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for case in (CASES[0], CASES[2], CASES[9]):
        (path,) = (tmp_path / "out").rglob(f"samples_{case.task}_*.jsonl")
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        theirs = {
            f"{case.task}/{sample['doc_id']}/{sample['doc_hash'][:16]}": float(sample[case.metric])
            for sample in samples
            if sample["filter"] == case.filter
        }
        ours = both[case.name][0]["champion"]
        assert {item: score for item, (score, *_) in ours.items()} == theirs
