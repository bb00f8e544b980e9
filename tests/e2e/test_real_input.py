"""Real instruction data, commit by commit in its own formats, on a real pre-trained tiny Llama."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ct_llm.evaluate.scores import read_scores
from ct_llm.hub_server.server import RunningHub
from tests.loop_world import LoopWorld

pytestmark = pytest.mark.e2e

# The model has no chat template and no tokens for turns: plain words mark them, and the
# end-of-sequence token inside the generation tags ends an answer.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ 'Answer: ' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ 'Question: ' + message['content'] + '\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer: ' }}{% endif %}"
)

# Slices by likelihood, as this model has no skill to grade: stories it knows must not be forgotten.
STORIES_TASK = """
task: stories
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
output_type: loglikelihood
doc_to_text: context
doc_to_target: continuation
process_results: !function likelihood.per_byte
metric_list:
  - metric: per_byte_probability
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""
LIKELIHOOD = """
import math

def per_byte(doc, results):
    log_likelihood, _ = results[0]
    return {"per_byte_probability": math.exp(log_likelihood / len(doc["continuation"].encode()))}
"""
STORIES_SUITE = """
slice: stories
description: Likelihood of children's stories, what the base model was made for
tasks:
  - task: stories
    metric: per_byte_probability
task_dir: tasks
apply_chat_template: false
tolerance: 0.2
"""


@pytest.fixture
def world(tmp_path: Path, hub: RunningHub, real_data: Path) -> LoopWorld:
    base = tmp_path / "base"
    shutil.copytree(real_data / "model_stories260k", base)
    for path in base.iterdir():
        path.chmod(0o644)
    (tmp_path / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    tasks = tmp_path / "suites" / "tasks"
    tasks.mkdir(parents=True)
    stories = (real_data / "text" / "tinystories_sample.txt").read_text(encoding="utf-8")
    sentences = [
        part.strip() + "." for part in stories.replace("\n", " ").split(".") if part.strip()
    ]
    pairs = itertools.pairwise(sentences)
    (tasks / "stories.jsonl").write_text(
        "".join(json.dumps({"context": a, "continuation": " " + b}) + "\n" for a, b in pairs)
    )
    (tasks / "stories.yaml").write_text(
        STORIES_TASK.format(items=json.dumps(str(tasks / "stories.jsonl")))
    )
    (tasks / "likelihood.py").write_text(LIKELIHOOD)
    (tmp_path / "suites" / "stories.yaml").write_text(STORIES_SUITE)
    world = LoopWorld(
        tmp_path,
        hub,
        "real",
        {
            "watch": {"threshold_samples": 300},
            "prepare": {"holdout_fraction": 0.1, "max_quarantine_fraction": 0.5},
            "train": {
                "lora": {"r": 8, "alpha": 16},
                "learning_rate": 5e-3,
                "epochs": 1,
                "max_length": 192,
            },
            "evaluate": {"suites": ["suites/stories.yaml"], "newest": {"max_items": 100}},
            "gate": {"target": "newest"},
        },
    )
    world.config["base_model"]["chat_template"] = "chat_template.jinja"
    world.push_base(base)
    return world


def test_two_promotions_from_files_as_they_are_in_the_wild(
    world: LoopWorld, real_data: Path
) -> None:
    train = real_data / "train"
    world.push("alpaca.json", (train / "llama_factory" / "alpaca_en_demo.json").read_bytes())
    first = world.json("run")
    assert first["outcome"] == "promoted"
    newest = next(part for part in first["decision"]["slices"] if part["slice"] == "newest")
    assert newest["state"] == "PASS"
    assert newest["challenger_mean"] > newest["champion_mean"] + 0.05

    check_public_functions(world, first, train / "gpteacher" / "roleplay-instruct.json")

    # Other formats arrive in later commits: sharegpt turns, and alpaca rows as JSONL.
    world.push(
        "chats.json", (train / "chat_multi_turn" / "fastchat_dummy_conversation.json").read_bytes()
    )
    gsm8k = json.loads((train / "gsm8k_instruct" / "gsm_8k_train.json").read_text(encoding="utf-8"))
    world.push("gsm8k.jsonl", "".join(json.dumps(row) + "\n" for row in gsm8k[:200]).encode())
    second = world.json("run")
    assert second["outcome"] == "promoted"
    assert second["summary"]["parent_revision"] == first["promotion"]["revision"]

    check_champion_from_the_hub(world, first)


PUBLIC_FUNCTIONS = """
import json, sys
import ct_llm
config, adapter, champion, suite, rows = sys.argv[1:]

trigger = ct_llm.check_for_retraining_trigger(threshold_samples=1, config=config)
assert not trigger and "0 of 1 new rows" in trigger.sentence, trigger

rows = [
    {"prompt": row["instruction"], "completion": row["response"]} for row in json.load(open(rows))[:12]
]
better = ct_llm.validate_new_model(adapter, None, rows)
assert better and better.verdict == "promote", better.sentence
same = ct_llm.validate_new_model(champion, adapter, rows)
assert not same and same.verdict == "reject", same.sentence
assert same.slices[0].delta == 0 and same.challenger_digest == better.challenger_digest

against_base = ct_llm.compare("base", adapter, [suite])
(stories,) = against_base.slices
assert (stories.slice, stories.num_used) == ("stories", stories.num_items), stories
assert stories.lower == stories.upper == stories.delta, stories
alone = ct_llm.evaluate(adapter, [suite]).slices[0]
assert alone.mean == stories.challenger_mean, (alone, stories)
try:
    ct_llm.validate_new_model(adapter, None, [{"prompt": "no answer"}])
except ct_llm.errors.DataError as error:
    assert "columns found prompt" in str(error), error
else:
    raise AssertionError("a row without an answer is no test data")
"""


def check_public_functions(world: LoopWorld, first: dict[str, Any], rows: Path) -> None:
    cycle = Path(first["cycle_dir"])
    arguments = [
        str(world.config_path),
        str(cycle / "adapter"),
        f"{world.adapter}@v1",
        str(world.folder / "suites" / "stories.yaml"),
        str(rows),
    ]
    done = subprocess.run(
        [sys.executable, "-c", PUBLIC_FUNCTIONS, *arguments],
        env=world.env,
        cwd=world.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


AS_A_USER = """
import json, math, sys
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base_repo, adapter_repo, items = sys.argv[1:]
base = AutoModelForCausalLM.from_pretrained(base_repo, dtype=torch.float32)
model = PeftModel.from_pretrained(base, adapter_repo, revision="v1").eval()
lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base_repo), batch_size=1)
requests = [
    Instance("loglikelihood", item, (item["context"], item["continuation"]), 0)
    for item in map(json.loads, open(items))
]
answers = lm.loglikelihood(requests, disable_tqdm=True)
print(json.dumps([
    math.exp(answer[0] / len(request.doc["continuation"].encode()))
    for request, answer in zip(requests, answers, strict=True)
]))
"""


def check_champion_from_the_hub(world: LoopWorld, result: dict[str, Any]) -> None:
    """Load `v1` from the Hub with PEFT as the model card says; its scores are what the gate saw."""
    items = world.folder / "suites/tasks/stories.jsonl"
    arguments = [f"{world.owner}/base", world.adapter, str(items)]
    done = subprocess.run(
        [sys.executable, "-c", AS_A_USER, *arguments],
        env=world.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    scores = [
        score
        for score in read_scores(Path(result["cycle_dir"]) / "scores.parquet")
        if score.slice == "stories" and score.adapter == "challenger"
    ]
    # The evaluation may have stopped before the last items, once the verdict was certain.
    assert 20 < len(scores) <= len(measured)
    for score in scores:
        assert measured[int(score.item_id.split("/")[1])] == pytest.approx(score.score, abs=1e-5)
