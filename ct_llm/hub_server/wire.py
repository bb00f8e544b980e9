"""What goes over the wire: errors the client understands, JSON, times and paging links.

The client chooses its exception by `X-Error-Code`, not by status alone; a 404 without the header is a
bare `HfHubHTTPError`, and `repo_exists`/`file_exists` then raise instead of answering False.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response


class WireError(Exception):
    """An answer other than success, raised anywhere below a route and sent as JSON."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = dict(headers or {})
        self.body = dict(body or {})


def bad_request(message: str) -> WireError:
    return WireError(400, message)


def conflict(message: str) -> WireError:
    return WireError(409, message)


def forbidden(message: str) -> WireError:
    return WireError(403, message)


def unauthorised(message: str) -> WireError:
    # The client compares this header text: any other 401 is reported to the user as "Repository Not
    # Found", which hides a mistyped token.
    return WireError(
        401, message, headers={"X-Error-Message": "Invalid credentials in Authorization header"}
    )


def repo_not_found(repo_id: str) -> WireError:
    return WireError(404, f"Repository not found: {repo_id}", code="RepoNotFound")


def revision_not_found(revision: str) -> WireError:
    return WireError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")


def entry_not_found(path: str, commit: str) -> WireError:
    # X-Repo-Commit lets the client remember the absence for this commit (.no_exist in its cache).
    return WireError(
        404,
        f"Entry not found: {path}",
        code="EntryNotFound",
        headers={"X-Repo-Commit": commit},
    )


def json_response(
    data: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, headers, media_type="application/json")


def error_response(error: WireError) -> Response:
    headers = {"X-Request-Id": uuid.uuid4().hex, "X-Error-Message": _one_line(error.message)}
    if error.code is not None:
        headers["X-Error-Code"] = error.code
    headers.update(error.headers)
    return json_response(
        {"error": error.message, **error.body}, status=error.status, headers=headers
    )


def format_time(seconds: float) -> str:
    """Seconds since the epoch as the Hub prints them: `2026-11-24T16:02:12.000Z`."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def next_link(endpoint: str, path: str, query: list[tuple[str, str]], cursor: str) -> str:
    """The `Link` header of a page that has a successor. The client requests the URL verbatim."""
    kept = [(key, value) for key, value in query if key != "cursor"]
    return f'<{endpoint}{path}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'


def _one_line(text: str) -> str:
    # Header values are latin-1 without control characters; a path in a message may hold anything.
    printable = "".join(char if char.isprintable() else " " for char in text)
    return printable.encode("latin-1", "replace").decode("latin-1")[:500]
