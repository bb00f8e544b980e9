"""The endpoint's HTTP. Nothing of a request is read before its secret was compared."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ct_llm.cycle_dir import read_record
from ct_llm.errors import InputError
from ct_llm.records import TriggerDecision
from ct_llm.watch.metrics import CONTENT_TYPE, prometheus_text
from ct_llm.watch.webhook.events import Ignored, read_event
from ct_llm.watch.webhook.queue import StartQueue

MAX_BODY_BYTES = 1_000_000
BODY_SECONDS = 20.0


@dataclass(frozen=True)
class Endpoint:
    """What the answers depend on."""

    secret: bytes = field(repr=False)
    followed: Mapping[str, set[str]]
    adapter_repo: str
    queue: StartQueue
    last_decision: Path
    """TriggerDecision of the last look on this machine; need not exist."""

    async def webhook(self, request: Request) -> Response:
        if not self._knows_secret(request):
            return _answer(401, "refused", "X-Webhook-Secret is missing or wrong")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read_body(request)
        except (TimeoutError, ClientDisconnect):
            return _answer(408, "refused", "the body did not arrive in time")
        if body is None:
            return _answer(413, "refused", f"more than {MAX_BODY_BYTES:,} bytes")
        try:
            event = read_event(body, self.followed, self.adapter_repo)
        except ValueError:
            return _answer(400, "refused", "not an event of the Hub")
        if isinstance(event, Ignored):
            return _answer(200, "ignored", event.reason)
        if self.queue.is_broken:
            return _answer(503, "refused", "nothing can be started any more; restart the server")
        if not await self.queue.offer(event):
            return _answer(200, "ignored", "this push was accepted before")
        return _answer(202, "accepted", event[-1].key)

    async def metrics(self, request: Request) -> Response:
        if not self._knows_secret(request):
            return _answer(401, "refused", "give the secret as X-Webhook-Secret or bearer token")
        if not self.last_decision.exists():
            return PlainTextResponse("# nothing was looked at yet\n", media_type=CONTENT_TYPE)
        try:
            decision = await asyncio.to_thread(read_record, self.last_decision, TriggerDecision)
        except InputError as error:
            return PlainTextResponse(f"{error}\n", status_code=503)
        return Response(prometheus_text(decision, self.adapter_repo), media_type=CONTENT_TYPE)

    async def health(self, _request: Request) -> Response:
        if self.queue.is_broken:
            return JSONResponse({"status": "broken"}, status_code=503)
        return JSONResponse({"status": "ok", "starting": self.queue.is_starting})

    def _knows_secret(self, request: Request) -> bool:
        """Compared in a time that tells nothing of the secret but perhaps its length."""
        given = dict(request.scope["headers"])  # lower-case names and values, as bytes
        bearer = given.get(b"authorization", b"")
        offered = given.get(b"x-webhook-secret", bearer.removeprefix(b"Bearer "))
        return hmac.compare_digest(offered, self.secret)


def make_app(endpoint: Endpoint) -> Starlette:
    """The application; while it runs, so does the queue."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        endpoint.queue.open()
        try:
            yield
        finally:
            await endpoint.queue.close()

    app = Starlette(
        routes=[
            Route("/", endpoint.webhook, methods=["POST"]),
            Route("/webhook", endpoint.webhook, methods=["POST"]),
            Route("/metrics", endpoint.metrics, methods=["GET"]),
            Route("/healthz", endpoint.health, methods=["GET"]),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


async def _read_body(request: Request) -> bytes | None:
    """None when there is more than MAX_BODY_BYTES, whatever Content-Length says."""
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def _answer(code: int, status: str, reason: str) -> Response:
    return JSONResponse({"status": status, "reason": reason}, status_code=code)
