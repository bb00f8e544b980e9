"""Routes of an upload: preupload, LFS batch, the bytes, verify, and the commit that names them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from dulwich.ignore import IgnoreFilter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from ct_llm.hub_server.auth import require_write_token
from ct_llm.hub_server.commits import (
    CommitRequest,
    apply_commit,
    checked_write_ref,
    parse_commit,
    write_commit,
)
from ct_llm.hub_server.git_store import (
    PULLS,
    GitStore,
)
from ct_llm.hub_server.lfs_store import OID
from ct_llm.hub_server.repos import RepoRecord
from ct_llm.hub_server.routing import Call, Hub, Route, route, stream_route
from ct_llm.hub_server.snapshot import Entry
from ct_llm.hub_server.upload_mode import upload_mode
from ct_llm.hub_server.wire import (
    WireError,
    bad_request,
    conflict,
    forbidden,
    json_response,
    revision_not_found,
)

MAX_LFS_OBJECT = 64 * 2**30
MAX_BATCH = 1000
# Blocks of this size cross to a worker thread; one hop a network chunk would cost more than the disk.
UPLOAD_BLOCK = 4 * 2**20


def preupload(call: Call) -> Response:
    """Tell the client for each file how to send it, and whether it is there already."""
    _, store = call.repo_and_store("contribute")
    body = call.json()
    commit = store.resolve(call.params["rev"])
    ignored = _ignore_filter(store, store.entry(commit, ".gitignore"), body.get("gitIgnore"))
    answers: list[dict[str, Any]] = []
    try:
        for file in body["files"]:
            path, size = str(file["path"]), int(file["size"])
            sample = base64.b64decode(file.get("sample") or "", validate=True)
            answer: dict[str, Any] = {
                "path": path,
                "uploadMode": upload_mode(path, size, sample),
                "shouldIgnore": ignored is not None and _is_ignored(ignored, path),
            }
            entry = store.entry(commit, path)
            if entry is not None and not entry.is_folder:
                answer["oid"] = entry.content_id
            answers.append(answer)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise bad_request(f"Preupload payload is malformed: {error!r}.") from error
    return json_response({"files": answers})


def lfs_batch(call: Call) -> Response:
    """Hand out one signed upload link per object that this repo does not hold yet."""
    repo = call.repo("contribute")
    body = call.json()
    if body.get("operation") != "upload":
        raise bad_request("Only uploads go through the LFS batch call here; download by resolve.")
    objects = body.get("objects")
    if not isinstance(objects, list) or len(objects) > MAX_BATCH:
        raise bad_request(f"'objects' must be a list of at most {MAX_BATCH}.")
    return json_response(
        {"transfer": "basic", "objects": [_batch_answer(call, repo, item) for item in objects]}
    )


async def lfs_upload(hub: Hub, params: dict[str, str], request: Request) -> Response:
    """Receive one object. The signed link stands in for a token."""
    oid = params["oid"]
    if not OID.fullmatch(oid):
        raise bad_request("An LFS object is named by its sha256.")
    repo_id, size = hub.signer.check(oid, dict(request.query_params))
    announced = request.headers.get("content-length")
    if announced is not None and announced != str(size):
        raise bad_request(f"The link is for {size} bytes, not for {announced}.")
    repo = await run_in_threadpool(hub.repos.get, repo_id)
    upload = await run_in_threadpool(hub.lfs.begin_upload, oid, size)
    try:
        block = bytearray()
        async for chunk in request.stream():
            block += chunk
            if len(block) >= UPLOAD_BLOCK:
                await run_in_threadpool(upload.write, bytes(block))
                block.clear()
        await run_in_threadpool(upload.write, bytes(block))
        await run_in_threadpool(upload.finish)
    finally:
        upload.abort()
    await run_in_threadpool(hub.lfs.link, repo.id, oid)
    return Response(status_code=200)


def lfs_verify(call: Call) -> Response:
    repo = call.repo("contribute")
    body = call.json()
    oid, size = body.get("oid"), body.get("size")
    if not isinstance(oid, str) or not OID.fullmatch(oid):
        raise bad_request("'oid' must be a sha256.")
    if not call.hub.lfs.is_linked(repo.id, oid) or call.hub.lfs.size(oid) != size:
        raise WireError(404, f"LFS object {oid} with {size} bytes is not here.")
    return json_response({})


def create_commit(call: Call) -> Response:
    create_pr = call.flag("create_pr")
    revision = call.params["rev"]
    to_pull_request = revision.startswith(PULLS)
    repo, store = call.repo_and_store("contribute" if create_pr or to_pull_request else "write")
    request = parse_commit(call.body)
    ref = checked_write_ref(revision)
    if create_pr:
        return _commit_to_new_pull_request(call, repo, store, request, ref)
    if to_pull_request:
        _check_pull_request(call, repo, revision)
    author = require_write_token(call.identity).user
    commit = apply_commit(store, call.hub.lfs, repo, request, ref=ref, author=author)
    return json_response(_commit_answer(call, repo, commit))


def _commit_to_new_pull_request(
    call: Call, repo: RepoRecord, store: GitStore, request: CommitRequest, target: str
) -> Response:
    author = require_write_token(call.identity).user
    with store.lock:
        tip = store.branch_tip(target)
        if tip is None:
            raise revision_not_found(target)
        # With a parent the pull request is made from there, as the client's documentation says.
        base = tip if request.parent is None else store.resolve(request.parent)
        commit = write_commit(store, call.hub.lfs, repo, request, base=base, author=author)
        discussion = call.hub.discussions.open_pull_request(
            repo,
            store,
            author,
            request.title,
            request.message,
            target=target,
            base=base,
            head=commit,
            status="open",
        )
    answer = _commit_answer(call, repo, commit)
    answer["pullRequestUrl"] = f"{call.endpoint}{repo.url_path}/discussions/{discussion.num}"
    return json_response(answer)


def _check_pull_request(call: Call, repo: RepoRecord, ref: str) -> None:
    """Raises 403 or 409 unless the caller may add a commit to this pull request."""
    number = ref.removeprefix(PULLS)
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        raise revision_not_found(ref)
    discussion = call.hub.discussions.get(repo, int(number))
    identity = require_write_token(call.identity)
    if not (identity.owns(repo.namespace) or identity.user == discussion.author):
        raise forbidden(f"Only its author and the repo's owner may commit to {ref}.")
    if not discussion.is_open:
        raise conflict(f"Pull request {discussion.num} is {discussion.status}.")


def _commit_answer(call: Call, repo: RepoRecord, commit: str) -> dict[str, Any]:
    return {
        "success": True,
        "commitOid": commit,
        "commitUrl": f"{call.endpoint}{repo.url_path}/commit/{commit}",
        "hookOutput": "",
    }


def _batch_answer(call: Call, repo: RepoRecord, item: object) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise bad_request("Each of 'objects' must be an object with 'oid' and 'size'.")
    oid, size = item.get("oid"), item.get("size")
    if not isinstance(oid, str) or not OID.fullmatch(oid) or not isinstance(size, int) or size < 0:
        raise bad_request("Each of 'objects' needs a sha256 'oid' and a 'size'.")
    answer: dict[str, Any] = {"oid": oid, "size": size}
    if size > MAX_LFS_OBJECT:
        message = f"Objects above {MAX_LFS_OBJECT} bytes are refused."
        answer["error"] = {"code": 422, "message": message}
    elif call.hub.lfs.size(oid) != size or not call.hub.lfs.is_linked(repo.id, oid):
        link = call.hub.signer.sign(repo.id, oid, size)
        verify = f"{call.endpoint}{repo.url_path}.git/info/lfs/objects/verify"
        answer["actions"] = {
            "upload": {"href": f"{call.endpoint}/lfs/{oid}?{link}", "header": {}},
            "verify": {"href": verify},
        }
    return answer


def _ignore_filter(store: GitStore, hosted: Entry | None, given: object) -> IgnoreFilter | None:
    """The client's .gitignore if it sends one, else the one in the repo."""
    if isinstance(given, str):
        lines = given.encode("utf-8", "replace").splitlines()
    elif hosted is not None and hosted.blob is not None and hosted.blob.lfs is None:
        lines = store.read_blob(hosted.oid).splitlines()
    else:
        return None
    return IgnoreFilter(line for line in lines if line.strip() and not line.startswith(b"#"))


def _is_ignored(ignored: IgnoreFilter, path: str) -> bool:
    parts = path.split("/")
    folders = ("/".join(parts[:depth]) + "/" for depth in range(1, len(parts)))
    return any(ignored.is_ignored(name) for name in (*folders, path))


ROUTES: list[Route] = [
    route("POST", "/api/{types}/{repo}/preupload/{rev}", preupload, "small"),
    route("POST", "/api/{types}/{repo}/commit/{rev}", create_commit, "commit"),
    route("POST", "/{prefix}{repo}.git/info/lfs/objects/batch", lfs_batch, "small"),
    route("POST", "/{prefix}{repo}.git/info/lfs/objects/verify", lfs_verify, "small"),
    stream_route("PUT", "/lfs/{oid}", lfs_upload),
]
