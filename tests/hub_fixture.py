"""A hub for every test that needs one: real, on loopback, in a thread of the test process."""

from collections.abc import Iterator

import pytest

from ct_llm.hub_server import RunningHub, running_hub


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One server for the whole session; tests keep apart by using repos of their own."""
    with running_hub(tmp_path_factory.mktemp("hub") / "root") as running:
        yield running
