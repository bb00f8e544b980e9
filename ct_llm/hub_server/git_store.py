"""One real bare git repository: objects, refs, cached snapshots, and the ref's compare-and-swap.

Everything a listing needs is cached by object id, which never goes stale. Writers hold `lock` for the
whole of read-tip, write-objects, move-ref; readers never wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from dulwich.diff_tree import tree_changes
from dulwich.object_store import DiskObjectStore
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tag, Tree
from dulwich.patch import write_tree_diff
from dulwich.refs import DiskRefsContainer, Ref, check_ref_format
from dulwich.repo import Repo

from ct_llm.hub_server.bounded_cache import BoundedCache
from ct_llm.hub_server.durable import folders_up_to, fsync_all
from ct_llm.hub_server.git_tree import TreeEntries, parse_entries
from ct_llm.hub_server.snapshot import (
    FOLDER_MODE,
    BlobInfo,
    Entry,
    Snapshot,
    parse_pointer,
)
from ct_llm.hub_server.wire import bad_request, conflict, revision_not_found

HEADS = "refs/heads/"
TAGS = "refs/tags/"
PULLS = "refs/pr/"
MAIN = "main"

# Above this many objects one pack is written instead of loose files: one fsync, not thousands.
LOOSE_OBJECTS = 20
SHORTEST_SHA = 7
TEMPORARY_OBJECT = "tmp_obj_"
# Of each cache of trees: some 50 MB, whether a repo has many small commits or a few of 10,000 files.
CACHED_ENTRIES = 200_000


@dataclass(frozen=True)
class CommitInfo:
    """A commit as listings show it."""

    oid: str
    tree: str
    parent: str | None
    author: str
    time: int
    title: str
    message: str


class GitStore:
    """A bare repository on disk. Safe to share between threads of the process that owns the root."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.RLock()
        _sweep_leftovers(path)
        # fsync: an acknowledged commit must survive a power cut, objects before the ref.
        self._objects = DiskObjectStore(path / "objects", fsync_object_files=True)
        self._refs = DiskRefsContainer(path)
        self._object_lock = threading.Lock()
        self._commits: BoundedCache[str, CommitInfo] = BoundedCache(20_000)
        self._blobs: BoundedCache[str, BlobInfo] = BoundedCache(200_000)
        self._trees: BoundedCache[str, TreeEntries] = BoundedCache(CACHED_ENTRIES, _weight)
        self._snapshots: BoundedCache[str, Snapshot] = BoundedCache(CACHED_ENTRIES, _weight)
        self._changed: BoundedCache[str, frozenset[str]] = BoundedCache(CACHED_ENTRIES, _weight)

    @classmethod
    def create(cls, path: Path) -> GitStore:
        """Make a new bare repository whose HEAD is `main`."""
        path.mkdir(parents=True)
        Repo.init_bare(path, default_branch=MAIN.encode()).close()
        return cls(path)

    def close(self) -> None:
        """Let go of open packs."""
        with self._object_lock:
            self._objects.close()

    # Reading

    def resolve(self, revision: str) -> str:
        """The commit behind a branch, tag, full ref or (shortened) commit id.

        Raises:
            WireError: 404 RevisionNotFound.
        """
        if _is_hex(revision) and len(revision) == 40:
            candidates = [revision.encode()]
        elif revision.startswith("refs/"):
            candidates = [self._read_ref(revision)]
        else:
            candidates = [self._read_ref(HEADS + revision), self._read_ref(TAGS + revision)]
            if _is_hex(revision) and len(revision) >= SHORTEST_SHA:
                candidates += self._ids_with_prefix(revision)
        for candidate in candidates:
            commit = None if candidate is None else self._peel(candidate)
            if commit is not None:
                return commit
        raise revision_not_found(revision)

    def branch_tip(self, ref: str) -> str | None:
        """What a full ref such as `refs/heads/main` points to, or None."""
        value = self._read_ref(ref)
        return None if value is None else self._peel(value)

    def refs(self, prefix: str) -> list[tuple[str, str]]:
        """(name below the prefix, commit) of every ref below `refs/heads/` and the like."""
        found = []
        for name in sorted(self._refs.allkeys()):
            ref = name.decode()
            tip = self.branch_tip(ref) if ref.startswith(prefix) else None
            if tip is not None:
                found.append((ref.removeprefix(prefix), tip))
        return found

    def commit(self, oid: str) -> CommitInfo:
        return self._commits.get_or_make(oid, lambda: self._load_commit(oid))

    def history(self, oid: str) -> Iterator[CommitInfo]:
        """The commit and its ancestors, newest first. This server writes no merge commits."""
        current: str | None = oid
        while current is not None:
            info = self.commit(current)
            yield info
            current = info.parent

    def snapshot(self, commit: str) -> Snapshot:
        return self._snapshots.get_or_make(commit, lambda: self._load_snapshot(commit))

    def read_blob(self, oid: str) -> bytes:
        return self._raw(oid)[1]

    def tree_entries(self, oid: str) -> TreeEntries:
        return self._trees.get_or_make(oid, lambda: parse_entries(self._raw(oid)[1]))

    def entry(self, commit: str, path: str) -> Entry | None:
        """One file or folder of a commit. Looks into the folders on its way, and no others."""
        mode, oid = FOLDER_MODE, self.commit(commit).tree
        for part in path.split("/"):
            found = self.tree_entries(oid).get(part) if mode == FOLDER_MODE else None
            if found is None:
                return None
            mode, oid = found
        return self._entry(path, mode, oid)

    def last_commits(self, commit: str, paths: Iterable[str]) -> dict[str, CommitInfo]:
        """For each path, the newest commit that changed it or something below it."""
        wanted = set(paths)
        found: dict[str, CommitInfo] = {}
        for info in self.history(commit):
            for path in wanted & self._changed_paths(info):
                found[path] = info
                wanted.discard(path)
            if not wanted:
                break
        return found

    def diff(self, old_commit: str, new_commit: str) -> str:
        """A unified diff of two commits' files."""
        text = BytesIO()
        old, new = self.commit(old_commit).tree, self.commit(new_commit).tree
        with self._object_lock:
            write_tree_diff(text, self._objects, _id(old), _id(new))
        return text.getvalue().decode("utf-8", "replace")

    # Writing

    def new_commit(
        self, tree: str, parent: str | None, author: str, title: str, message: str
    ) -> Commit:
        """A commit object that is not stored yet."""
        commit = Commit()
        commit.tree = _id(tree)
        commit.parents = [] if parent is None else [_id(parent)]
        # '<', '>' and line breaks would end the identity early; user names hold none of them.
        commit.author = commit.committer = f"{author} <{author}@hub.invalid>".encode()
        commit.author_time = commit.commit_time = int(time.time())
        commit.author_timezone = commit.commit_timezone = 0
        commit.encoding = b"UTF-8"
        text = f"{title}\n\n{message}".rstrip() + "\n"
        commit.message = text.encode("utf-8", "replace")
        return commit

    def store(self, objects: list[ShaFile]) -> None:
        """Write objects to disk and wait until they are really there. Callers hold `lock`."""
        unique = list({item.id: item for item in objects}.values())
        if len(unique) > LOOSE_OBJECTS:
            with self._object_lock:
                self._objects.add_objects([(item, None) for item in unique])
            fsync_all([self.path / "objects" / "pack"])
        else:
            self._store_loose(unique)
        for item in objects:
            if isinstance(item, Blob):
                content = item.as_raw_string()
                self._blobs.put(item.id.decode(), BlobInfo(len(content), parse_pointer(content)))
            elif isinstance(item, Tree):
                self._trees.put(item.id.decode(), parse_entries(item.as_raw_string()))

    def move_ref(self, ref: str, old: str | None, new: str) -> bool:
        """Compare-and-swap; `old` None means that the ref must not exist. False if it differs."""
        with self.lock:
            if old is None:
                if not self._refs.add_if_new(Ref(ref.encode()), _id(new)):
                    return False
            elif not self._refs.set_if_equals(Ref(ref.encode()), _id(old), _id(new)):
                return False
            fsync_all(folders_up_to((self.path / ref).parent, self.path / "refs"))
            return True

    def set_ref(self, ref: str, new: str) -> None:
        """Point a ref somewhere whatever it was before."""
        with self.lock:
            self._refs[Ref(ref.encode())] = _id(new)
            fsync_all(folders_up_to((self.path / ref).parent, self.path / "refs"))

    def create_ref(self, prefix: str, name: str, commit: str, tag_message: str | None) -> None:
        """Make a new branch or tag; with a message an annotated tag.

        Raises:
            WireError: 400 for an unusable name, 409 when it exists or shadows another ref.
        """
        ref = prefix + name
        if not check_ref_format(Ref(ref.encode())) or (_is_hex(name) and len(name) == 40):
            raise bad_request(f"'{name}' is not a usable name for a branch or tag.")
        with self.lock:
            for existing, _ in self.refs(prefix):
                if existing == name:
                    raise conflict(f"Reference '{name}' already exists.")
                if existing.startswith(name + "/") or name.startswith(existing + "/"):
                    raise conflict(f"Reference '{name}' cannot stand beside '{existing}'.")
            target = commit
            if tag_message:
                tag = self._new_tag(name, commit, tag_message)
                self.store([tag])
                target = tag.id.decode()
            if not self.move_ref(ref, None, target):
                raise conflict(f"Reference '{name}' already exists.")

    def delete_ref(self, ref: str) -> None:
        """Remove a branch or tag.

        Raises:
            WireError: 404 RevisionNotFound when there is none.
        """
        with self.lock:
            if self._read_ref(ref) is None:
                raise revision_not_found(ref)
            self._refs.remove_if_equals(Ref(ref.encode()), None)

    def _store_loose(self, objects: list[ShaFile]) -> None:
        # dulwich would flush one object after the other; see `durable`.
        folder = self.path / "objects"
        written: list[tuple[Path, Path]] = []
        for item in objects:
            oid = item.id.decode()
            final = folder / oid[:2] / oid[2:]
            if not final.exists():
                temporary = folder / f"{TEMPORARY_OBJECT}{oid}"
                temporary.write_bytes(item.as_legacy_object())
                written.append((temporary, final))
        fsync_all(temporary for temporary, _ in written)
        for temporary, final in written:
            final.parent.mkdir(exist_ok=True)
            temporary.replace(final)
        fsync_all({folder, *(final.parent for _, final in written)})

    # Loading

    def _raw(self, oid: str) -> tuple[int, bytes]:
        with self._object_lock:
            return self._objects.get_raw(_id(oid))

    def _read_ref(self, ref: str) -> bytes | None:
        name = Ref(ref.encode("utf-8", "replace"))
        if not check_ref_format(name):
            return None
        try:
            return self._refs.read_ref(name)
        except (NotADirectoryError, IsADirectoryError):
            # `refs/heads/a/b` where `a` is a branch: no such ref.
            return None

    def _ids_with_prefix(self, prefix: str) -> list[bytes | None]:
        with self._object_lock:
            ids = {*self._objects.iter_prefix(prefix.encode())}
        commits = [oid for oid in ids if self._raw(oid.decode())[0] == Commit.type_num]
        return [*commits] if len(commits) == 1 else []

    def _peel(self, oid: bytes) -> str | None:
        """The commit that an id stands for, following annotated tags."""
        while True:
            try:
                kind, raw = self._raw(oid.decode())
            except KeyError:
                return None
            if kind == Commit.type_num:
                return oid.decode()
            if kind != Tag.type_num:
                return None
            tag = Tag.from_raw_string(kind, raw)
            assert isinstance(tag, Tag)
            oid = tag.object[1]

    def _load_commit(self, oid: str) -> CommitInfo:
        commit = ShaFile.from_raw_string(*self._raw(oid))
        assert isinstance(commit, Commit)
        title, _, message = commit.message.decode("utf-8", "replace").partition("\n")
        return CommitInfo(
            oid=oid,
            tree=commit.tree.decode(),
            parent=commit.parents[0].decode() if commit.parents else None,
            author=commit.author.decode("utf-8", "replace").partition(" <")[0],
            time=commit.commit_time,
            title=title,
            message=message.strip(),
        )

    def _load_snapshot(self, commit: str) -> Snapshot:
        info = self.commit(commit)
        # Most entries are those of the commit before: sharing them saves the time and the memory.
        before = None if info.parent is None else self._snapshots.get(info.parent)
        known = {} if before is None else before.entries
        folders: dict[str, tuple[Entry, ...]] = {}
        waiting = [("", info.tree)]
        while waiting:
            path, oid = waiting.pop()
            inside = []
            for name, (mode, child) in self.tree_entries(oid).items():
                child_path = f"{path}/{name}" if path else name
                if mode == FOLDER_MODE:
                    waiting.append((child_path, child))
                entry = known.get(child_path)
                if entry is None or entry.oid != child or entry.mode != mode:
                    entry = self._entry(child_path, mode, child)
                inside.append(entry)
            folders[path] = tuple(inside)
        return Snapshot(folders)

    def _entry(self, path: str, mode: int, oid: str) -> Entry:
        return Entry(path, mode, oid, None if mode == FOLDER_MODE else self._blob_info(oid))

    def _blob_info(self, oid: str) -> BlobInfo:
        def load() -> BlobInfo:
            content = self.read_blob(oid)
            return BlobInfo(len(content), parse_pointer(content))

        return self._blobs.get_or_make(oid, load)

    def _changed_paths(self, info: CommitInfo) -> frozenset[str]:
        return self._changed.get_or_make(info.oid, lambda: self._load_changed_paths(info))

    def _load_changed_paths(self, info: CommitInfo) -> frozenset[str]:
        before = None if info.parent is None else _id(self.commit(info.parent).tree)
        changed: set[str] = set()
        with self._object_lock:
            changes = list(tree_changes(self._objects, before, _id(info.tree)))
        for change in changes:
            for side in (change.old, change.new):
                if side is None or side.path is None:
                    continue
                path = side.path.decode("utf-8", "replace")
                while path:
                    changed.add(path)
                    path = path.rpartition("/")[0]
        return frozenset(changed)

    def _new_tag(self, name: str, commit: str, message: str) -> Tag:
        tag = Tag()
        tag.name = name.encode()
        tag.object = (Commit, _id(commit))
        tag.tagger = b"hub <hub@hub.invalid>"
        tag.tag_time = int(time.time())
        tag.tag_timezone = 0
        tag.message = message.encode("utf-8", "replace") + b"\n"
        return tag


def _sweep_leftovers(path: Path) -> None:
    """Remove what a killed process left half done: the root's lock says that nobody else works here."""
    leftovers = [
        *path.glob("*.lock"),
        *path.glob("refs/**/*.lock"),
        *path.glob(f"objects/{TEMPORARY_OBJECT}*"),
        *path.glob("objects/pack/*.lock"),
        *path.glob("objects/pack/tmp*.pack"),
    ]
    for leftover in leftovers:
        leftover.unlink()


def _weight(value: Sized) -> int:
    return len(value) + 1


def _id(oid: str) -> ObjectID:
    return ObjectID(oid.encode())


def _is_hex(text: str) -> bool:
    return bool(text) and all(char in "0123456789abcdef" for char in text)
