"""The repos of a root: creation, deletion, renaming, settings, and who may do what.

A repo's folder is named by a random id, so renaming is one row in the database, and a folder without a
row is the rest of a creation or deletion that was killed.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dulwich.objects import Blob

from ct_llm.hub_server.auth import (
    Identity,
    is_valid_namespace,
    require_write_token,
)
from ct_llm.hub_server.database import Database
from ct_llm.hub_server.git_store import HEADS, MAIN, GitStore
from ct_llm.hub_server.snapshot import FILE_MODE
from ct_llm.hub_server.tree_editor import TreeEditor
from ct_llm.hub_server.upload_mode import GITATTRIBUTES
from ct_llm.hub_server.wire import WireError, bad_request, conflict, forbidden, repo_not_found

REPO_TYPES = ("model", "dataset")
_REPO_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_-])?")

Need = Literal["see", "read", "contribute", "write"]
"""see: metadata. read: file content. contribute: discussions, pull requests and the uploads for them.
write: everything else."""


@dataclass(frozen=True)
class RepoRecord:
    """A repo's row."""

    id: str
    type: str
    namespace: str
    name: str
    private: bool
    gated: str
    """'' (not gated), 'auto' or 'manual'."""
    created_at: float

    @property
    def repo_id(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def url_path(self) -> str:
        """The path of the repo's page: files, commits and discussions lie below it."""
        prefix = "" if self.type == "model" else f"{self.type}s/"
        return f"/{prefix}{self.repo_id}"


class Repos:
    """Finds and changes repos. One instance per server."""

    def __init__(self, root: Path, database: Database) -> None:
        self._folder = root / "repos"
        self._database = database
        self._stores: dict[str, GitStore] = {}
        self._lock = threading.Lock()
        self._folder.mkdir(exist_ok=True)
        known = {row["id"] for row in database.rows("SELECT id FROM repos")}
        for path in self._folder.iterdir():
            if path.name.removesuffix(".git") not in known:
                shutil.rmtree(path)

    def store(self, repo: RepoRecord) -> GitStore:
        """The repo's git store, opened at first use."""
        with self._lock:
            store = self._stores.get(repo.id)
            if store is None:
                store = self._stores[repo.id] = GitStore(self._path(repo.id))
            return store

    def close(self) -> None:
        """Let go of what is open; no request is under way any more."""
        for store in self._stores.values():
            store.close()

    def find(
        self, repo_type: str, namespace: str, name: str, identity: Identity | None, need: Need
    ) -> RepoRecord:
        """The repo, if this identity may do what it needs.

        Raises:
            WireError: 404 RepoNotFound when there is none or it must stay unseen, 401 without the
                token that the need takes, 403 when the token is not enough.
        """
        repo = self._lookup(repo_type, namespace, name)
        owns = identity is not None and identity.owns(namespace)
        if repo is None or (repo.private and not owns):
            raise repo_not_found(f"{namespace}/{name}")
        if need == "read" and repo.gated and not owns:
            raise WireError(
                403, f"Access to {repo.repo_id} is restricted to its owner.", code="GatedRepo"
            )
        if need in ("contribute", "write"):
            writer = require_write_token(identity)
            if need == "write":
                _require_namespace(writer, namespace)
        return repo

    def get(self, repo_id: str) -> RepoRecord:
        """The repo with this internal id, which only signed links carry."""
        row = self._database.row("SELECT * FROM repos WHERE id = ?", (repo_id,))
        if row is None:
            raise repo_not_found(repo_id)
        return _record(row)

    def visible(self, repo_type: str, identity: Identity | None) -> list[RepoRecord]:
        """All repos of a type that this identity may see, newest first."""
        rows = self._database.rows(
            "SELECT * FROM repos WHERE type = ? ORDER BY created_at DESC, id", (repo_type,)
        )
        records = [_record(row) for row in rows]
        return [
            repo
            for repo in records
            if not repo.private or (identity is not None and identity.owns(repo.namespace))
        ]

    def create(
        self, identity: Identity, repo_type: str, namespace: str, name: str, *, private: bool
    ) -> tuple[RepoRecord, bool]:
        """The repo with its initial commit, and whether it is new.

        Raises:
            WireError: 400 for an unusable type or name, 403 for another's namespace.
        """
        _check_repo_id(repo_type, namespace, name)
        _require_namespace(identity, namespace)
        existing = self._lookup(repo_type, namespace, name)
        if existing is not None:
            return existing, False
        repo = RepoRecord(uuid.uuid4().hex, repo_type, namespace, name, private, "", time.time())
        store = GitStore.create(self._path(repo.id))
        _initial_commit(store)
        try:
            # The row comes last: a kill before it leaves only a folder that the next start removes.
            self._database.execute(
                "INSERT INTO repos (id, type, namespace, name, private, gated, created_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (repo.id, repo.type, repo.namespace, repo.name, private, "", repo.created_at),
            )
        except sqlite3.IntegrityError:
            # Somebody else created it meanwhile.
            shutil.rmtree(store.path)
            winner = self._lookup(repo_type, namespace, name)
            if winner is None:
                raise
            return winner, False
        with self._lock:
            self._stores[repo.id] = store
        return repo, True

    def delete(self, repo: RepoRecord) -> None:
        """Remove a repo with its history and discussions."""
        # Under the store's lock no commit is half written when its folder goes.
        store = self.store(repo)
        with store.lock:
            if self._database.execute("DELETE FROM repos WHERE id = ?", (repo.id,)) == 0:
                raise repo_not_found(repo.repo_id)
            with self._lock:
                self._stores.pop(repo.id, None)
            store.close()
            shutil.rmtree(self._path(repo.id))

    def move(self, identity: Identity, repo: RepoRecord, namespace: str, name: str) -> None:
        """Rename a repo or hand it to another namespace.

        Raises:
            WireError: 400 for an unusable name, 403 for another's namespace, 409 when it is taken.
        """
        _check_repo_id(repo.type, namespace, name)
        _require_namespace(identity, namespace)
        try:
            self._database.execute(
                "UPDATE repos SET namespace = ?, name = ? WHERE id = ?", (namespace, name, repo.id)
            )
        except sqlite3.IntegrityError as error:
            raise conflict(f"{repo.type} {namespace}/{name} exists already.") from error

    def update_settings(self, repo: RepoRecord, *, private: bool | None, gated: str | None) -> None:
        """Change what is not None."""
        self._database.execute(
            "UPDATE repos SET private = coalesce(?, private), gated = coalesce(?, gated)"
            " WHERE id = ?",
            (private, gated, repo.id),
        )

    def _lookup(self, repo_type: str, namespace: str, name: str) -> RepoRecord | None:
        row = self._database.row(
            "SELECT * FROM repos WHERE type = ? AND namespace = ? AND name = ?",
            (repo_type, namespace, name),
        )
        return None if row is None else _record(row)

    def _path(self, repo_id: str) -> Path:
        return self._folder / f"{repo_id}.git"


def _record(row: sqlite3.Row) -> RepoRecord:
    return RepoRecord(
        id=row["id"],
        type=row["type"],
        namespace=row["namespace"],
        name=row["name"],
        private=bool(row["private"]),
        gated=row["gated"],
        created_at=row["created_at"],
    )


def _check_repo_id(repo_type: str, namespace: str, name: str) -> None:
    if repo_type not in REPO_TYPES:
        raise bad_request(f"Repo type '{repo_type}' is not served here; use {REPO_TYPES}.")
    if not is_valid_namespace(namespace):
        raise bad_request(f"'{namespace}' is not usable as a namespace.")
    if not _REPO_NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise bad_request(f"'{name}' is not usable as a repo name.")


def _require_namespace(identity: Identity, namespace: str) -> None:
    if not identity.owns(namespace):
        raise forbidden(f"User '{identity.user}' has no write access to namespace '{namespace}'.")


def _initial_commit(store: GitStore) -> None:
    attributes = Blob.from_string(GITATTRIBUTES.encode())
    editor = TreeEditor(store.tree_entries, None)
    editor.put(".gitattributes", FILE_MODE, attributes.id.decode())
    tree, trees = editor.write()
    commit = store.new_commit(tree, None, "system", "initial commit", "")
    store.store([attributes, *trees, commit])
    store.move_ref(HEADS + MAIN, None, commit.id.decode())
