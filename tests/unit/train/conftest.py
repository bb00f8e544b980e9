"""A cycle that could be trained, and a stand-in for `accelerate launch` where a test needs one."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ct_llm.config import BaseModelConfig, LaunchConfig, TrainConfig
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import PreparedData, TrainedAdapter
from ct_llm.train.train import OnProgress, train

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def data() -> PreparedData:
    return PreparedData(
        train_path="data/train.parquet",
        holdout_path="data/holdout.parquet",
        historic_holdout_path="data/holdout_historic.parquet",
        quarantine_path="data/quarantine.parquet",
        report_path="data/report.json",
        num_train=3,
        num_replay=0,
        num_holdout=0,
        num_historic_holdout=0,
        num_quarantined=0,
        num_contaminated=0,
        rows_read=3,
        counts={},
        counts_by_source={},
        digest="d" * 64,
    )


@pytest.fixture
def base(tmp_path: Path) -> BaseModelFolder:
    return BaseModelFolder(tmp_path / "base", "team/base", COMMIT)


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    folder = tmp_path / "champion"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"champion")
    return folder


@pytest.fixture
def run_train(
    tmp_path: Path, data: PreparedData, base: BaseModelFolder
) -> Callable[..., TrainedAdapter]:
    def run(
        *,
        config: TrainConfig | None = None,
        champion_folder: Path | None = None,
        on_progress: OnProgress | None = None,
    ) -> TrainedAdapter:
        return train(
            config or TrainConfig(),
            data,
            base=base,
            base_config=BaseModelConfig(repo=base.repo),
            launch=LaunchConfig(),
            cycle=tmp_path / "cycle",
            champion_folder=champion_folder,
            champion_revision="c" * 40 if champion_folder else None,
            on_progress=on_progress,
        )

    return run


@pytest.fixture(autouse=True)
def sigint_as_in_a_terminal() -> Iterator[None]:
    """A shell's background jobs ignore SIGINT, and so would this process and its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
