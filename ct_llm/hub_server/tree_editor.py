"""Edits one git tree by path and writes only the folders that changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from dulwich.objects import ShaFile, Tree

from ct_llm.hub_server.git_tree import RawEntry, TreeEntries, format_entries
from ct_llm.hub_server.snapshot import FOLDER_MODE


class PathConflict(Exception):
    """A path would be a file and a folder at once."""


@dataclass
class _Folder:
    oid: str | None
    """The stored tree that this folder equals; None once it was changed."""
    inside: dict[str, RawEntry | _Folder] | None
    """None until somebody looks in: a commit to one folder reads no other. A folder inside is the
    raw entry of the stored tree, too, until somebody looks in."""


class TreeEditor:
    """Begins as the tree `root` (None: empty) and takes changes one by one, later ones on top."""

    def __init__(self, load: Callable[[str], TreeEntries], root: str | None) -> None:
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
            inside = self._inside(chain[-1])
            folder = self._folder(chain[-1], parent) if parent in inside else _Folder(None, {})
            if folder is None:
                raise PathConflict(f"'{'/'.join(parents[: depth + 1])}' is a file, not a folder")
            chain.append(folder)
        if self._folder(chain[-1], name) is not None:
            raise PathConflict(f"'{path}' is a folder, not a file")
        # Only now, as a refused change must not leave empty folders behind.
        for above, parent, below in zip(chain, parents, chain[1:], strict=False):
            self._inside(above)[parent] = below
        self._inside(chain[-1])[name] = (mode, oid)
        for folder in chain:
            folder.oid = None

    def remove(self, path: str, *, folder: bool) -> bool:
        """Remove a file, or a folder with all that is in it. False when there is none."""
        *parents, name = path.split("/")
        chain = [self._root]
        for parent in parents:
            below = self._folder(chain[-1], parent)
            if below is None:
                return False
            chain.append(below)
        is_there = name in self._inside(chain[-1])
        if not is_there or (self._folder(chain[-1], name) is not None) is not folder:
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
            trees.append(Tree())
            oid = trees[-1].id.decode()
        return oid, trees

    def _inside(self, folder: _Folder) -> dict[str, RawEntry | _Folder]:
        if folder.inside is None:
            assert folder.oid is not None
            folder.inside = dict(self._load(folder.oid))
        return folder.inside

    def _folder(self, above: _Folder, name: str) -> _Folder | None:
        """The folder of this name, ready to be looked into; None for a file and for nothing."""
        inside = self._inside(above)
        found = inside.get(name)
        if found is None or isinstance(found, _Folder):
            return found
        mode, oid = found
        if mode != FOLDER_MODE:
            return None
        folder = inside[name] = _Folder(oid, None)
        return folder

    def _write(self, folder: _Folder, trees: list[Tree]) -> str | None:
        if folder.oid is not None:
            return folder.oid
        entries: dict[str, RawEntry] = {}
        for name, node in self._inside(folder).items():
            if not isinstance(node, _Folder):
                entries[name] = node
                continue
            oid = self._write(node, trees)
            # Git has no empty folders: one whose last file went goes too.
            if oid is not None:
                entries[name] = (FOLDER_MODE, oid)
        if not entries:
            return None
        tree = cast(Tree, ShaFile.from_raw_string(Tree.type_num, format_entries(entries)))
        trees.append(tree)
        return tree.id.decode()
