"""The server: from the configuration to the signal that ends it."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import uvicorn

from ct_llm.config import CTConfig
from ct_llm.errors import ConfigError, InputError
from ct_llm.watch.webhook.app import Endpoint, make_app
from ct_llm.watch.webhook.events import followed_refs
from ct_llm.watch.webhook.queue import RETRY_SECONDS, Say, Start, StartQueue
from ct_llm.watch.webhook.start import GITHUB_API, DispatchWorkflow, RunCycle

MAX_CONNECTIONS = 64
SHUTDOWN_SECONDS = 5

Ready = Callable[[str], None]
"""Called with the URL once the server listens."""


def serve(
    config: CTConfig, run_command: Sequence[str], *, host: str, port: int, ready: Ready, say: Say
) -> None:
    """Listen until SIGINT or SIGTERM; a cycle under way gets the SIGTERM and is waited for.

    run_command: what runs one cycle with this configuration. port: 0 takes a free one.

    Raises ConfigError when the secret, a token or a dataset to listen for is missing, InputError
    when the port cannot be had.
    """
    endpoint = make_endpoint(config, run_command, os.environ, say=say)
    with closing(_listen(host, port)) as listener:
        try:
            make_server(endpoint, listener, ready).run(sockets=[listener])
        except KeyboardInterrupt:
            return  # uvicorn has ended in order and raises it again


def make_endpoint(
    config: CTConfig,
    run_command: Sequence[str],
    env: Mapping[str, str],
    *,
    say: Say,
    retry_seconds: Sequence[float] = RETRY_SECONDS,
) -> Endpoint:
    """Raises ConfigError."""
    webhook = config.watch.webhook
    secret = env.get(webhook.secret_env, "").strip()  # HTTP strips the header too
    if not secret:
        raise ConfigError(
            f"watch.webhook.secret_env: the environment variable {webhook.secret_env} is not set. "
            "Without a secret, anybody could start cycles: export the one that the webhook's settings "
            "on the Hub have."
        )
    followed = followed_refs(config.datasets)
    if not followed:
        raise ConfigError(
            "datasets: none of them is on the Hub, so no webhook will ever tell of them. Let a "
            "scheduler call `ct-llm run` instead."
        )
    return Endpoint(
        secret=secret.encode(),
        followed=followed,
        adapter_repo=config.adapter_repo,
        queue=StartQueue(
            _start(config, run_command, env),
            config.work_dir / "webhook.json",
            say=say,
            retry_seconds=retry_seconds,
        ),
        last_decision=_decision(config),
    )


def _decision(config: CTConfig) -> Path:
    """Where `ct-llm run` leaves the decision of its look."""
    return config.work_dir / "decision.json"


def _start(config: CTConfig, run_command: Sequence[str], env: Mapping[str, str]) -> Start:
    webhook = config.watch.webhook
    if webhook.start == "run":
        child_env = {name: value for name, value in env.items() if name != webhook.secret_env}
        return RunCycle(run_command, child_env, config.work_dir / "webhook.log", _decision(config))
    token = env.get("GITHUB_TOKEN", "")
    if not token:
        raise ConfigError(
            "watch.webhook.start: github needs GITHUB_TOKEN in the environment, with write access to "
            f"the contents of {webhook.github_repo}."
        )
    assert webhook.github_repo is not None  # the configuration has checked it
    return DispatchWorkflow(
        repo=webhook.github_repo,
        event=webhook.github_event,
        token=token,
        adapter_repo=config.adapter_repo,
        api=env.get("GITHUB_API_URL") or GITHUB_API,
    )


def make_server(endpoint: Endpoint, listener: socket.socket, ready: Ready) -> uvicorn.Server:
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    config = uvicorn.Config(
        make_app(endpoint),
        http="h11",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return _Server(config, lambda: ready(url))


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Choose another --host "
            "or --port; port 0 takes a free one."
        ) from error
    return listener
