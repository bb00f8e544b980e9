"""The files of one commit, with sizes and LFS details, and the paths a commit may hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FILE_MODE = 0o100644
FOLDER_MODE = 0o040000
MAX_PATH_LENGTH = 1024
MAX_POINTER_SIZE = 1024

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]{1,18})\n"
)


@dataclass(frozen=True)
class LfsPointer:
    """What a git blob says about a large file that lies in the LFS store."""

    sha256: str
    size: int


@dataclass(frozen=True)
class BlobInfo:
    """A blob's size in git and, for a large file, its pointer."""

    size: int
    lfs: LfsPointer | None


@dataclass(frozen=True)
class Entry:
    """One file or folder of a commit."""

    path: str
    mode: int
    oid: str
    blob: BlobInfo | None
    """None for a folder."""

    @property
    def is_folder(self) -> bool:
        return self.blob is None

    @property
    def size(self) -> int:
        """The content's size, not the pointer's; 0 for a folder."""
        if self.blob is None:
            return 0
        return self.blob.size if self.blob.lfs is None else self.blob.lfs.size

    @property
    def content_id(self) -> str:
        """What the client compares with its local file: sha256 of a large file, git's sha1 else."""
        if self.blob is not None and self.blob.lfs is not None:
            return self.blob.lfs.sha256
        return self.oid

    def to_wire(self) -> dict[str, Any]:
        """As `list_repo_tree` and `get_paths_info` expect it."""
        kind = "directory" if self.is_folder else "file"
        wire: dict[str, Any] = {"type": kind, "path": self.path, "oid": self.oid, "size": self.size}
        if self.blob is not None and self.blob.lfs is not None:
            wire["lfs"] = {
                "oid": self.blob.lfs.sha256,
                "size": self.blob.lfs.size,
                "pointerSize": self.blob.size,
            }
        return wire


class Snapshot:
    """All entries of one commit. Immutable, so one instance serves many requests."""

    def __init__(self, folders: dict[str, tuple[Entry, ...]]) -> None:
        """`folders` maps each folder's path ("" for the root) to its direct entries."""
        self._folders = folders
        self.entries = {entry.path: entry for inside in folders.values() for entry in inside}
        self._below: dict[str, tuple[Entry, ...]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def has_folder(self, path: str) -> bool:
        return path in self._folders

    def children(self, path: str) -> tuple[Entry, ...]:
        return self._folders[path]

    def below(self, path: str = "") -> tuple[Entry, ...]:
        """Everything below a folder, each folder before its content."""
        # Kept, as a listing comes back for each of its pages.
        if path not in self._below:
            self._below[path] = tuple(self._walk(path))
        return self._below[path]

    def files(self) -> dict[str, Entry]:
        return {entry.path: entry for entry in self.below() if not entry.is_folder}

    def _walk(self, path: str) -> Iterator[Entry]:
        for entry in self._folders[path]:
            yield entry
            if entry.is_folder:
                yield from self._walk(entry.path)


def parse_pointer(content: bytes) -> LfsPointer | None:
    """The pointer that a blob holds, or None for ordinary content."""
    if len(content) > MAX_POINTER_SIZE:
        return None
    match = _POINTER.fullmatch(content)
    return None if match is None else LfsPointer(match[1].decode(), int(match[2]))


def format_pointer(pointer: LfsPointer) -> bytes:
    return (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{pointer.sha256}\nsize {pointer.size}\n"
    ).encode()


def path_problem(path: str) -> str | None:
    """Why a commit must not hold this path, or None when it may.

    A clone or a snapshot download writes these paths to somebody's disk, so nothing that could leave
    the folder or reach into `.git` (also as a case-insensitive or Windows disk spells it) is accepted.
    """
    if not path or len(path) > MAX_PATH_LENGTH:
        return f"must have 1 to {MAX_PATH_LENGTH} characters"
    if path.startswith("/") or "\\" in path:
        return "must be relative, with '/' between its parts"
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid unicode"
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        return "holds a control character"
    for part in path.split("/"):
        if part in ("", ".", ".."):
            return "holds an empty, '.' or '..' part"
        # macOS may drop invisible characters from a name, Windows dots, spaces and streams at its end.
        seen = "".join(char for char in part if unicodedata.category(char) != "Cf").lower()
        if seen.partition(":")[0].rstrip(". ") in (".git", "git~1"):
            return "reaches into .git"
        if re.match(r"[A-Za-z]:", part):
            return "holds a drive letter"
    return None
