"""`ct-llm hub serve`."""

from pathlib import Path

import typer

from ct_llm.errors import InputError


def serve(root: Path, host: str, port: int) -> None:
    try:
        from ct_llm.hub_server.server import serve as serve_hub
    except ImportError as error:
        raise InputError(
            f"the Hub server needs {error.name}, which is not installed: pip install 'ct_llm[hub-server]'"
        ) from None

    def ready(endpoint: str, token: str) -> None:
        typer.echo(
            f"Hub at {endpoint}, everything under {root.resolve()}. Ctrl-C stops it.\n"
            "For its clients, in another terminal:\n"
            f"  export HF_ENDPOINT={endpoint}\n"
            f"  export HF_TOKEN={token}\n"
            "  export HF_HUB_DISABLE_XET=1"
        )

    serve_hub(root, host=host, port=port, ready=ready)
