"""Edits one git tree by path and writes only the folders that changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dulwich.objects import ObjectID, Tree

from ct_llm.hub_server.snapshot import FOLDER_MODE

RawEntry = tuple[str, int, str]
"""Name, mode and object id, as they stand in a git tree."""


class PathConflict(Exception):
    """A path would be a file and a folder at once."""


@dataclass
class _File:
    mode: int
    oid: str


@dataclass
class _Folder:
    oid: str | None
    """The stored tree that this folder equals; None once it was changed."""
    inside: dict[str, _File | _Folder] | None
    """None until somebody looks in: a commit to one folder reads no other."""


class TreeEditor:
    """Begins as the tree `root` (None: empty) and takes changes one by one, later ones on top."""

    def __init__(self, load: Callable[[str], Iterable[RawEntry]], root: str | None) -> None:
        self._load = load
        self._root = _Folder(root, {} if root is None else None)

    def put(self, path: str, mode: int, oid: str) -> None:
        """Add or replace a file.

        Raises:
            PathConflict: the path is a folder, or a part of it is a file.
        """
        *parents, name = path.split("/")
        chain = [self._root]
        for depth, parent in enumerate(parents):
            node = self._inside(chain[-1]).get(parent)
            if node is None:
                node = _Folder(None, {})
            if isinstance(node, _File):
                raise PathConflict(f"'{'/'.join(parents[: depth + 1])}' is a file, not a folder")
            chain.append(node)
        if isinstance(self._inside(chain[-1]).get(name), _Folder):
            raise PathConflict(f"'{path}' is a folder, not a file")
        # Only now, as a refused change must not leave empty folders behind.
        for above, parent, below in zip(chain, parents, chain[1:], strict=False):
            self._inside(above)[parent] = below
        self._inside(chain[-1])[name] = _File(mode, oid)
        for folder in chain:
            folder.oid = None

    def remove(self, path: str, *, folder: bool) -> bool:
        """Remove a file, or a folder with all that is in it. False when there is none."""
        *parents, name = path.split("/")
        chain = [self._root]
        for parent in parents:
            node = self._inside(chain[-1]).get(parent)
            if not isinstance(node, _Folder):
                return False
            chain.append(node)
        found = self._inside(chain[-1]).get(name)
        if found is None or isinstance(found, _Folder) is not folder:
            return False
        del self._inside(chain[-1])[name]
        for above in chain:
            above.oid = None
        return True

    def write(self) -> tuple[str, list[Tree]]:
        """The root's object id and the trees that have to be stored for it."""
        trees: list[Tree] = []
        oid = self._write(self._root, trees)
        if oid is None:
            empty = Tree()
            trees.append(empty)
            oid = empty.id.decode()
        return oid, trees

    def _inside(self, folder: _Folder) -> dict[str, _File | _Folder]:
        if folder.inside is None:
            assert folder.oid is not None
            folder.inside = {
                name: _Folder(oid, None) if mode == FOLDER_MODE else _File(mode, oid)
                for name, mode, oid in self._load(folder.oid)
            }
        return folder.inside

    def _write(self, folder: _Folder, trees: list[Tree]) -> str | None:
        if folder.oid is not None:
            return folder.oid
        tree = Tree()
        for name, node in self._inside(folder).items():
            if isinstance(node, _File):
                tree.add(name.encode(), node.mode, ObjectID(node.oid.encode()))
                continue
            oid = self._write(node, trees)
            # Git has no empty folders: one whose last file went goes too.
            if oid is not None:
                tree.add(name.encode(), FOLDER_MODE, ObjectID(oid.encode()))
        if len(tree) == 0:
            return None
        trees.append(tree)
        return tree.id.decode()
