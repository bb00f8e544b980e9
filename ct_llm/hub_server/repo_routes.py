"""Routes for accounts and for repos as a whole: create, delete, move, settings, info, lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from starlette.responses import Response

from ct_llm.hub_server.auth import require_identity, require_write_token
from ct_llm.hub_server.git_store import HEADS, MAIN, GitStore
from ct_llm.hub_server.model_card import CardError, card_tags, parse_card
from ct_llm.hub_server.repos import RepoRecord
from ct_llm.hub_server.routing import Call, Route, route
from ct_llm.hub_server.snapshot import Entry
from ct_llm.hub_server.wire import (
    WireError,
    bad_request,
    format_time,
    json_response,
    next_link,
    repo_not_found,
)

PAGE_OF_REPOS = 500
README = "README.md"

# What a list shows of each repo unless `full` or `expand` ask for other things.
_SHORT_FIELDS = [
    "author",
    "sha",
    "private",
    "gated",
    "disabled",
    "createdAt",
    "lastModified",
    "downloads",
    "likes",
    "tags",
    "pipeline_tag",
    "library_name",
]
_GATED = {False: "", "auto": "auto", "manual": "manual"}


def whoami(call: Call) -> Response:
    identity = require_identity(call.identity)
    access_token = {"displayName": f"{identity.user} ({identity.role})", "role": identity.role}
    return json_response(
        {
            "type": "user",
            "id": identity.user,
            "name": identity.user,
            "fullname": identity.user,
            "isPro": False,
            "orgs": [],
            "auth": {"type": "access_token", "accessToken": access_token},
        }
    )


def create_repo(call: Call) -> Response:
    identity = require_write_token(call.identity)
    body = call.json()
    namespace, name = body.get("organization") or identity.user, body.get("name")
    if not isinstance(name, str) or not isinstance(namespace, str):
        raise bad_request("'name' (and 'organization', if given) must be strings.")
    repo, is_new = call.hub.repos.create(
        identity,
        str(body.get("type") or "model"),
        namespace,
        name,
        private=_private(body) or False,
    )
    answer: dict[str, Any] = {
        "url": call.endpoint + repo.url_path,
        "name": repo.repo_id,
        "id": repo.id,
    }
    if not is_new:
        # `exist_ok=True` of the client reads `url` from the body of the 409.
        raise WireError(409, f"{repo.type} {repo.repo_id} exists already.", body=answer)
    return json_response(answer)


def delete_repo(call: Call) -> Response:
    identity = require_write_token(call.identity)
    body = call.json()
    repo = _named_repo(
        call, body, f"{body.get('organization') or identity.user}/{body.get('name')}"
    )
    call.hub.repos.delete(repo)
    return json_response({})


def move_repo(call: Call) -> Response:
    identity = require_write_token(call.identity)
    body = call.json()
    target = str(body.get("toRepo")).split("/")
    if len(target) != 2:
        raise bad_request("'toRepo' must be 'namespace/name'.")
    repo = _named_repo(call, body, str(body.get("fromRepo")))
    call.hub.repos.move(identity, repo, *target)
    return json_response({"url": f"{call.endpoint}/{body['toRepo']}"})


def update_settings(call: Call) -> Response:
    repo = call.repo("write")
    body = call.json()
    gated = body.get("gated")
    # `gated in _GATED` would also accept 0, which equals False.
    if gated is not None and gated is not False and gated not in ("auto", "manual"):
        raise bad_request(f"'gated' must be false, 'auto' or 'manual', not {gated!r}.")
    private = _private(body)
    call.hub.repos.update_settings(
        repo, private=private, gated=None if gated is None else _GATED[gated]
    )
    return json_response({"private": repo.private if private is None else private})


def auth_check(call: Call) -> Response:
    call.repo("read")
    return json_response({})


def auth_check_write(call: Call) -> Response:
    call.repo("write")
    return json_response({})


def repo_info(call: Call) -> Response:
    repo, store = call.repo_and_store("see")
    commit = store.resolve(call.params.get("rev", MAIN))
    seen = _RepoAt(repo, store, commit)
    expand = call.every("expand")
    if expand:
        return json_response(seen.info(expand))
    info = seen.info(_FIELDS)
    if call.flag("blobs"):
        info["siblings"] = [_sibling_with_size(entry) for entry in seen.files]
    return json_response(info)


def list_repos(call: Call) -> Response:
    kind = call.params["types"].removesuffix("s")
    filters = call.every("filter") + [
        value for key in ("pipeline_tag", "library") for value in call.every(key)
    ]
    limit = call.number("limit", PAGE_OF_REPOS, PAGE_OF_REPOS)
    start = call.number("cursor", 1, 10**9) - 1
    search = (call.first("search") or "").lower()
    author, expand = call.first("author"), call.every("expand")
    found = []
    for repo in call.hub.repos.visible(kind, call.identity):
        if (author and repo.namespace != author) or search not in repo.repo_id.lower():
            continue
        store = call.hub.repos.store(repo)
        commit = store.branch_tip(HEADS + MAIN)
        if commit is None:
            continue
        seen = _RepoAt(repo, store, commit)
        if not filters or all(tag in card_tags(seen.card) for tag in filters):
            found.append(seen)
    sort = call.first("sort")
    if sort in ("lastModified", "createdAt", "likes", "downloads", "id"):
        # The client only ever asks for descending order, so it does not send a direction.
        found.sort(key=lambda seen: seen.info([sort])[sort], reverse=call.first("direction") != "1")
    headers = {}
    if start + limit < len(found):
        cursor = str(start + limit + 1)
        headers["Link"] = next_link(call.endpoint, call.path, call.query, cursor)
    fields = [*_SHORT_FIELDS, "cardData"] if call.flag("cardData") else _SHORT_FIELDS
    fields = expand or (_FIELDS if call.flag("full") else fields)
    return json_response(
        [seen.info(fields) for seen in found[start : start + limit]], headers=headers
    )


def validate_yaml(call: Call) -> Response:
    content = call.json().get("content")
    if not isinstance(content, str):
        raise bad_request("'content' must be the text of a README.md.")
    try:
        parse_card(content)
    except CardError as error:
        raise WireError(
            400, str(error), body={"errors": [{"message": str(error)}], "warnings": []}
        ) from error
    return json_response({"errors": [], "warnings": []})


def agent_harnesses(call: Call) -> Response:
    """How the client would know an agent that runs it: not at all, this server wants no telemetry.

    The client asks once a day, but without an answer in every process.
    """
    return json_response({"standardEnvVars": [], "harnesses": {}})


def _named_repo(call: Call, body: dict[str, Any], repo_id: str) -> RepoRecord:
    namespace, slash, name = repo_id.partition("/")
    if not slash or "/" in name:
        raise repo_not_found(repo_id)
    kind = str(body.get("type") or "model")
    return call.hub.repos.find(kind, namespace, name, call.identity, "write")


def _private(body: dict[str, Any]) -> bool | None:
    """The wanted visibility, or None when the body does not say."""
    visibility = body.get("visibility")
    if visibility is None:
        private = body.get("private")
        if private is not None and not isinstance(private, bool):
            raise bad_request("'private' must be true or false.")
        return private
    if visibility not in ("public", "private"):
        raise bad_request(f"'visibility' must be 'public' or 'private', not {visibility!r}.")
    return visibility == "private"


@dataclass(frozen=True)
class _RepoAt:
    """A repo at a commit. Nothing is read before somebody asks for it."""

    repo: RepoRecord
    store: GitStore
    commit: str

    @cached_property
    def card(self) -> dict[str, Any]:
        return _card(self.store, self.store.entry(self.commit, README))

    @property
    def files(self) -> Iterable[Entry]:
        return self.store.snapshot(self.commit).files().values()

    def info(self, fields: Iterable[str]) -> dict[str, Any]:
        """The named fields as `model_info` and `dataset_info` read them, and the repo's ids.

        What is asked for alone costs what it costs alone: the newest commit of a repo of 10,000 files
        is told without listing them.
        """
        ids = {"_id": self.repo.id, "id": self.repo.repo_id}
        if self.repo.type == "model":
            ids["modelId"] = self.repo.repo_id
        found = {field: _FIELDS[field](self) for field in fields if field in _FIELDS}
        return ids | {field: value for field, value in found.items() if value is not None}

    def card_text(self, key: str) -> str | None:
        """An entry of a model's card that the Hub shows as a field of its own."""
        value = self.card.get(key)
        return value if self.repo.type == "model" and isinstance(value, str) else None


_FIELDS: dict[str, Callable[[_RepoAt], Any]] = {
    "author": lambda seen: seen.repo.namespace,
    "sha": lambda seen: seen.commit,
    "private": lambda seen: seen.repo.private,
    "gated": lambda seen: seen.repo.gated or False,
    "disabled": lambda seen: False,
    "createdAt": lambda seen: format_time(seen.repo.created_at),
    "lastModified": lambda seen: format_time(seen.store.commit(seen.commit).time),
    "downloads": lambda seen: 0,
    "likes": lambda seen: 0,
    "tags": lambda seen: card_tags(seen.card),
    "cardData": lambda seen: seen.card,
    "siblings": lambda seen: [{"rfilename": entry.path} for entry in seen.files],
    "library_name": lambda seen: seen.card_text("library_name"),
    "pipeline_tag": lambda seen: seen.card_text("pipeline_tag"),
}


def _card(store: GitStore, readme: Entry | None) -> dict[str, Any]:
    if readme is None or readme.blob is None or readme.blob.lfs is not None:
        return {}
    try:
        return parse_card(store.read_blob(readme.oid).decode("utf-8", "replace"))
    except CardError:
        # A card that cannot be read must not make its repo unreachable.
        return {}


def _sibling_with_size(entry: Entry) -> dict[str, Any]:
    sibling: dict[str, Any] = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
    if entry.blob is not None and entry.blob.lfs is not None:
        sibling["lfs"] = {
            "sha256": entry.blob.lfs.sha256,
            "size": entry.blob.lfs.size,
            "pointerSize": entry.blob.size,
        }
    return sibling


ROUTES: list[Route] = [
    route("GET", "/api/whoami-v2", whoami),
    route("POST", "/api/repos/create", create_repo, "small"),
    route("DELETE", "/api/repos/delete", delete_repo, "small"),
    route("POST", "/api/repos/move", move_repo, "small"),
    route("POST", "/api/validate-yaml", validate_yaml, "small"),
    route("GET", "/api/agent-harnesses", agent_harnesses),
    route("GET", "/api/{types}", list_repos),
    route("GET", "/api/{types}/{repo}", repo_info),
    route("GET", "/api/{types}/{repo}/revision/{rev}", repo_info),
    route("PUT", "/api/{types}/{repo}/settings", update_settings, "small"),
    route("GET", "/api/{types}/{repo}/auth-check", auth_check),
    route("GET", "/api/{types}/{repo}/auth-check/write", auth_check_write),
]
