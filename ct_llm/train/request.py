"""What the train step and its process tell each other: files in the cycle's folder.

<cycle>/train/request.json     TrainRequest, written by train.py before it starts the process
<cycle>/train/progress.jsonl   a line whenever the loss is logged
<cycle>/train/log.txt          everything the process printed
<cycle>/train/error.json       TrainFailure, when the process knows what was wrong
<cycle>/train/result.json      TrainResult, written last
<cycle>/checkpoints/           to resume from after a kill; removed after success
<cycle>/adapter/               the challenger; only whole ones ever exist
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ct_llm.config import TrainConfig
from ct_llm.records import Record


class TrainRequest(Record):
    fingerprint: str
    """Of everything that decides the weights: what a checkpoint must carry to be resumed."""
    config: TrainConfig
    train_file: str
    base_folder: str
    base_repo: str
    base_revision: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    chat_template: str | None
    """The text of the template that replaces the base model's."""
    champion_folder: str | None
    """The adapter to continue; none: a fresh one."""
    num_processes: int | None
    """How many accelerate was told to start, where its configuration says so."""
    resume_from: str | None = None


class TrainProgress(Record):
    step: int
    num_steps: int
    loss: float


class TrainResult(Record):
    fingerprint: str
    adapter_digest: str
    num_rows: int
    num_steps: int
    seconds: float
    metrics: dict[str, float]
    loss_curve: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TrainFolder:
    """Where the files of one cycle's training lie."""

    cycle: Path

    @property
    def request(self) -> Path:
        return self.cycle / "train" / "request.json"

    @property
    def progress(self) -> Path:
        return self.cycle / "train" / "progress.jsonl"

    @property
    def log(self) -> Path:
        return self.cycle / "train" / "log.txt"

    @property
    def error(self) -> Path:
        return self.cycle / "train" / "error.json"

    @property
    def result(self) -> Path:
        return self.cycle / "train" / "result.json"

    @property
    def checkpoints(self) -> Path:
        return self.cycle / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.cycle / "adapter"
