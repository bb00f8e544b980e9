"""Real benchmarks under the repo ids, configs, files and columns that lm-eval's tasks name.

    real data folder -> embedded Hub: openai/gsm8k, allenai/ai2_arc, SaylorTwift/bbh,
                        EleutherAI/lambada_openai, EleutherAI/wikitext_document_level,
                        openai/openai_humaneval, google-research-datasets/mbpp, google/IFEval

So tasks run unmodified. Rows are those of the benchmarks, except where a benchmark is not at hand:
lambada_openai holds passages of real stories instead, wikitext_document_level whole ones, GSM8K's
test split rows of its train split that are not in the train split here.
"""

import gzip
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

Rows = list[dict[str, Any]]

BBH_TASKS = (
    "boolean_expressions",
    "date_understanding",
    "logical_deduction_three_objects",
    "multistep_arithmetic_two",
    "object_counting",
    "sports_understanding",
)
NUM_FEWSHOT_ROWS = 200
"""Rows of a train split, from which few-shot examples are drawn."""


class Split(NamedTuple):
    config: str
    split: str


Benchmarks = Mapping[str, Mapping[Split, Rows]]


def benchmarks(real_data: Path, num_rows: int | None = None) -> Benchmarks:
    """Dataset id to rows. num_rows: at most so many of each split that is scored."""
    folder, text = real_data / "eval", real_data / "text" / "tinystories_sample.txt"
    gsm8k = _jsonl(folder / "reasoning" / "gsm8k" / "train.jsonl")
    passages, stories = _passages(text)
    return {
        "openai/gsm8k": {
            Split("main", "train"): gsm8k[-NUM_FEWSHOT_ROWS:],
            Split("main", "test"): gsm8k[:-NUM_FEWSHOT_ROWS][: num_rows or 1319],
        },
        "allenai/ai2_arc": {
            Split(config, split): rows
            for config in ("ARC-Easy", "ARC-Challenge")
            for split, rows in {
                "train": _arc(folder, "train")[:NUM_FEWSHOT_ROWS],
                "validation": _arc(folder, "train")[NUM_FEWSHOT_ROWS:][:num_rows],
                "test": _arc(folder, "test")[:num_rows],
            }.items()
        },
        "SaylorTwift/bbh": {
            Split(name, "test"): _bbh(folder, name)[:num_rows] for name in BBH_TASKS
        },
        "EleutherAI/lambada_openai": {Split("default", "test"): passages[:num_rows]},
        "EleutherAI/wikitext_document_level": {
            Split("wikitext-2-raw-v1", split): stories for split in ("train", "validation", "test")
        },
        "openai/openai_humaneval": {
            Split("openai_humaneval", "test"): human_eval(folder)[:num_rows]
        },
        "google-research-datasets/mbpp": {Split("full", "test"): mbpp(folder)[:num_rows]},
        "google/IFEval": {Split("default", "train"): _ifeval(folder)[:num_rows]},
    }


def publish(repos: Benchmarks, endpoint: str, token: str) -> dict[str, str]:
    """One commit a repo, and the commit of each. Files are named as on huggingface.co."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint, token=token)
    revisions: dict[str, str] = {}
    for repo, splits in repos.items():
        api.create_repo(repo, repo_type="dataset")
        configs: dict[str, list[dict[str, str]]] = {}
        files: list[CommitOperationAdd] = []
        for (config, split), rows in splits.items():
            path = f"{config}/{split}-00000-of-00001.parquet"
            files.append(CommitOperationAdd(path, _parquet(rows)))
            configs.setdefault(config, []).append({"split": split, "path": path})
        names = [{"config_name": name, "data_files": paths} for name, paths in configs.items()]
        names[0]["default"] = True  # pyright: ignore[reportArgumentType]
        card = f"---\n{yaml.safe_dump({'configs': names})}---\n"
        files.append(CommitOperationAdd("README.md", card.encode()))
        done = api.create_commit(repo, files, commit_message="data", repo_type="dataset")
        revisions[repo] = done.oid
    return revisions


def human_eval(folder: Path) -> Rows:
    with gzip.open(folder / "coding" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def mbpp(folder: Path) -> Rows:
    """From HumanEval's form back to that of the original dataset."""
    rows: Rows = []
    for row in _jsonl(folder / "coding" / "mbpp.jsonl"):
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


def _parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def _jsonl(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _bbh(folder: Path, name: str) -> Rows:
    text = (folder / "reasoning" / "bbh" / f"{name}.json").read_text(encoding="utf-8")
    return [
        {"input": row["input"], "target": row["target"]} for row in json.loads(text)["examples"]
    ]


def _arc(folder: Path, split: str) -> Rows:
    """From instruction form back to questions with choices."""
    rows: Rows = []
    text = (folder / "reasoning" / "arc_easy" / f"{split}.json").read_text(encoding="utf-8")
    for number, item in enumerate(json.loads(text)):
        found = re.search(
            r"question: (.*?)\n\n(Answer1:.*?)\n\nAnswer format", item["instruction"], re.DOTALL
        )
        assert found is not None, item["instruction"]
        texts = [text.strip() for text in re.split(r"Answer\d: ", found[2])[1:]]
        rows.append(
            {
                "id": str(number),
                "question": found[1],
                "choices": {"text": texts, "label": list("ABCDE"[: len(texts)])},
                "answerKey": "ABCDE"[int(item["answer"].removeprefix("answer")) - 1],
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


def _passages(path: Path) -> tuple[Rows, Rows]:
    """Three sentences each, of which the last word is to be told; and whole stories."""
    stories = [story.strip() for story in path.read_text(encoding="utf-8").split("<|endoftext|>")]
    stories = [story for story in stories if story]
    passages: Rows = []
    for story in stories:
        sentences = re.findall(r"[^.!?]+", " ".join(story.split()).replace('"', ""))
        sentences = [sentence.strip() for sentence in sentences if " " in sentence.strip()]
        for first in range(len(sentences) - 2):
            passages.append({"text": ". ".join(sentences[first : first + 3])})
    return passages, [{"page": story} for story in stories]
