"""An embedded Hub with dataset repos of any number of shards, champions, and a count of its answers."""

import base64
import io
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ct_llm.hub_server import RunningHub, running_hub

CYCLE = "c0000000000"
OWNER = "bench"
ENVIRONMENT = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_PROXY": "127.0.0.1",
    "PYTHONWARNINGS": "ignore",
}
"""To be set before huggingface_hub is imported, which reads it then."""

LONG_AGO = "2026-01-01T00:00:00Z"


class Answer(NamedTuple):
    method: str
    path: str
    status: int
    num_bytes: int
    """Of the body."""


class Traffic(logging.Handler):
    """Everything that the Hub answers, whoever asked: it writes one line a request into its log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.answers: list[Answer] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert isinstance(record.args, tuple)
        method, path, status, num_bytes, _ = record.args
        self.answers.append(Answer(str(method), str(path), int(status), int(num_bytes)))  # pyright: ignore[reportArgumentType]

    @property
    def num_requests(self) -> int:
        return len(self.answers)

    @property
    def num_bytes(self) -> int:
        return sum(answer.num_bytes for answer in self.answers)

    def bytes_of(self, path: str) -> int:
        """Of one file of a repo, at any revision."""
        return sum(answer.num_bytes for answer in self.answers if answer.path.endswith(f"/{path}"))


@contextmanager
def counted() -> Iterator[Traffic]:
    logger, traffic = logging.getLogger("ct_llm.hub_server"), Traffic()
    logger.setLevel(logging.INFO)
    logger.addHandler(traffic)
    try:
        yield traffic
    finally:
        logger.removeHandler(traffic)


@dataclass
class BenchHub:
    folder: Path
    hub: RunningHub
    env: dict[str, str] = field(init=False)
    """Of the commands that are measured."""

    def __post_init__(self) -> None:
        from huggingface_hub import HfApi

        self.api = HfApi(endpoint=self.hub.endpoint, token=self.hub.token)
        self.env = {
            **os.environ,
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_TOKEN": self.hub.token,
            "HF_HOME": str(self.folder / "hf_home"),
        }

    def make_dataset(self, name: str) -> str:
        """A new dataset repo of this name; gives its id."""
        repo = f"{OWNER}/{name}"
        self.api.create_repo(repo, repo_type="dataset")
        return repo

    def commit(self, repo: str, files: Mapping[str, bytes]) -> str:
        """One commit of any number of small files; gives its id.

        The commit call itself, without the client's upload of each file: 10,000 take seconds.
        """
        header = {"key": "header", "value": {"summary": f"{len(files)} files"}}
        lines = [header, *(_file_line(path, content) for path, content in files.items())]
        answer = httpx2.post(
            f"{self.hub.endpoint}/api/datasets/{repo}/commit/main",
            content="\n".join(map(json.dumps, lines)).encode(),
            headers={"Authorization": f"Bearer {self.hub.token}"},
            trust_env=False,
            timeout=600,
        )
        answer.raise_for_status()
        return answer.json()["commitOid"]

    def write_config(self, dataset: str, adapter: str, **watch: object) -> Path:
        path = self.folder / f"{adapter.partition('/')[2]}.yaml"
        config = {
            "base_model": {"repo": f"{OWNER}/base"},
            "datasets": [{"repo": dataset}],
            "adapter_repo": adapter,
            "work_dir": str(self.folder / path.stem),
            "watch": watch,
            "hub": {"endpoint": self.hub.endpoint},
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    def promote(self, config_path: Path, rows_per_file: int) -> None:
        """Make a champion that was trained on all that the dataset holds, as a cycle leaves it."""
        from huggingface_hub import CommitOperationAdd
        from safetensors.numpy import save

        from ct_llm.config import load_config
        from ct_llm.hub.ledger import append_to_ledger
        from ct_llm.promote.champion import used_files
        from ct_llm.records import (
            CycleSummary,
            DatasetSnapshot,
            DataSnapshot,
            Lineage,
            SeenDataset,
        )
        from ct_llm.sources.source import open_source
        from ct_llm.watch.state import state_after
        from ct_llm.watch.used import Use

        config = load_config(config_path)
        (dataset,) = config.datasets
        source = open_source(dataset, self.api, config.work_dir / "cache")
        head = source.head()
        found = source.files(head.revision) or []
        files = tuple(file.model_copy(update={"num_rows": rows_per_file}) for file in found)
        num_rows = rows_per_file * len(files)
        part = DatasetSnapshot(
            name=dataset.key,
            repo=dataset.place,
            revision=head.revision,
            as_of=head.as_of,
            seen_revision=None,
            files=files,
            num_rows=num_rows,
            num_unseen_rows=num_rows,
            num_new_rows=num_rows,
        )
        data = DataSnapshot(datasets=(part,), num_unseen_rows=num_rows, num_new_rows=num_rows)
        seen = SeenDataset(
            name=dataset.key,
            repo=dataset.place,
            revision=head.revision,
            num_rows=num_rows,
            as_of=head.as_of,
        )
        lineage = Lineage(
            version=1,
            cycle_id=CYCLE,
            adapter_digest="0" * 64,
            base_model=config.base_model.repo,
            base_revision="0" * 40,
            parent_revision=None,
            datasets=(seen,),
            created_at=LONG_AGO,
            ct_llm_version="bench",
        )
        self.api.create_repo(config.adapter_repo)
        commit = self.api.create_commit(
            config.adapter_repo,
            [
                CommitOperationAdd("adapter_config.json", b"{}"),
                CommitOperationAdd("adapter_model.safetensors", save({"a": np.zeros(1)})),
                CommitOperationAdd("ct/lineage.json", lineage.model_dump_json().encode()),
            ],
            commit_message="A champion",
        )
        summary = CycleSummary(
            cycle_id=CYCLE,
            outcome="promoted",
            sentence="promoted",
            version=1,
            revision=commit.oid,
            parent_revision=None,
            challenger_digest="0" * 64,
            datasets=(seen,),
            finished_at=LONG_AGO,
        )
        state = state_after(
            config.watch,
            config.datasets,
            data,
            champion=None,
            cycle=Use(CYCLE, (seen,)),
            promoted=True,
        )
        append_to_ledger(self.api, config.adapter_repo, summary, used=used_files(data), watch=state)


@contextmanager
def bench_hub(folder: Path) -> Iterator[BenchHub]:
    with running_hub(folder / "hub") as hub:
        yield BenchHub(folder, hub)


def ct_llm(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / "ct-llm"), *arguments]


def shard(rows: Sequence[Mapping[str, str]]) -> bytes:
    """A parquet file."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), sink)
    return sink.getvalue()


def tiny_shards(start: int, stop: int, rows_per_file: int = 2) -> dict[str, bytes]:
    """Shards by path, no two of the same content: a dataset's files are counted by content."""
    return {
        f"data/train-{number:05d}.parquet": shard(
            [
                {"instruction": f"Say {number}, {row}", "output": f"{number}, {row}"}
                for row in range(rows_per_file)
            ]
        )
        for number in range(start, stop)
    }


def _file_line(path: str, content: bytes) -> dict[str, object]:
    encoded = base64.b64encode(content).decode()
    return {"key": "file", "value": {"path": path, "content": encoded, "encoding": "base64"}}
