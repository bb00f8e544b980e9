"""Three-way merge of whole files, and the squash commit that merges a pull request."""

from __future__ import annotations

from dataclasses import dataclass

from ct_llm.hub_server.git_store import GitStore
from ct_llm.hub_server.snapshot import Entry
from ct_llm.hub_server.tree_editor import PathConflict, TreeEditor


@dataclass(frozen=True)
class MergePlan:
    """What a merge would change on the target, or the paths that stand in its way."""

    changes: dict[str, Entry | None]
    """Per path the file to put there; None deletes it."""
    conflicts: list[str]


def plan_merge(store: GitStore, *, base: str, ours: str, theirs: str) -> MergePlan:
    """Compare three commits file by file.

    A file that both sides changed differently is a conflict even when its lines could be interleaved:
    for weights and records half of each side is never right.
    """
    before, target, source = (store.snapshot(commit).files() for commit in (base, ours, theirs))
    changes: dict[str, Entry | None] = {}
    conflicts: list[str] = []
    for path in sorted(before.keys() | source.keys()):
        old, new, current = (_oid(files.get(path)) for files in (before, source, target))
        if new in (old, current):
            continue
        if current == old:
            changes[path] = source.get(path)
        else:
            conflicts.append(path)
    if not conflicts:
        conflicts = _paths_in_the_way(store, ours, changes)
    return MergePlan(changes, conflicts)


def merged_tree(store: GitStore, ours: str, changes: dict[str, Entry | None]) -> TreeEditor:
    """The target's tree with a plan's changes made.

    Raises:
        PathConflict: a file on one side is a folder on the other.
    """
    editor = TreeEditor(store.tree_entries, store.commit(ours).tree)
    for path, entry in changes.items():
        if entry is None:
            editor.remove(path, folder=False)
    for path, entry in changes.items():
        if entry is not None:
            editor.put(path, entry.mode, entry.oid)
    return editor


def _paths_in_the_way(store: GitStore, ours: str, changes: dict[str, Entry | None]) -> list[str]:
    try:
        merged_tree(store, ours, changes)
    except PathConflict as error:
        return [str(error)]
    return []


def _oid(entry: Entry | None) -> str | None:
    return None if entry is None else entry.oid
