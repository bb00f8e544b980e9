"""The content-addressed store of large files, shared by all repos of a root.

An object appears under its sha256 only after every byte was checked and is on disk. Sharing saves space
without leaking: `lfs_links` records which repo has proven to hold an object, by uploading it, and only
such a repo may commit or serve it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from ct_llm.hub_server.database import Database
from ct_llm.hub_server.durable import folders_up_to, fsync_all
from ct_llm.hub_server.wire import WireError, bad_request

OID = re.compile(r"[0-9a-f]{64}")


class LfsStore:
    """Objects in ROOT/lfs/objects, uploads under way in ROOT/lfs/incoming."""

    def __init__(self, root: Path, database: Database) -> None:
        self._objects = root / "lfs" / "objects"
        self._incoming = root / "lfs" / "incoming"
        self._database = database
        self._objects.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(parents=True, exist_ok=True)
        for unfinished in self._incoming.iterdir():
            unfinished.unlink()

    def path(self, oid: str) -> Path:
        return self._objects / oid[:2] / oid[2:4] / oid

    def size(self, oid: str) -> int | None:
        """The stored object's size, or None when it is not here."""
        path = self.path(oid)
        return path.stat().st_size if path.exists() else None

    def is_linked(self, repo_id: str, oid: str) -> bool:
        """Whether this repo may use the object."""
        sql = "SELECT 1 FROM lfs_links WHERE repo_id = ? AND oid = ?"
        return self._database.row(sql, (repo_id, oid)) is not None

    def link(self, repo_id: str, oid: str) -> None:
        self._database.execute(
            "INSERT INTO lfs_links (repo_id, oid) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (repo_id, oid),
        )

    def begin_upload(self, oid: str, size: int) -> LfsUpload:
        return LfsUpload(self._incoming, self.path(oid), oid, size)


class LfsUpload:
    """One object on its way in: `write` blocks, then `finish`; or `abort`."""

    def __init__(self, incoming: Path, target: Path, oid: str, size: int) -> None:
        descriptor, name = tempfile.mkstemp(dir=incoming)
        self._file = os.fdopen(descriptor, "wb")
        self._temporary = Path(name)
        self._target = target
        self._oid = oid
        self._size = size
        self._received = 0
        self._digest = hashlib.sha256()

    def write(self, block: bytes) -> None:
        """Raises 413 as soon as more arrives than was announced, so a disk cannot be filled."""
        self._received += len(block)
        if self._received > self._size:
            raise WireError(413, f"More than the announced {self._size} bytes were sent.")
        self._digest.update(block)
        self._file.write(block)

    def finish(self) -> None:
        """Check size and sha256, then make the object visible.

        Raises:
            WireError: 400 when the bytes are not those that were announced.
        """
        if self._received != self._size or self._digest.hexdigest() != self._oid:
            raise bad_request(
                f"Upload refused: {self._received} bytes with sha256 {self._digest.hexdigest()} "
                f"arrived, {self._size} bytes with sha256 {self._oid} were announced."
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(self._target)
        # The new names must be on disk before a commit refers to them: folder by folder upwards.
        fsync_all(folders_up_to(self._target.parent, self._target.parents[2]))

    def abort(self) -> None:
        """Drop what has arrived; harmless after `finish`."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)
