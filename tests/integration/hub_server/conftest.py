"""The real client, repos of one's own, raw requests, and clients in a process of their own."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi

from ct_llm.hub_server import RunningHub

REPOSITORY = Path(__file__).parents[3]

_numbers = itertools.count()


@pytest.fixture
def api(hub: RunningHub) -> HfApi:
    """The admin's client."""
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def anonymous(hub: RunningHub) -> HfApi:
    """A client without a token."""
    return HfApi(endpoint=hub.endpoint, token=False)


@pytest.fixture
def repo(api: HfApi) -> str:
    """A fresh public model repo."""
    return api.create_repo(f"acme/model-{next(_numbers)}").repo_id


@pytest.fixture
def raw(hub: RunningHub):
    """HTTP below the client, for what the client never sends."""
    headers = {"Authorization": f"Bearer {hub.token}"}
    with httpx2.Client(base_url=hub.endpoint, headers=headers, trust_env=False) as client:
        yield client


@pytest.fixture
def run_client(hub: RunningHub, tmp_path: Path) -> Callable[[str], str]:
    """Run code in a new process: these clients read HF_ENDPOINT when they are imported."""

    def run(code: str) -> str:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_TOKEN": hub.token,
            "HF_HOME": str(tmp_path / "hf_home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
