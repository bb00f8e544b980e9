"""A world of its own for every test of promotion, and a network that it can break."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from ct_llm.hub import commit
from ct_llm.hub_server import RunningHub
from tests.integration.promote.world import Network, World


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    set_client_factory(
        lambda: httpx2.Client(transport=network, follow_redirects=True, timeout=None)
    )
    yield network
    set_client_factory(default_client_factory)


@pytest.fixture
def world(tmp_path: Path, hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(commit, "PAUSES", (0.0, 0.0))
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    return World(tmp_path, api, f"promote/{uuid.uuid4().hex[:12]}")
