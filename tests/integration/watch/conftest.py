from pathlib import Path

import pytest
from huggingface_hub import HfApi

from tests.integration.watch.world import Dataset
from tests.integration.wire import Wire, api, wire

__all__ = ["api", "dataset", "wire"]


@pytest.fixture
def dataset(api: HfApi, wire: Wire, tmp_path: Path) -> Dataset:
    return Dataset(api, wire, tmp_path / "cache")
