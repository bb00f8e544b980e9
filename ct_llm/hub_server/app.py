"""The ASGI application: Host check, routing, body limits, tokens, errors, one log line a request."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO
from urllib.parse import parse_qsl

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ct_llm.hub_server import (
    discussion_routes,
    history_routes,
    repo_routes,
    resolve,
    upload_routes,
)
from ct_llm.hub_server.auth import authenticate
from ct_llm.hub_server.routing import Body, Call, Handler, Hub, Route
from ct_llm.hub_server.wire import WireError, error_response

logger = logging.getLogger("ct_llm.hub_server")

LOG_LINE = "%s %s %d %dB %.0fms"
"""Method, path, status, bytes of the answer's body, time."""

MAX_BODY: dict[Body, int] = {"none": 0, "small": 16 * 2**20, "commit": 256 * 2**20}
# A larger body waits on disk, so that many uploads at once do not fill the memory.
BODY_IN_MEMORY = 8 * 2**20

ROUTES: tuple[Route, ...] = (
    *repo_routes.ROUTES,
    *history_routes.ROUTES,
    *upload_routes.ROUTES,
    *discussion_routes.ROUTES,
    *resolve.ROUTES,
)


class HubApp:
    """Serves one root. `allowed_hosts` are the names that a Host header may carry."""

    def __init__(self, hub: Hub, allowed_hosts: frozenset[str]) -> None:
        self._hub = hub
        self._allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"This server speaks HTTP only, not {scope['type']}.")
        request = Request(scope, receive)
        raw_path = scope["raw_path"].decode("latin-1")
        started = time.perf_counter()
        status, num_bytes = 499, 0

        async def counted(message: Message) -> None:
            nonlocal num_bytes
            num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            response = await self._respond(request, raw_path)
            status = response.status_code
            await response(scope, receive, counted)
        except ClientDisconnect:
            # The client left in the middle of its upload: there is nobody to answer.
            logger.debug("client disconnected during %s %s", request.method, raw_path)
        finally:
            # Neither headers nor the query are logged: they hold tokens and signed links.
            milliseconds = (time.perf_counter() - started) * 1e3
            logger.info(LOG_LINE, request.method, raw_path, status, num_bytes, milliseconds)

    async def _respond(self, request: Request, raw_path: str) -> Response:
        try:
            return await self._dispatch(request, raw_path)
        except WireError as error:
            return error_response(error)
        except ClientDisconnect:
            raise
        except UnicodeEncodeError:
            # JSON can spell half a surrogate pair, which neither git nor SQLite can store.
            return error_response(WireError(400, "The request holds text that is not unicode."))
        except Exception:
            # The one place where a bug turns into an answer.
            logger.exception("%s %s failed", request.method, raw_path)
            return error_response(WireError(500, "The server failed; its log has the reason."))

    async def _dispatch(self, request: Request, raw_path: str) -> Response:
        host = request.headers.get("host", "")
        # A web page that rebinds its name to 127.0.0.1 is stopped here: its Host is still its own.
        if _host_name(host) not in self._allowed_hosts:
            raise WireError(421, f"This server does not answer for host {host!r}.")
        found, params = _match(request.method, raw_path)
        if found.stream is not None:
            return await found.stream(self._hub, params, request)
        assert found.handler is not None
        async with _received(request, found.body) as body:
            call = Call(
                hub=self._hub,
                params=params,
                query=parse_qsl(request.url.query, keep_blank_values=True),
                headers={name.lower(): value for name, value in request.headers.items()},
                path=raw_path,
                endpoint=f"http://{host}",
                identity=None,
                body=body,
            )
            return await run_in_threadpool(_run, found.handler, call)


def _run(handler: Handler, call: Call) -> Response:
    # The token is looked up here, as SQLite would block the event loop.
    call.identity = authenticate(call.hub.database, call.headers.get("authorization"))
    return handler(call)


def _match(method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
    path_exists = False
    for candidate in ROUTES:
        params = candidate.match(raw_path)
        if params is not None and candidate.method == method:
            return candidate, params
        path_exists = path_exists or params is not None
    if path_exists:
        raise WireError(405, f"{method} is not possible here.")
    raise WireError(404, "This server has no such page.")


@asynccontextmanager
async def _received(request: Request, kind: Body) -> AsyncIterator[IO[bytes]]:
    """The request's whole body. Raises 413 when it is larger than its kind may be."""
    limit = MAX_BODY[kind]
    announced = request.headers.get("content-length", "0")
    if not announced.isdigit() or int(announced) > limit:
        raise WireError(413, f"A body of {announced} bytes is too large; {limit} are accepted.")
    with tempfile.SpooledTemporaryFile(max_size=BODY_IN_MEMORY) as body:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise WireError(413, f"A body of more than {limit} bytes is too large.")
            if size > BODY_IN_MEMORY:
                await run_in_threadpool(body.write, chunk)
            else:
                body.write(chunk)
        body.seek(0)
        yield body


def _host_name(host: str) -> str:
    """The host without its port: '127.0.0.1:8080' and '[::1]:8080' alike."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
