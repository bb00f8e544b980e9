"""Commits: the ndjson payload read and checked, then applied to one ref in one step."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dulwich.objects import Blob

from ct_llm.hub_server.git_store import HEADS, PULLS, GitStore
from ct_llm.hub_server.lfs_store import OID, LfsStore
from ct_llm.hub_server.repos import RepoRecord
from ct_llm.hub_server.snapshot import (
    FILE_MODE,
    LfsPointer,
    format_pointer,
    parse_pointer,
    path_problem,
)
from ct_llm.hub_server.tree_editor import PathConflict, TreeEditor
from ct_llm.hub_server.wire import (
    WireError,
    bad_request,
    conflict,
    entry_not_found,
    revision_not_found,
)


@dataclass(frozen=True)
class Put:
    """Add or replace a file."""

    path: str
    blob: Blob


@dataclass(frozen=True)
class PutLfs:
    """Add or replace a large file that was uploaded before; without a size it is a copy."""

    path: str
    oid: str
    size: int | None


@dataclass(frozen=True)
class Remove:
    """Delete a file or a folder."""

    path: str
    folder: bool


Change = Put | PutLfs | Remove


@dataclass(frozen=True)
class CommitRequest:
    """A commit that somebody asks for."""

    title: str
    message: str
    parent: str | None
    changes: tuple[Change, ...]


def parse_commit(lines: Iterable[bytes]) -> CommitRequest:
    """Read the ndjson body of a commit call.

    Raises:
        WireError: 400 for anything malformed and for paths that no commit may hold.
    """
    header: dict[str, Any] | None = None
    changes: list[Change] = []
    for line in lines:
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = dict(value)
            else:
                changes.append(_parse_change(key, value))
        except (ValueError, KeyError, TypeError) as error:
            raise bad_request(f"Commit payload is malformed: {error!r}.") from error
    if header is None or not isinstance(header.get("summary"), str) or not header["summary"]:
        raise bad_request("Commit payload has no header line with a summary.")
    parent = header.get("parentCommit")
    if parent is not None and not isinstance(parent, str):
        raise bad_request("parentCommit must be a commit id.")
    message = header.get("description")
    return CommitRequest(
        title=header["summary"],
        message=message if isinstance(message, str) else "",
        parent=parent,
        changes=tuple(changes),
    )


def checked_write_ref(revision: str) -> str:
    """The full ref that a commit to `revision` moves: a branch or a pull request.

    Raises:
        WireError: 400 for tags and other refs; a tag would not be one if a commit moved it.
    """
    if revision.startswith((HEADS, PULLS)):
        return revision
    if revision.startswith("refs/"):
        raise bad_request(f"Commits go to a branch or to refs/pr/N, not to '{revision}'.")
    return HEADS + revision


def apply_commit(
    store: GitStore,
    lfs: LfsStore,
    repo: RepoRecord,
    request: CommitRequest,
    *,
    ref: str,
    author: str,
) -> str:
    """Put the request's changes on top of a ref and return the new commit.

    Raises:
        WireError: 404 when the ref or a deleted path does not exist, 412 when `parent` is not the
            tip, 400 for changes that cannot be made.
    """
    with store.lock:
        tip = store.branch_tip(ref)
        if tip is None:
            raise revision_not_found(ref)
        if request.parent is not None and store.resolve(request.parent) != tip:
            raise WireError(
                412, f"A commit has happened since: the tip is {tip}, not {request.parent}."
            )
        commit = write_commit(store, lfs, repo, request, base=tip, author=author)
        if not store.move_ref(ref, tip, commit):
            raise conflict(f"{ref} moved while the commit was written; try again.")
    return commit


def write_commit(
    store: GitStore,
    lfs: LfsStore,
    repo: RepoRecord,
    request: CommitRequest,
    *,
    base: str,
    author: str,
) -> str:
    """Store a commit whose parent is `base`, without moving any ref."""
    editor = TreeEditor(store.tree_entries, store.commit(base).tree)
    blobs: list[Blob] = []
    for change in request.changes:
        if isinstance(change, Remove):
            if not editor.remove(change.path, folder=change.folder):
                error = entry_not_found(change.path, base)
                kind = "folder" if change.folder else "file"
                # The client's users match on this sentence.
                error.message = f"A {kind} with this name doesn't exist: {change.path}"
                raise error
            continue
        blob = _checked_lfs_blob(lfs, repo, change) if isinstance(change, PutLfs) else change.blob
        if isinstance(change, Put):
            _refuse_foreign_pointer(lfs, repo, change)
        try:
            editor.put(change.path, FILE_MODE, blob.id.decode())
        except PathConflict as error:
            raise bad_request(f"Cannot commit '{change.path}': {error}.") from error
        blobs.append(blob)
    tree, trees = editor.write()
    commit = store.new_commit(tree, base, author, request.title, request.message)
    store.store([*blobs, *trees, commit])
    return commit.id.decode()


def _parse_change(key: str, value: dict[str, Any]) -> Change:
    path = value["path"]
    if not isinstance(path, str):
        raise bad_request("A path must be a string.")
    if key == "deletedFolder":
        # The client writes folders with a trailing slash.
        path = path.rstrip("/")
    problem = path_problem(path)
    if problem is not None:
        raise bad_request(f"Path {path!r} {problem}.")
    if key == "file":
        if value.get("encoding", "base64") != "base64":
            raise bad_request(f"Encoding of '{path}' must be base64.")
        try:
            content = base64.b64decode(value["content"], validate=True)
        except binascii.Error as error:
            raise bad_request(f"Content of '{path}' is not base64.") from error
        return Put(path, Blob.from_string(content))
    if key == "lfsFile":
        oid, size = value["oid"], value.get("size")
        if value.get("algo", "sha256") != "sha256" or not OID.fullmatch(oid):
            raise bad_request(f"'{path}' needs a sha256 oid.")
        return PutLfs(path, oid, None if size is None else int(size))
    if key in ("deletedFile", "deletedFolder"):
        return Remove(path, folder=key == "deletedFolder")
    raise bad_request(f"Operation '{key}' is not known.")


def _checked_lfs_blob(lfs: LfsStore, repo: RepoRecord, change: PutLfs) -> Blob:
    size = lfs.size(change.oid)
    if size is None or not lfs.is_linked(repo.id, change.oid):
        raise bad_request(f"LFS object {change.oid} of '{change.path}' was not uploaded here.")
    if change.size is not None and change.size != size:
        raise bad_request(f"'{change.path}' has {size} bytes, not {change.size}.")
    return Blob.from_string(format_pointer(LfsPointer(change.oid, size)))


def _refuse_foreign_pointer(lfs: LfsStore, repo: RepoRecord, change: Put) -> None:
    # A pointer typed by hand would otherwise serve another repo's private file from this one.
    pointer = parse_pointer(change.blob.as_raw_string())
    if pointer is None:
        return
    if lfs.size(pointer.sha256) != pointer.size or not lfs.is_linked(repo.id, pointer.sha256):
        raise bad_request(f"'{change.path}' is a pointer to an LFS object not uploaded here.")
