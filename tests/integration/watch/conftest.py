from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from ct_llm.hub_server import RunningHub
from tests.integration.watch.world import Dataset, Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    recorder = Wire()

    def client() -> httpx2.Client:
        hooks = default_client_factory().event_hooks
        return httpx2.Client(
            transport=recorder, event_hooks=hooks, follow_redirects=True, timeout=None
        )

    set_client_factory(client)
    yield recorder
    set_client_factory(default_client_factory)


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def dataset(api: HfApi, wire: Wire, tmp_path: Path) -> Dataset:
    return Dataset(api, wire, tmp_path / "cache")
