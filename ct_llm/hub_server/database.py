"""SQLite for everything that is not file content: users, tokens, repos, discussions.

One connection behind one lock: queries take microseconds and a process owns its root, so a pool would
add nothing. WAL lets `add_token` write from another process while the server runs.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DATABASE_FILE = "hub.sqlite3"
BUSY_SECONDS = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    name TEXT PRIMARY KEY,
    is_admin INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users(name),
    role TEXT NOT NULL CHECK (role IN ('read', 'write')),
    created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS repos (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    private INTEGER NOT NULL,
    gated TEXT NOT NULL DEFAULT '',
    created_at REAL NOT NULL,
    UNIQUE (type, namespace, name)
);
CREATE TABLE IF NOT EXISTS lfs_links (
    repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE,
    oid TEXT NOT NULL,
    PRIMARY KEY (repo_id, oid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS discussions (
    repo_id TEXT NOT NULL REFERENCES repos(id) ON DELETE CASCADE,
    num INTEGER NOT NULL,
    title TEXT NOT NULL,
    status TEXT NOT NULL,
    is_pull_request INTEGER NOT NULL,
    author TEXT NOT NULL,
    created_at REAL NOT NULL,
    target TEXT,
    base TEXT,
    merge_commit TEXT,
    PRIMARY KEY (repo_id, num)
);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    repo_id TEXT NOT NULL,
    num INTEGER NOT NULL,
    type TEXT NOT NULL,
    author TEXT NOT NULL,
    created_at REAL NOT NULL,
    data TEXT NOT NULL,
    FOREIGN KEY (repo_id, num) REFERENCES discussions(repo_id, num) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS events_by_discussion ON events (repo_id, num);
"""


class Database:
    """The root's SQLite file. Safe to share between threads."""

    def __init__(self, root: Path) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            root / DATABASE_FILE,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode = WAL")
        # FULL: an acknowledged discussion or token survives a power cut, as an acknowledged commit does.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.executescript(_SCHEMA)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, values: Sequence[object] = ()) -> sqlite3.Row | None:
        with self._lock:
            return self._connection.execute(sql, values).fetchone()

    def execute(self, sql: str, values: Sequence[object] = ()) -> int:
        """Run one statement of its own and return how many rows it changed."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements inside, by this thread, are kept together or not at all."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close()
