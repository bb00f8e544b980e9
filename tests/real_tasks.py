"""Real benchmarks on an embedded Hub, under the names that lm-eval's own tasks ask for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ct_llm.hub_server import RunningHub, running_hub
from scripts.bench.real_tasks import benchmarks, publish

NUM_ROWS = 30
"""Of each split that is scored."""


class RealHub(NamedTuple):
    hub: RunningHub
    revisions: dict[str, str]
    """Of each dataset: its only commit."""

    def environment(self, home: Path) -> dict[str, str]:
        """For a process of its own: huggingface_hub reads HF_ENDPOINT when it is imported."""
        return {
            **os.environ,
            "HF_HOME": str(home),
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_TOKEN": self.hub.token,
            "OMP_NUM_THREADS": "1",
        }


@pytest.fixture(scope="session")
def real_hub(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Iterator[RealHub]:
    with running_hub(tmp_path_factory.mktemp("real_hub") / "root") as hub:
        yield RealHub(hub, publish(benchmarks(real_data, NUM_ROWS), hub.endpoint, hub.token))
