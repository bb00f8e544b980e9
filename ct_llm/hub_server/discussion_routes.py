"""Routes of discussions and pull requests."""

from __future__ import annotations

from starlette.responses import Response

from ct_llm.hub_server.auth import Identity, require_write_token
from ct_llm.hub_server.discussions import Discussion
from ct_llm.hub_server.git_store import HEADS, MAIN, GitStore
from ct_llm.hub_server.repos import RepoRecord
from ct_llm.hub_server.routing import Call, Route, route
from ct_llm.hub_server.wire import WireError, bad_request, forbidden, json_response

PAGE_OF_DISCUSSIONS = 50


def list_discussions(call: Call) -> Response:
    repo = call.repo("see")
    discussions = call.hub.discussions
    found = discussions.search(
        repo,
        kind=call.first("type"),
        status=call.first("status"),
        author=call.first("author"),
    )
    page = call.first("p") or "0"
    if not page.isascii() or not page.isdigit() or len(page) > 9:
        raise bad_request(f"'p' must be a page number, not {page!r}.")
    start = int(page) * PAGE_OF_DISCUSSIONS
    shown = found[start : start + PAGE_OF_DISCUSSIONS]
    return json_response(
        {
            "discussions": [discussions.summary(repo, item) for item in shown],
            "count": len(found),
            "start": start,
        }
    )


def create_discussion(call: Call) -> Response:
    repo, store = call.repo_and_store("contribute")
    author = require_write_token(call.identity).user
    body = call.json()
    title, description = _text(body.get("title")), _text(body.get("description"))
    if body.get("pullRequest"):
        base = store.resolve(MAIN)
        # A draft, as on the Hub: it has no changes yet.
        discussion = call.hub.discussions.open_pull_request(
            repo,
            store,
            author,
            title,
            description,
            target=HEADS + MAIN,
            base=base,
            head=base,
            status="draft",
        )
    else:
        discussion = call.hub.discussions.open_discussion(repo, store, author, title, description)
    return json_response(call.hub.discussions.summary(repo, discussion))


def discussion_details(call: Call) -> Response:
    repo, store = call.repo_and_store("see")
    discussion = call.hub.discussions.get(repo, _number(call))
    return json_response(
        call.hub.discussions.details(repo, store, discussion, with_diff=call.flag("diff"))
    )


def comment(call: Call) -> Response:
    _, _, discussion, identity = _contribution(call)
    content = _text(call.json().get("comment"))
    if not content:
        raise bad_request("A comment must not be empty.")
    event = call.hub.discussions.comment(discussion, identity.user, content)
    return json_response({"newMessage": event})


def edit_comment(call: Call) -> Response:
    _, _, discussion, identity = _contribution(call)
    event = call.hub.discussions.edit_comment(
        discussion, identity, call.params["event"], _text(call.json().get("content"))
    )
    return json_response({"updatedComment": event})


def hide_comment(call: Call) -> Response:
    _, _, discussion, identity = _contribution(call)
    event = call.hub.discussions.edit_comment(discussion, identity, call.params["event"], None)
    return json_response({"updatedComment": event})


def change_status(call: Call) -> Response:
    repo, store, discussion, identity = _contribution(call)
    _require_author_or_owner(repo, discussion, identity)
    body = call.json()
    # Under the lock of a merge, or a pull request could be closed while it is being merged.
    with store.lock:
        event = call.hub.discussions.change_status(
            call.hub.discussions.get(repo, discussion.num),
            identity.user,
            str(body.get("status")),
            _text(body.get("comment")),
        )
    return json_response({"newStatus": event})


def rename(call: Call) -> Response:
    repo, _, discussion, identity = _contribution(call)
    _require_author_or_owner(repo, discussion, identity)
    event = call.hub.discussions.rename(
        discussion, identity.user, _text(call.json().get("title")).strip()
    )
    return json_response({"newTitle": event})


def merge(call: Call) -> Response:
    repo, store = call.repo_and_store("write")
    identity = require_write_token(call.identity)
    merged = call.hub.discussions.merge(
        repo, store, _number(call), identity.user, _text(call.json().get("comment"))
    )
    return json_response({"mergeCommitId": merged})


def _contribution(call: Call) -> tuple[RepoRecord, GitStore, Discussion, Identity]:
    repo, store = call.repo_and_store("contribute")
    identity = require_write_token(call.identity)
    return repo, store, call.hub.discussions.get(repo, _number(call)), identity


def _require_author_or_owner(repo: RepoRecord, discussion: Discussion, identity: Identity) -> None:
    if not (identity.owns(repo.namespace) or identity.user == discussion.author):
        raise forbidden("Only its author and the repo's owner may change a discussion.")


def _number(call: Call) -> int:
    text = call.params["num"]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise WireError(404, f"Discussion {text!r} does not exist.")
    return int(text)


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_request("Titles, descriptions and comments must be strings.")
    return value


ROUTES: list[Route] = [
    route("GET", "/api/{types}/{repo}/discussions", list_discussions),
    route("POST", "/api/{types}/{repo}/discussions", create_discussion, "small"),
    route("GET", "/api/{types}/{repo}/discussions/{num}", discussion_details),
    route("POST", "/api/{types}/{repo}/discussions/{num}/comment", comment, "small"),
    route(
        "POST", "/api/{types}/{repo}/discussions/{num}/comment/{event}/edit", edit_comment, "small"
    ),
    route(
        "POST", "/api/{types}/{repo}/discussions/{num}/comment/{event}/hide", hide_comment, "small"
    ),
    route("POST", "/api/{types}/{repo}/discussions/{num}/status", change_status, "small"),
    route("POST", "/api/{types}/{repo}/discussions/{num}/title", rename, "small"),
    route("POST", "/api/{types}/{repo}/discussions/{num}/merge", merge, "small"),
]
