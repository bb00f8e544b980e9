"""Adapters, items and populations for the figures of the verdict; made by seeds, in seconds.

The base is the demo's (0.85 M parameters) with a longer context, so that five examples fit. Adapters
are trained here and saved as PEFT saves them; items are the demo's word problems.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ct_llm.hub_server import RunningHub
from scripts.demo_world.families import Row, make_items, make_rows
from scripts.demo_world.world import BASE, write_base
from scripts.demo_world.write_suites import SUITES

CONTEXT = 4096
"""Rotary positions go on beyond the 256 that the base was trained with."""
TAUGHT = tuple(f"reasoning_{name}" for name in ("gets", "loses", "bags", "gives", "eats", "rows"))
ASKED = tuple(f"reasoning_{n}" for n in ("gets", "loses", "gives", "eats", "finds", "together"))
"""Families of the populations: those that hold thousands of items; two of them nobody was taught."""
NEW = "reasoning_buys"
"""What only the challenger was taught: its held-out rows are the newest."""
BATCH_ROWS = 16


def write_long_base(folder: Path) -> Path:
    write_base(folder)
    config = json.loads((BASE / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = CONTEXT
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder


def environment(hub: RunningHub | None, folder: Path) -> dict[str, str]:
    """Of every command that is measured, ours and others'; their caches are below `folder`."""
    env = {
        **os.environ,
        "HF_HOME": str(folder / "hf_home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": str(os.cpu_count()),
        # A busy machine is busy for all of them alike: threads that spin while they wait are not.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    if hub is not None:
        env |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token}
    return env


# ---------------------------------------------------------------- adapters


def train_adapter(base: Path, folder: Path, rows: Sequence[Row], *, seed: int, epochs: int) -> Path:
    """A LoRA of rank 8 on all linear layers, by a plain loop; the same seed gives the same adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(plain, lora)
    encoded = [
        tokenizer.apply_chat_template(
            row["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        for row in rows
    ]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.0)
    num_steps = epochs * -(-len(rows) // BATCH_ROWS)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
    for _ in range(epochs):
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(order), BATCH_ROWS):
            chosen = [encoded[place] for place in order[start : start + BATCH_ROWS]]
            longest = max(len(row["input_ids"]) for row in chosen)
            ids = torch.zeros(len(chosen), longest, dtype=torch.long)
            labels = torch.full_like(ids, -100)
            for place, row in enumerate(chosen):
                tokens = torch.tensor(row["input_ids"])
                learned = torch.tensor(row["assistant_masks"], dtype=torch.bool)
                ids[place, : len(tokens)] = tokens
                labels[place, : len(tokens)] = torch.where(learned, tokens, -100)
            model(input_ids=ids, labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    model.save_pretrained(folder)
    return folder


def taught_rows(seed: int, per_family: int, *, new: int = 0) -> list[Row]:
    """Rows of the taught families; `new`: so many of the new one too."""
    rows = make_rows(TAUGHT, per_family, seed)
    return rows + (make_rows((NEW,), new, seed) if new else [])


def write_newest(path: Path, num_rows: int, seed: int) -> Path:
    """Held-out rows of the new family, as `prepare` leaves them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = make_rows((NEW,), num_rows, seed)
    table = {
        "row_id": [f"row{number:05d}" for number in range(len(rows))],
        "messages": [json.dumps(row["messages"]) for row in rows],
    }
    pq.write_table(pa.table(table), path)
    return path


# ---------------------------------------------------------------- items


class Population(NamedTuple):
    suite: Path
    """A suite of one task, `demo_reasoning`, with its items beside it."""
    num_items: int
    wins: int
    losses: int

    @property
    def task_dir(self) -> Path:
        """As `lm_eval --include_path` wants it; the command runs there."""
        return self.suite.parent / "tasks"


def pool_items(num_items: int, seed: int = 0) -> list[dict[str, str]]:
    return make_items("reasoning", ASKED, num_items, seed)


def write_population(
    folder: Path,
    items: Sequence[Mapping[str, str]],
    *,
    tolerance: float,
    wins: int = 0,
    losses: int = 0,
) -> Population:
    """A suite, and its task as the demo has it."""
    tasks = folder / "tasks"
    (tasks / "items").mkdir(parents=True)
    text = "".join(json.dumps(item) + "\n" for item in items)
    (tasks / "items" / "reasoning.jsonl").write_text(text, encoding="utf-8")
    for name in ("demo_reasoning.yaml", "graders.py"):
        shutil.copy(SUITES / "tasks" / name, tasks / name)
    suite = yaml.safe_load((SUITES / "reasoning.yaml").read_text(encoding="utf-8"))
    path = folder / "reasoning.yaml"
    path.write_text(yaml.safe_dump({**suite, "tolerance": tolerance}), encoding="utf-8")
    return Population(path, len(items), wins, losses)


# ---------------------------------------------------------------- the other side


def lm_eval(
    base: Path,
    adapter: Path,
    tasks: Sequence[str],
    out: Path,
    *,
    limit: int | None = None,
    include: Path | None = None,
    chat: bool = False,
    batch_size: int = 64,
) -> list[str]:
    """The command as its users type it.

    float32, as the processor computes bfloat16, the base's own type, many times slower; 64 rows a
    batch, as its default of one is several times slower.
    """
    command = [str(Path(sys.executable).parent / "lm_eval"), "run", "--model", "hf"]
    command += [
        "--model_args",
        f"pretrained={base},peft={adapter},dtype=float32",
        "--device",
        "cpu",
    ]
    command += ["--tasks", ",".join(tasks), "--batch_size", str(batch_size)]
    command += ["--log_samples", "--output_path", str(out)]
    command += ["--limit", str(limit)] if limit is not None else []
    command += ["--include_path", str(include)] if include is not None else []
    return command + (["--apply_chat_template"] if chat else [])


def lm_eval_scores(
    out: Path, metrics: Mapping[str, tuple[str, str]]
) -> dict[tuple[str, int, str], float]:
    """(task, doc_id, doc_hash) to score, of the samples below `out`; metrics: of a task and its filter."""
    found: dict[tuple[str, int, str], float] = {}
    for task, (metric, chosen) in metrics.items():
        (path,) = out.rglob(f"samples_{task}_*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            if sample["filter"] == chosen:
                found[task, sample["doc_id"], sample["doc_hash"][:16]] = float(sample[metric])
    return found
