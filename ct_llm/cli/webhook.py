"""`ct-llm watch --serve`."""

import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from ct_llm.config import CTConfig
from ct_llm.errors import InputError


def serve(config: CTConfig, path: Path, sets: Sequence[str], host: str, port: int) -> None:
    try:
        from ct_llm.watch.webhook.serve import serve as serve_webhook
    except ImportError as error:
        raise InputError(
            f"the webhook needs {error.name}, which is not installed: pip install 'ct_llm[webhook]'"
        ) from None

    def ready(url: str) -> None:
        typer.echo(f"Webhook at {url}/webhook, metrics at {url}/metrics. Ctrl-C stops it.")
        if not _is_loopback(host):
            typer.echo(
                "This is plain HTTP: put a reverse proxy with TLS in front and let nothing else reach "
                "this port, or the secret crosses the network in the clear."
            )

    def say(line: str) -> None:
        typer.echo(f"ct-llm: {line}", err=True)

    overrides = [part for override in sets for part in ("--set", override)]
    run = [sys.executable, "-m", "ct_llm.cli.main", "run", "--config", str(path.resolve())]
    serve_webhook(config, [*run, *overrides], host=host, port=port, ready=ready, say=say)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
