"""The entries of one git tree, read from its bytes and written to them.

Dulwich's own `Tree` makes several objects of each entry at every step; a folder of 10,000 shards is
rewritten by each commit that adds one more.
"""

from __future__ import annotations

from collections.abc import Mapping

from dulwich.objects import parse_tree

from ct_llm.hub_server.snapshot import FOLDER_MODE

RawEntry = tuple[int, str]
"""Mode and object id, as they stand in a git tree."""
TreeEntries = Mapping[str, RawEntry]
"""Entries by name, in git's order. Shared by all who read a tree: do not change it."""


def parse_entries(raw: bytes) -> TreeEntries:
    """The entries of a tree object's content."""
    return {
        name.decode("utf-8", "replace"): (mode, sha.decode())
        for name, mode, sha in parse_tree(raw, 20)
    }


def format_entries(entries: TreeEntries) -> bytes:
    """A tree object's content, whatever order the entries come in."""
    # Git sorts by bytes, as which UTF-8 sorts like its characters, and a folder as if it ended in "/".
    in_order = sorted(
        (f"{name}/" if mode == FOLDER_MODE else name, name, mode, oid)
        for name, (mode, oid) in entries.items()
    )
    return b"".join(
        [f"{mode:o} {name}\0".encode() + bytes.fromhex(oid) for _, name, mode, oid in in_order]
    )
