"""What a command asks of the Hub: every request, and the bytes of the answers."""

from collections.abc import Iterator

import httpx2
import pytest
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from ct_llm.hub_server import RunningHub


class Wire(httpx2.BaseTransport):
    """Every request of huggingface_hub and the bytes of its answers; can play a bad proxy."""

    def __init__(self) -> None:
        self._inner = httpx2.HTTPTransport()
        self.requests: list[str] = []
        self.num_bytes = 0
        self.drops_range = False

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(f"{request.method} {request.url.raw_path.decode()}")
        if self.drops_range:
            request.headers.pop("Range", None)
        response = self._inner.handle_request(request)
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Counted(response.stream, self)
        return response

    def close(self) -> None:
        self._inner.close()

    def reset(self) -> None:
        self.requests.clear()
        self.num_bytes = 0

    def asked(self, part: str) -> int:
        return sum(part in request for request in self.requests)


class _Counted(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, wire: Wire) -> None:
        self._stream = stream
        self._wire = wire

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._wire.num_bytes += len(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


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
