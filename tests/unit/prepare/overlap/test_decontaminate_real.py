"""Real benchmarks against real instruction data."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ct_llm.prepare.overlap.decontaminate import Decontaminator, EvalItem, Hit

pytestmark = pytest.mark.slow

Rows = list[Sequence[str]]


def _lines(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def items(real_data: Path) -> list[EvalItem]:
    """About 19,500, as a config with all of these suites would give."""
    suites = real_data / "eval"
    found = [
        EvalItem("coding", row["task_id"], row["prompt"], (row["canonical_solution"],))
        for row in _lines(suites / "coding/HumanEval.jsonl.gz")
    ]
    for row in _lines(suites / "coding/mbpp.jsonl"):
        texts = row["prompt"], row["canonical_solution"]
        found.append(EvalItem("coding", row["task_id"], row["description"], texts))
    for index, row in enumerate(_lines(suites / "reasoning/gsm8k/train.jsonl")):
        found.append(EvalItem("reasoning", f"gsm8k/{index}", row["question"], (row["answer"],)))
    for row in json.loads((suites / "reasoning/SVAMP.json").read_text()):
        question = f"{row['Body']}. {row['Question']}"
        found.append(EvalItem("reasoning", row["ID"], question, (str(row["Answer"]),)))
    for path in sorted((suites / "reasoning/arc_easy").glob("*.json")):
        for index, row in enumerate(json.loads(path.read_text())):
            question = row["instruction"].split("question: ", 1)[1].split("\n\nAnswer1")[0]
            texts = row["instruction"], row["output"]
            found.append(EvalItem("reasoning", f"arc/{path.stem}/{index}", question, texts))
    for path in sorted((suites / "reasoning/bbh").glob("*.json")):
        for index, row in enumerate(json.loads(path.read_text())["examples"]):
            identity = f"{path.stem}/{index}"
            found.append(EvalItem("reasoning", identity, row["input"], (row["target"],)))
    for row in _lines(suites / "chat/mt_bench_question.jsonl"):
        turns = row["turns"]
        found.append(EvalItem("chat", str(row["question_id"]), turns[0], tuple(turns)))
    for row in _lines(suites / "chat/ifeval_even.jsonl"):
        found.append(EvalItem("chat", str(row["key"]), row["prompt"], ()))
    return found


@pytest.fixture(scope="module")
def decontaminator(items: list[EvalItem]) -> Decontaminator:
    return Decontaminator(items, 0.6)


def _instructions(path: Path) -> Rows:
    return [
        (f"{row['instruction']}\n{row.get('input', '')}", row.get("output") or row["response"])
        for row in json.loads(path.read_text())
    ]


def test_a_benchmark_as_training_data(decontaminator: Decontaminator, real_data: Path) -> None:
    rows = _instructions(real_data / "train/gsm8k_instruct/gsm_8k_train.json")
    hits = decontaminator.find(rows)
    assert Counter(hit.kind if hit else None for hit in hits) == {"exact": 7_473}


def test_every_item_is_found_again(decontaminator: Decontaminator, items: list[EvalItem]) -> None:
    hits = decontaminator.find([(item.question, "Let me think.") for item in items])
    assert all(hit is not None and hit.kind == "exact" for hit in hits)
    wrapped = decontaminator.find(
        [
            (f"Please solve: {item.question} Thanks!", "12")
            for item in items
            if len(item.question) > 80
        ]
    )
    # The rest are dyck_languages, whose items differ in brackets alone.
    assert sum(hit is None for hit in wrapped) < 0.015 * len(wrapped)


@pytest.mark.parametrize(
    ("name", "at_most"),
    [
        ("llama_factory/alpaca_en_demo.json", 1),
        ("llama_factory/alpaca_zh_demo.json", 0),
        ("gpteacher/roleplay-instruct.json", 2),
        ("gpteacher/toolformer-similarity-0.6.json", 1),
        # Of MBPP's own tasks: the first repeated word, the largest prime factor, ...
        ("gpteacher/codegen-instruct.json", 8),
    ],
)
def test_honest_data_passes(
    decontaminator: Decontaminator, real_data: Path, name: str, at_most: int
) -> None:
    hits = decontaminator.find(_instructions(real_data / "train" / name))
    assert sum(hit is not None for hit in hits) <= at_most


def test_conversations_that_hold_an_item(
    decontaminator: Decontaminator, items: list[EvalItem], real_data: Path
) -> None:
    rows = [
        [*(turn["value"] for turn in row["conversations"]), row["chosen"]["value"]]
        for row in json.loads((real_data / "train/llama_factory/dpo_en_demo.json").read_text())
    ]
    hits = {items[hit.item].item_id: hit.kind for hit in decontaminator.find(rows) if hit}
    # Looked at by eye: all three are there, the SVAMP story with another first sentence.
    assert hits == {"gsm8k/350": "question", "gsm8k/1885": "question", "chal-540": "ngrams"}


def test_items_of_a_benchmark_do_not_condemn_each_other(items: list[EvalItem]) -> None:
    """Half of each benchmark as items, the other half as rows."""
    halves: tuple[list[EvalItem], list[EvalItem]] = ([], [])
    for index, item in enumerate(items):
        halves[random.Random(index).random() < 0.5].append(item)
    hits = Decontaminator(halves[0], 0.6).find([(item.question, "12") for item in halves[1]])
    hit_by: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for item, hit in zip(halves[1], hits, strict=True):
        benchmark = item.item_id.split("/")[0].split("-")[0]
        total[benchmark] += 1
        hit_by[benchmark] += isinstance(hit, Hit)
    # What is left are variations that their authors made: one story with two questions.
    assert hit_by["gsm8k"] <= 0.01 * total["gsm8k"]
    assert hit_by["HumanEval"] == 0
    for template in ("navigate", "tracking_shuffled_objects_three_objects", "word_sorting"):
        assert hit_by[template] <= 0.03 * total[template]
    assert hit_by["MBPP"] <= 0.2 * total["MBPP"]
