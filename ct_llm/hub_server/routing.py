"""Routes on the raw path, and what a handler is given.

A revision such as `refs/pr/1` is one percent-encoded segment of the URL. ASGI's decoded path would turn
it into three, so routes match `raw_path` and decode each part only afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import IO, Any, Literal
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from ct_llm.hub_server.auth import Identity, LinkSigner
from ct_llm.hub_server.database import Database
from ct_llm.hub_server.discussions import Discussions
from ct_llm.hub_server.git_store import GitStore
from ct_llm.hub_server.lfs_store import LfsStore
from ct_llm.hub_server.repos import Need, RepoRecord, Repos
from ct_llm.hub_server.wire import bad_request

Body = Literal["none", "small", "commit", "stream"]


@dataclass(frozen=True)
class Hub:
    """Everything that a root holds."""

    database: Database
    repos: Repos
    lfs: LfsStore
    discussions: Discussions
    signer: LinkSigner


@dataclass
class Call:
    """One request as a handler sees it: matched, authenticated, its body read."""

    hub: Hub
    params: dict[str, str]
    """The path's named parts, decoded."""
    query: list[tuple[str, str]]
    headers: dict[str, str]
    """Names in lower case."""
    path: str
    """The raw path, for paging links."""
    endpoint: str
    """`http://host:port` as the client addressed it."""
    identity: Identity | None
    body: IO[bytes]

    def first(self, key: str) -> str | None:
        return next((value for name, value in self.query if name == key), None)

    def every(self, key: str) -> list[str]:
        return [value for name, value in self.query if name == key]

    def flag(self, key: str) -> bool:
        return (self.first(key) or "").lower() in ("1", "true")

    def number(self, key: str, default: int, highest: int) -> int:
        """A whole number of the query between 1 and `highest`."""
        text = self.first(key)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise bad_request(f"'{key}' must be a whole number, not {text!r}.")
        return max(1, min(int(text), highest))

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an absent body is an empty one.

        Raises:
            WireError: 400 for anything else.
        """
        content = self.body.read()
        if not content:
            return {}
        try:
            data = json.loads(content)
        except ValueError as error:
            raise bad_request(f"Request body is not JSON: {error}.") from error
        if not isinstance(data, dict):
            raise bad_request("Request body must be a JSON object.")
        return data

    def repo(self, need: Need) -> RepoRecord:
        """The repo that the path names, if the request may do what it needs."""
        kind = "dataset" if self.params.get("types") in ("datasets", "datasets/") else "model"
        return self.hub.repos.find(
            kind, self.params["ns"], self.params["name"], self.identity, need
        )

    def repo_and_store(self, need: Need) -> tuple[RepoRecord, GitStore]:
        repo = self.repo(need)
        return repo, self.hub.repos.store(repo)


Handler = Callable[[Call], Response]
StreamHandler = Callable[[Hub, dict[str, str], Request], Awaitable[Response]]


@dataclass(frozen=True)
class Route:
    """A method and a path; `handler` runs in a worker thread, `stream` on the event loop."""

    method: str
    pattern: re.Pattern[str]
    body: Body
    handler: Handler | None = None
    stream: StreamHandler | None = None

    def match(self, raw_path: str) -> dict[str, str] | None:
        found = self.pattern.fullmatch(raw_path)
        if found is None:
            return None
        return {
            name: unquote(value) for name, value in found.groupdict().items() if value is not None
        }


_PARTS = {
    "{types}": r"(?P<types>models|datasets)",
    # Files of a model have no prefix in their URL, those of a dataset have.
    "{prefix}": r"(?P<types>datasets/)?",
    "{repo}": r"(?P<ns>[^/]+)/(?P<name>[^/]+)",
    "{file}": r"(?P<file>.+)",
}


def route(method: str, path: str, handler: Handler, body: Body = "none") -> Route:
    """A route whose handler works with blocking calls."""
    return Route(method, _compile(path), body, handler=handler)


def stream_route(method: str, path: str, handler: StreamHandler) -> Route:
    """A route whose handler reads the body itself."""
    return Route(method, _compile(path), "stream", stream=handler)


def _compile(path: str) -> re.Pattern[str]:
    for part, expression in _PARTS.items():
        path = path.replace(part, expression)
    # A part of one's own, such as {rev}: one segment.
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path.replace(".git/", r"\.git/")))
