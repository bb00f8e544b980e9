"""A dataset repo in a folder: a subfolder per revision, and the snapshot that watch would take."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ct_llm.config import DatasetConfig, PrepareConfig
from ct_llm.digests import file_sha256
from ct_llm.errors import HubNotFoundError
from ct_llm.prepare.overlap.decontaminate import EvalItem
from ct_llm.prepare.prepare import prepare
from ct_llm.records import DataFile, DatasetSnapshot, DataSnapshot, PreparedData

REPO = "acme/support-chats"
NOW, BEFORE = "b" * 40, "a" * 40


class DatasetOnDisk:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.opened: list[tuple[str, str, str]] = []

    def write(self, path: str, rows: Iterable[Any] | bytes, revision: str = NOW) -> str:
        """Bytes as they are, anything else as JSON Lines."""
        file = self.root / "hub" / revision / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(rows, bytes):
            rows = "".join(json.dumps(row) + "\n" for row in rows).encode()
        file.write_bytes(rows)
        return path

    def open_file(self, repo: str, revision: str, path: str) -> Path:
        self.opened.append((repo, revision, path))
        file = self.root / "hub" / revision / path
        if not file.is_file():
            raise HubNotFoundError(f"could not read {path} at {revision}: no such file.")
        return file

    def prepare(
        self,
        new: Sequence[str] = (),
        seen: Sequence[str] = (),
        removed: Sequence[str] = (),
        *,
        row_format: str = "auto",
        cycle: str = "cycle",
        eval_items: Sequence[EvalItem] = (),
        settings: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> PreparedData:
        dataset = DatasetSnapshot(
            name=REPO,
            repo=REPO,
            revision=NOW,
            seen_revision=BEFORE if seen or removed else None,
            files=(*(self._file(p, False) for p in new), *(self._file(p, True) for p in seen)),
            removed_files=tuple(self._file(p, True, BEFORE) for p in removed),
            num_rows=0,
            num_unseen_rows=0,
            num_new_rows=0,
        )
        dataset_config = DatasetConfig.model_validate(
            {"repo": REPO, "format": row_format, **(settings or {})}
        )
        return prepare(
            PrepareConfig.model_validate(config),
            DataSnapshot(datasets=(dataset,), num_unseen_rows=0, num_new_rows=0),
            datasets=[dataset_config],
            eval_items=eval_items,
            renders_tools=True,
            open_file=self.open_file,
            cache=self.root / "cache",
            cycle=self.root / cycle,
        )

    def _file(self, path: str, seen: bool, revision: str | None = None) -> DataFile:
        file = self.root / "hub" / (revision or NOW) / path
        content = file_sha256(file) if file.is_file() else path
        return DataFile(
            path=path, content_id=content, num_bytes=0, num_rows=None, seen=seen, revision=revision
        )

    def table(self, path: str, cycle: str = "cycle") -> list[dict[str, Any]]:
        return pq.read_table(self.root / cycle / path).to_pylist()


def alpaca(number: int, answer: str = "done", **more: Any) -> dict[str, Any]:
    return {"instruction": f"Task {number}", "input": "", "output": answer, **more}


def prompts(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The first message of each row of a train or holdout table."""
    return {json.loads(row["messages"])[0]["content"] for row in rows}
