"""Rehearse the story without the pipeline: train, evaluate, and print what came out.

    python -m scripts.demo_world.rehearse [--seeds 1 2 3] [--items-seed 0]

Each cycle trains a fresh adapter on the new rows and all accepted ones, as the pipeline does, and
scores it on the demo's slices and on ``newest``: the probability per byte of held-out new
responses. Use it after a change of families, rows or hyper-parameters, and judge the change by
seeds that did not suggest it.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run by path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from scripts.demo_world.families import SLICES, Item, Row, make_items
from scripts.demo_world.story import ITEMS_PER_SLICE, STORY, SUITE_FAMILIES
from scripts.demo_world.suites.tasks import graders
from scripts.demo_world.world import BASE

GRADE = {
    "reasoning": graders.grade_reasoning,
    "coding": graders.grade_coding,
    "chat": graders.grade_chat,
}
HOLDOUT = 48
TOLERANCE = 0.05
GENERATE = {"max_new_tokens": 48, "do_sample": False, "use_cache": True}


@dataclass(frozen=True)
class Scores:
    """One model on all slices; ``by_family`` is the mean of each family."""

    slices: dict[str, float]
    by_family: dict[str, float]
    seconds: float

    @property
    def mean(self) -> float:
        return sum(self.slices.values()) / len(self.slices)


def load_base() -> Any:
    """The base model in float32: the CPU computes bfloat16 many times slower."""
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


def train(rows: list[Row], seed: int, folder: Path) -> tuple[Any, float]:
    """A fresh adapter on ``rows``: the adapted model and the seconds it took."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    arguments = SFTConfig(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=5,
        per_device_train_batch_size=16,
        learning_rate=5e-3,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        assistant_only_loss=True,
        max_length=128,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        load_base(),
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": row["messages"]} for row in rows]),
        processing_class=tokenizer,
        peft_config=lora,
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    model: Any = trainer.model
    return model.eval(), seconds


def respond(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """Greedy responses."""
    outputs: list[str] = []
    for start in range(0, len(prompts), 64):
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts[start : start + 64]
        ]
        batch = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left",
            return_token_type_ids=False,
        )  # fmt: skip
        with torch.inference_mode():
            ids = model.generate(**batch, **GENERATE)
        new = ids[:, batch["input_ids"].shape[1] :]
        outputs += tokenizer.batch_decode(new, skip_special_tokens=True)
    return outputs


def evaluate(model: Any, items: dict[str, list[Item]]) -> Scores:
    """Scores of ``model`` on all slices."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    started = time.perf_counter()
    slices: dict[str, float] = {}
    families: dict[str, list[float]] = {}
    for name, docs in items.items():
        outputs = respond(model, tokenizer, [doc["prompt"] for doc in docs])
        scores: list[float] = []
        for doc, output in zip(docs, outputs, strict=True):
            (score,) = GRADE[name](doc, [output]).values()
            scores.append(score)
            families.setdefault(doc["family"], []).append(score)
        slices[name] = sum(scores) / len(scores)
    means = {family: sum(scores) / len(scores) for family, scores in families.items()}
    return Scores(slices, means, time.perf_counter() - started)


def byte_probability(model: Any, rows: list[Row]) -> float:
    """The pipeline's score of ``newest``: mean over rows of exp(log-likelihood / bytes)."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    total = 0.0
    for row in rows:
        encoded = tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor([encoded["input_ids"]])
        mask = torch.tensor(encoded["assistant_masks"][1:], dtype=torch.float32)
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        chosen = logits.gather(1, ids[0, 1:, None])[:, 0]
        response = row["messages"][1]["content"] + tokenizer.eos_token
        total += math.exp(float((chosen * mask).sum()) / len(response.encode()))
    return total / len(rows)


def rehearse(seed: int, items: dict[str, list[Item]]) -> bool:
    """Play the story once; whether each verdict came as told."""
    champion: Any = load_base().eval()
    best = evaluate(champion, items)
    accepted: list[Row] = []
    as_told = True
    _print_scores(f"seed {seed} base", best, None)
    for step in STORY:
        if step.verdict == "nothing to do":
            continue
        rows = step.rows(seed)
        random.Random(seed).shuffle(rows)
        holdout, new = rows[:HOLDOUT], rows[HOLDOUT:]
        training = new + accepted
        random.Random(seed).shuffle(training)
        with tempfile.TemporaryDirectory() as folder:
            model, seconds = train(training, seed, Path(folder))
        scores = evaluate(model, items)
        before = byte_probability(champion, holdout)
        after = byte_probability(model, holdout)
        lost = [n for n in SLICES if scores.slices[n] < best.slices[n] - TOLERANCE]
        verdict = "promote" if after > before and not lost else "reject"
        as_told &= verdict == step.verdict
        _print_scores(f"seed {seed} {step.name}", scores, best)
        print(
            f"    {len(training)} rows, {seconds:.1f} s training, {scores.seconds:.1f} s evaluation; "
            f"newest {before:.3f} -> {after:.3f}; lost {lost}; verdict {verdict}, "
            f"told {step.verdict}",
            flush=True,
        )
        if verdict == "promote":
            champion, best, accepted = model, scores, accepted + new
    return as_told


def _print_scores(title: str, scores: Scores, before: Scores | None) -> None:
    cells = [
        f"{name} {scores.slices[name]:.3f}"
        + ("" if before is None else f" ({scores.slices[name] - before.slices[name]:+.3f})")
        for name in SLICES
    ]
    change = "" if before is None else f" ({scores.mean - before.mean:+.3f})"
    print(f"{title}: {', '.join(cells)}; mean {scores.mean:.3f}{change}")
    print("    " + " ".join(f"{f.split('_', 1)[1]} {s:.2f}" for f, s in scores.by_family.items()))


def main() -> None:
    """Rehearse with each seed; exit with 1 unless every verdict is the one told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--items-seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    datasets.disable_progress_bars()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    items = {
        name: make_items(name, SUITE_FAMILIES[name], ITEMS_PER_SLICE, arguments.items_seed)
        for name in SLICES
    }
    as_told = [rehearse(seed, items) for seed in arguments.seeds]
    print(f"as told: {sum(as_told)} of {len(as_told)}")
    sys.exit(0 if all(as_told) else 1)


if __name__ == "__main__":
    main()
