"""A dataset repo, a base model and a config on the embedded Hub, driven through the real command."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from huggingface_hub import HfApi

from ct_llm.hub_server.server import RunningHub


@dataclass
class LoopWorld:
    """`owner` keeps the repos of one test apart on the session's Hub."""

    folder: Path
    hub: RunningHub
    owner: str
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.api = HfApi(endpoint=self.hub.endpoint, token=self.hub.token)
        self.token: str | None = self.hub.token
        self.dataset = f"{self.owner}/rows"
        self.adapter = f"{self.owner}/adapter"
        self.api.create_repo(self.dataset, repo_type="dataset", exist_ok=True)
        self.config = {
            "base_model": {"repo": f"{self.owner}/base"},
            "datasets": [{"repo": self.dataset}],
            "adapter_repo": self.adapter,
            "work_dir": "work",
            "hub": {"endpoint": self.hub.endpoint},
            **self.config,
        }

    @property
    def config_path(self) -> Path:
        return self.folder / "ct.yaml"

    @property
    def env(self) -> dict[str, str]:
        token = {"HF_TOKEN": self.token} if self.token else {}
        return {
            **os.environ,
            **token,
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.folder / "hf_home"),
            "PYTHONWARNINGS": "ignore",
        }

    def push_base(self, folder: Path) -> str:
        self.api.create_repo(f"{self.owner}/base", exist_ok=True)
        return self.api.upload_folder(
            repo_id=f"{self.owner}/base", folder_path=folder, ignore_patterns=["SHA256SUMS"]
        ).oid

    def push(self, path: str, content: bytes) -> str:
        return self.api.upload_file(
            path_or_fileobj=content,
            path_in_repo=path,
            repo_id=self.dataset,
            repo_type="dataset",
        ).oid

    def push_rows(self, path: str, rows: Sequence[dict[str, Any]]) -> str:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows)), sink)
        return self.push(path, sink.getvalue())

    def write_config(self) -> None:
        self.config_path.write_text(yaml.safe_dump(self.config), encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`ct-llm ARGUMENTS` in a process group of its own, so that it can be killed whole."""
        self.write_config()
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ct_llm.cli.main",
                *arguments,
                "--config",
                str(self.config_path),
            ],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ct_llm(self, *arguments: str, code: int | None = 0) -> str:
        """Run to the end, check the exit code, return standard output."""
        returned, out, err = self.run_to_end(*arguments)
        assert "Traceback" not in out + err, err
        assert code is None or returned == code, f"{returned}\n{out}\n{err}"
        return out

    def run_to_end(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def json(self, *arguments: str, code: int | None = 0) -> Any:
        return json.loads(self.ct_llm(*arguments, "--json", code=code))

    def main_lineage(self) -> dict[str, Any]:
        path = self.api.hf_hub_download(
            self.adapter, "ct/lineage.json", local_dir=self.folder / "dl"
        )
        return json.loads(Path(path).read_text(encoding="utf-8"))

    def promotions(self) -> list[str]:
        """Titles of main's commits but the repo's first one, newest first."""
        return [commit.title for commit in self.api.list_repo_commits(self.adapter)][:-1]

    def tags(self) -> dict[str, str]:
        return {tag.name: tag.target_commit for tag in self.api.list_repo_refs(self.adapter).tags}
