"""Running a hub: one process a root, on loopback, until it is told to stop.

with running_hub(tmp_path) as hub:
    HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("acme/adapter")
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ct_llm.errors import InputError
from ct_llm.hub_server.app import HubApp
from ct_llm.hub_server.auth import LinkSigner, ensure_admin
from ct_llm.hub_server.database import Database
from ct_llm.hub_server.discussions import Discussions
from ct_llm.hub_server.lfs_store import LfsStore
from ct_llm.hub_server.repos import Repos
from ct_llm.hub_server.routing import Hub

LOCK_FILE = "lock"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
SHUTDOWN_SECONDS = 5
START_SECONDS = 30.0

Ready = Callable[[str, str], None]
"""Called with the endpoint and the admin's token once the server listens."""


@dataclass(frozen=True)
class RunningHub:
    """A server that listens."""

    endpoint: str
    token: str = field(repr=False)
    root: Path


def serve(
    root: Path, *, host: str = "127.0.0.1", port: int = 0, ready: Ready | None = None
) -> None:
    """Serve `root` until SIGINT or SIGTERM.

    Args:
        root: folder of the hub; created if new, then with an admin `local` whose token is ROOT/token.
        host: a loopback address.
        port: 0 takes a free one.
        ready: called with endpoint and admin token when listening.

    Raises:
        InputError: `host` is not loopback, the port is taken, or another server holds `root`.
    """
    with _prepared(root, host, port, ready) as (server, listener):
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            # Ctrl-C is how one stops it; uvicorn has finished the open requests and raises it again.
            return


@contextmanager
def running_hub(root: Path, port: int = 0) -> Iterator[RunningHub]:
    """Serve `root` from a thread of this process while the block runs.

    Raises:
        InputError: the port is taken or another server holds `root`.
    """
    hub: list[RunningHub] = []
    listening = threading.Event()

    def ready(endpoint: str, token: str) -> None:
        hub.append(RunningHub(endpoint, token, root))
        listening.set()

    with _prepared(root, "127.0.0.1", port, ready) as (server, listener):
        thread = threading.Thread(
            target=server.run, kwargs={"sockets": [listener]}, name="hub-server", daemon=True
        )
        thread.start()
        try:
            if not listening.wait(START_SECONDS):
                raise RuntimeError("The hub server's thread ended or hung before it listened.")
            yield hub[0]
        finally:
            server.should_exit = True
            thread.join()


class _SilentProtocol(H11Protocol):
    """HTTP without uvicorn's access log, whose lines would hold the signed upload links.

    `access_log=False` alone is not enough: a handler that anybody in the process attaches to the
    logger `uvicorn.access`, as pytest does, switches the lines on again.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.access_log = False


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


@contextmanager
def _prepared(
    root: Path, host: str, port: int, ready: Ready | None
) -> Iterator[tuple[uvicorn.Server, socket.socket]]:
    """Everything that a server needs, opened in order and closed again."""
    _require_loopback(host)
    with _locked(root), closing(Database(root)) as database, closing(_listen(host, port)) as sock:
        token = ensure_admin(root, database)
        repos = Repos(root, database)
        hub = Hub(
            database=database,
            repos=repos,
            lfs=LfsStore(root, database),
            discussions=Discussions(database),
            signer=LinkSigner(root),
        )
        bound_port = sock.getsockname()[1]
        endpoint = f"http://[{host}]:{bound_port}" if ":" in host else f"http://{host}:{bound_port}"
        config = uvicorn.Config(
            HubApp(hub, LOOPBACK_HOSTS | {host}),
            http=_SilentProtocol,
            access_log=False,
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
        with closing(repos):
            yield _Server(config, lambda: ready(endpoint, token) if ready else None), sock


def _require_loopback(host: str) -> None:
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise InputError(
            f"Host {host!r} is not a loopback address. The hub server has no TLS yet, so tokens would "
            "cross the network in the clear: use 127.0.0.1 and reach it through `ssh -L`."
        )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the root alone: two processes would each believe in their own locks and caches."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            # The kernel drops it with the process, so a kill leaves nothing behind.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"Another hub server is running on {root}. Use its endpoint, or stop it first."
            ) from error
        yield
    finally:
        os.close(descriptor)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # IPPROTO_TCP spelled out: asyncio sets TCP_NODELAY only on sockets that say so, and without it each
    # answer waits 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise InputError(
            f"Port {port} on {host} cannot be used: {error}. Choose another, or 0 for a free one."
        ) from error
    return listener
