"""Downloads: HEAD and GET of one file at one revision, whole or a single byte range."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from ct_llm.hub_server.routing import Call, Route, route
from ct_llm.hub_server.wire import WireError, entry_not_found

DOWNLOAD_BLOCK = 2**20

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def head_file(call: Call) -> Response:
    return _file_response(call, with_content=False)


def get_file(call: Call) -> Response:
    return _file_response(call, with_content=True)


def _file_response(call: Call, *, with_content: bool) -> Response:
    repo, store = call.repo_and_store("read")
    commit = store.resolve(call.params["rev"])
    path = call.params["file"]
    entry = store.entry(commit, path)
    if entry is None or entry.blob is None:
        raise entry_not_found(path, commit)
    lfs = entry.blob.lfs
    etag = f'"{entry.content_id}"'
    headers = {
        "X-Repo-Commit": commit,
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # Files are data from whoever may write: a browser must not run them on this origin.
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(path.rpartition('/')[2])}",
    }
    stored: Path | None = None
    if lfs is not None:
        stored = call.hub.lfs.path(lfs.sha256)
        if not call.hub.lfs.is_linked(repo.id, lfs.sha256) or not stored.exists():
            raise entry_not_found(path, commit)
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(lfs.size)}
    wanted = None
    if call.headers.get("if-range", etag) == etag:
        wanted = parse_range(call.headers.get("range"), entry.size)
    start, end = wanted or (0, entry.size)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
    status = 200 if wanted is None else 206
    if not with_content:
        return Response(None, status, headers)
    if stored is None:
        return Response(store.read_blob(entry.oid)[start:end], status, headers)
    return StreamingResponse(_blocks(stored, start, end), status, headers)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The half-open byte range that a Range header asks for; None means the whole file.

    Several ranges at once and other units are ignored, as HTTP allows.

    Raises:
        WireError: 416 when the range starts past the end.
    """
    match = None if header is None else _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start, end = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
        if match[2] and int(match[2]) < int(match[1]):
            return None
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= end:
        raise WireError(
            416,
            f"Range {header} lies outside a file of {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, end


def _blocks(path: Path, start: int, end: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left > 0:
            block = file.read(min(DOWNLOAD_BLOCK, left))
            if not block:
                raise OSError(f"{path} is shorter than its size says.")
            left -= len(block)
            yield block


ROUTES: list[Route] = [
    route("HEAD", "/{prefix}{repo}/resolve/{rev}/{file}", head_file),
    route("GET", "/{prefix}{repo}/resolve/{rev}/{file}", get_file),
]
