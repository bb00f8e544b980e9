"""How fast does the command answer when there is nothing to do? A scheduler asks that all day.

    python -m scripts.bench.startup [--json] [--runs 5]

Against what one would do otherwise in the same run: `load_dataset` to count the rows.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from ct_llm.hub_server import RunningHub, running_hub
from ct_llm.records import Lineage, SeenDataset

HELP_SECONDS = 0.3
WATCH_SECONDS = 1.5
WATCH_REQUESTS = 6
NUM_ROWS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1")
    with tempfile.TemporaryDirectory() as folder, running_hub(Path(folder) / "hub") as hub:
        os.environ.update(
            HF_ENDPOINT=hub.endpoint, HF_TOKEN=hub.token, HF_HOME=str(Path(folder) / "hf_home")
        )
        config = make_world(Path(folder), hub)
        ct_llm = [str(Path(sys.executable).parent / "ct-llm")]
        help_seconds = timed([*ct_llm, "--help"], arguments.runs)
        watch = [*ct_llm, "watch", "--config", str(config)]
        watch_seconds = timed(watch, arguments.runs, code=10)
        load_seconds = timed([sys.executable, "-c", LOAD_DATASET], min(3, arguments.runs))
        requests, modules = inside(config)
    figures = [
        figure("ct-llm --help, seconds", help_seconds, HELP_SECONDS),
        figure("ct-llm watch, nothing new, seconds", watch_seconds, WATCH_SECONDS),
        figure("ct-llm watch, nothing new, requests", requests, WATCH_REQUESTS),
        figure("ct-llm watch, torch or datasets imported", len(modules), 0),
        figure("watch / load_dataset, ratio of seconds", watch_seconds / load_seconds, 1),
    ]
    for found in figures:
        if arguments.json:
            print(json.dumps(found))
        else:
            print(
                f"{found['name']:<45} {found['value']:>8.3f}   reach {found['reach']:<5g} "
                f"{'ok' if found['ok'] else 'MISSED'}"
            )


def figure(name: str, value: float, reach: float) -> dict[str, Any]:
    return {"name": name, "value": round(value, 4), "reach": reach, "ok": value <= reach}


def timed(command: list[str], runs: int, code: int = 0) -> float:
    """Median wall seconds; the first run, which warms the disk cache, is not counted."""
    seconds = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - started)
        if done.returncode != code:
            raise SystemExit(f"{command} ended with {done.returncode}\n{done.stderr}")
    return statistics.median(seconds[1:])


LOAD_DATASET = """
import tempfile
from datasets import load_dataset
print(len(load_dataset("bench/rows", split="train", cache_dir=tempfile.mkdtemp())))
"""

COUNT_REQUESTS = """
import json, sys
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory
seen = []
def counting():
    client = default_client_factory()
    client.event_hooks["request"].append(lambda request: seen.append(str(request.url)))
    return client
set_client_factory(counting)
from ct_llm.cli.main import main
try:
    main(["watch", "--config", sys.argv[1]])
except SystemExit as end:
    assert end.code == 10, end.code
heavy = {"torch", "datasets", "transformers", "pandas"} & set(sys.modules)
print(json.dumps([len(seen), sorted(heavy)]))
"""


def inside(config: Path) -> tuple[int, list[str]]:
    """Requests that one no-news watch makes, and the heavy modules that it imports."""
    command = [sys.executable, "-c", COUNT_REQUESTS, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    requests, modules = json.loads(done.stdout.splitlines()[-1])
    return requests, modules


def make_world(folder: Path, hub: RunningHub) -> Path:
    """A dataset, and a champion that has seen all of it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from huggingface_hub import CommitOperationAdd, HfApi
    from safetensors.numpy import save

    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    sink = io.BytesIO()
    rows = {"instruction": [f"Say {i}" for i in range(NUM_ROWS)], "output": ["x" * 200] * NUM_ROWS}
    pq.write_table(pa.table(rows), sink)
    api.create_repo("bench/rows", repo_type="dataset")
    commit = api.upload_file(
        path_or_fileobj=sink.getvalue(),
        path_in_repo="data/train.parquet",
        repo_id="bench/rows",
        repo_type="dataset",
    )
    lineage = Lineage(
        version=1,
        cycle_id="bench",
        adapter_digest="0" * 64,
        base_model="bench/base",
        base_revision="0" * 40,
        parent_revision=None,
        datasets=(SeenDataset(repo="bench/rows", revision=commit.oid, num_rows=NUM_ROWS),),
        created_at="2026-01-01T00:00:00Z",
        ct_llm_version="bench",
    )
    api.create_repo("bench/adapter")
    api.create_commit(
        "bench/adapter",
        [
            CommitOperationAdd("adapter_config.json", b"{}"),
            CommitOperationAdd("adapter_model.safetensors", save({"a": np.zeros(1)})),
            CommitOperationAdd("ct/lineage.json", lineage.model_dump_json().encode()),
        ],
        commit_message="A champion",
    )
    config = folder / "ct.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "base_model": {"repo": "bench/base"},
                "datasets": [{"repo": "bench/rows"}],
                "adapter_repo": "bench/adapter",
                "hub": {"endpoint": hub.endpoint},
            }
        ),
        encoding="utf-8",
    )
    return config


if __name__ == "__main__":
    main()
