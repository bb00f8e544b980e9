"""Routes that read a repo's trees and commits, and those that move its branches and tags."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl

from starlette.responses import Response

from ct_llm.hub_server.git_store import HEADS, MAIN, PULLS, TAGS, CommitInfo, GitStore
from ct_llm.hub_server.routing import Call, Route, route
from ct_llm.hub_server.snapshot import Entry
from ct_llm.hub_server.wire import (
    WireError,
    bad_request,
    conflict,
    entry_not_found,
    format_time,
    json_response,
    next_link,
    revision_not_found,
)

PAGE_OF_ENTRIES = 1000
PAGE_OF_COMMITS = 500


def list_tree(call: Call) -> Response:
    _, store = call.repo_and_store("see")
    commit, start = _page(call, store)
    path = call.params.get("file", "").strip("/")
    snapshot = store.snapshot(commit)
    if not snapshot.has_folder(path):
        raise entry_not_found(path, commit)
    entries = snapshot.below(path) if call.flag("recursive") else snapshot.children(path)
    limit = call.number("limit", PAGE_OF_ENTRIES, PAGE_OF_ENTRIES)
    page = entries[start : start + limit]
    return json_response(
        _entries(store, commit, page, expand=call.flag("expand")),
        headers=_link(call, commit, start + limit, more=start + limit < len(entries)),
    )


def paths_info(call: Call) -> Response:
    _, store = call.repo_and_store("see")
    commit = store.resolve(call.params["rev"])
    form = parse_qsl(call.body.read().decode("utf-8", "replace"), keep_blank_values=True)
    paths = dict.fromkeys(value.strip("/") for key, value in form if key == "paths")
    entries = (store.entry(commit, path) for path in paths)
    found = [entry for entry in entries if entry is not None]
    expand = ("expand", "true") in [(key, value.lower()) for key, value in form]
    return json_response(_entries(store, commit, found, expand=expand))


def list_commits(call: Call) -> Response:
    _, store = call.repo_and_store("see")
    commit, start = _page(call, store)
    limit = call.number("limit", PAGE_OF_COMMITS, PAGE_OF_COMMITS)
    # One more than the page tells whether there is a next one.
    infos = list(islice(store.history(commit), start, start + limit + 1))
    formatted = "formatted" in call.every("expand[]")
    return json_response(
        [_commit_to_wire(info, formatted=formatted) for info in infos[:limit]],
        headers=_link(call, commit, start + limit, more=len(infos) > limit),
    )


def list_refs(call: Call) -> Response:
    _, store = call.repo_and_store("see")

    def below(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": name, "ref": prefix + name, "targetCommit": commit}
            for name, commit in store.refs(prefix)
        ]

    refs: dict[str, Any] = {"branches": below(HEADS), "converts": [], "tags": below(TAGS)}
    if call.flag("include_prs"):
        refs["pullRequests"] = below(PULLS)
    return json_response(refs)


def create_branch(call: Call) -> Response:
    _, store = call.repo_and_store("write")
    start = call.json().get("startingPoint") or MAIN
    store.create_ref(HEADS, call.params["rev"], store.resolve(str(start)), None)
    return json_response({})


def delete_branch(call: Call) -> Response:
    _, store = call.repo_and_store("write")
    if call.params["rev"] == MAIN:
        raise WireError(403, f"Branch '{MAIN}' cannot be deleted.")
    store.delete_ref(HEADS + call.params["rev"])
    return json_response({})


def create_tag(call: Call) -> Response:
    _, store = call.repo_and_store("write")
    body = call.json()
    tag, message = body.get("tag"), body.get("message")
    if not isinstance(tag, str) or not (message is None or isinstance(message, str)):
        raise bad_request("'tag' (and 'message', if given) must be strings.")
    store.create_ref(TAGS, tag, store.resolve(call.params["rev"]), message)
    return json_response({})


def delete_tag(call: Call) -> Response:
    _, store = call.repo_and_store("write")
    store.delete_ref(TAGS + call.params["rev"])
    return json_response({})


def super_squash(call: Call) -> Response:
    """Replace a branch's history by one commit with the same files."""
    _, store = call.repo_and_store("write")
    branch = call.params["rev"].removeprefix(HEADS)
    message = str(call.json().get("message") or f"Super-squash branch '{branch}'")
    title, _, rest = message.partition("\n")
    author = call.identity.user if call.identity is not None else ""
    with store.lock:
        tip = store.branch_tip(HEADS + branch)
        if tip is None:
            raise revision_not_found(branch)
        squashed = store.new_commit(store.commit(tip).tree, None, author, title, rest.strip())
        store.store([squashed])
        if not store.move_ref(HEADS + branch, tip, squashed.id.decode()):
            raise conflict(f"Branch '{branch}' moved during the squash; try again.")
    return json_response({})


def _page(call: Call, store: GitStore) -> tuple[str, int]:
    """The commit and the offset of a page; later pages stay at the first page's commit."""
    cursor = call.first("cursor")
    if cursor is None:
        return store.resolve(call.params["rev"]), 0
    commit, _, offset = cursor.partition(".")
    if not offset.isascii() or not offset.isdigit() or len(offset) > 9:
        raise bad_request(f"Cursor {cursor!r} was not made by this server.")
    return store.resolve(commit), int(offset)


def _link(call: Call, commit: str, offset: int, *, more: bool) -> dict[str, str]:
    if not more:
        return {}
    return {"Link": next_link(call.endpoint, call.path, call.query, f"{commit}.{offset}")}


def _entries(
    store: GitStore, commit: str, entries: Sequence[Entry], *, expand: bool
) -> list[dict[str, Any]]:
    wire = [entry.to_wire() for entry in entries]
    if expand:
        last = store.last_commits(commit, (entry.path for entry in entries))
        for item in wire:
            info = last[item["path"]]
            item["lastCommit"] = {
                "id": info.oid,
                "title": info.title,
                "date": format_time(info.time),
            }
    return wire


def _commit_to_wire(info: CommitInfo, *, formatted: bool) -> dict[str, Any]:
    wire: dict[str, Any] = {
        "id": info.oid,
        "title": info.title,
        "message": info.message,
        "date": format_time(info.time),
        "authors": [{"user": info.author}],
    }
    if formatted:
        wire["formatted"] = {"title": html.escape(info.title), "message": html.escape(info.message)}
    return wire


ROUTES: list[Route] = [
    route("GET", "/api/{types}/{repo}/tree/{rev}", list_tree),
    route("GET", "/api/{types}/{repo}/tree/{rev}/{file}", list_tree),
    route("POST", "/api/{types}/{repo}/paths-info/{rev}", paths_info, "small"),
    route("GET", "/api/{types}/{repo}/commits/{rev}", list_commits),
    route("GET", "/api/{types}/{repo}/refs", list_refs),
    route("POST", "/api/{types}/{repo}/branch/{rev}", create_branch, "small"),
    route("DELETE", "/api/{types}/{repo}/branch/{rev}", delete_branch),
    route("POST", "/api/{types}/{repo}/tag/{rev}", create_tag, "small"),
    route("DELETE", "/api/{types}/{repo}/tag/{rev}", delete_tag),
    route("POST", "/api/{types}/{repo}/super-squash/{rev}", super_squash, "small"),
]
