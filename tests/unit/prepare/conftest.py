from pathlib import Path

import pytest

from tests.unit.prepare.dataset_on_disk import DatasetOnDisk


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetOnDisk:
    return DatasetOnDisk(tmp_path)
