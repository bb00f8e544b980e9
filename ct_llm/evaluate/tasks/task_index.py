"""Where a named task, group or tag is defined, without parsing lm-eval's 14,000 YAML files.

lm-eval's own index parses every file of its task folder first (10 to 16 seconds). Here their texts
are only searched for lines that define or name a task (half a second), and the few files that may
say something about the wanted name, its members and its includes are parsed by lm-eval's own
`TaskIndex`, in lm-eval's order. What is found is what its index of everything would hold.
"""

import copy
import difflib
import functools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lm_eval.tasks
import yaml
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from ct_llm.evaluate.quiet import quiet

Index = dict[str, Entry]

_SKIPPED_FOLDERS = ("__pycache__", ".ipynb_checkpoints")
_DEFINING_LINES = re.compile(
    rb"^[\"']?(task|group|tag|class|include)[\"']?[ \t]*:(.*(?:\n(?:[ \t#-].*|$))*)", re.MULTILINE
)
"""A top-level key and its value, which goes on over indented lines, list entries and blank lines."""
_WORD = re.compile(rb"[^\s,\[\]{}\"']+")
_COMMENT = re.compile(rb"(?:^|\s)#.*$", re.MULTILINE)


def find(name: str, folder: Path | None = None) -> Index | None:
    """Entries of a task, group or tag and of everything that it names; None: there is no such name.

    folder: local tasks, which go before lm-eval's of the same name.
    """
    local = local_tasks(folder)
    found: Index = {}
    looked_up: set[str] = set()
    wanted = {name}
    while wanted:
        looked_up |= wanted
        new = {one: local[one] for one in wanted if one in local}
        if elsewhere := wanted - new.keys():
            new |= _builtin().entries(elsewhere)
        found |= new
        wanted = {other for entry in new.values() for other in _named_by(entry)} - looked_up
    return found if name in found else None


def near(name: str, folder: Path | None = None) -> list[str]:
    """At most three names like it, the likest first."""
    local, builtin = local_tasks(folder), _builtin()
    alike = difflib.get_close_matches(name, [*local, *builtin.words], n=12, cutoff=0.6)
    known = {*local, *builtin.entries(alike)}
    return [one for one in dict.fromkeys(alike) if one in known][:3]


def local_tasks(folder: Path | None) -> Index:
    """Read anew each time: its files may have been edited."""
    if folder is None:
        return {}
    with quiet():
        return TaskIndex.build([folder])


def manager_of(index: Index) -> TaskManager:
    """lm-eval's TaskManager that knows these entries and no others."""
    with quiet():
        manager = TaskManager(include_defaults=False)
    manager._index = index
    return manager


class BuiltinTasks:
    """What the texts below `root` say about names; files are parsed when a name is asked for."""

    def __init__(self, root: Path) -> None:
        self._files: dict[str, set[Path]] = defaultdict(set)
        self._includes: dict[Path, frozenset[str]] = {}
        self._parsed: dict[Path, dict[str, Any] | None] = {}
        for path in _yaml_files(root):
            for word in self._words_of(path, ()):
                self._files[word].add(path)

    @property
    def words(self) -> list[str]:
        """Every word that may be a name, and a few that are none."""
        return list(self._files)

    def entries(self, names: Iterable[str]) -> Index:
        """Those of the names that exist, as an index of every file would hold them."""
        names = set(names)
        paths = {path for name in names for path in self._files.get(name, ())}
        index: Index = {}
        with quiet():
            # The first file that defines a name has it, so the order is lm-eval's.
            for path in sorted(paths, key=Path.as_posix):
                if path not in self._parsed:
                    self._parsed[path] = _parse(path)
                if (config := self._parsed[path]) is not None:
                    TaskIndex.process_cfg(copy.deepcopy(config), path, index)
        return {name: entry for name, entry in index.items() if name in names}

    def _words_of(self, path: Path, including: tuple[Path, ...]) -> frozenset[str]:
        """Of a file and all that it includes, which may lend it a tag or a name."""
        if path in self._includes:
            return self._includes[path]
        words: set[str] = set()
        for key, value in _DEFINING_LINES.findall(_read(path)):
            names = [word.decode(errors="replace") for word in _WORD.findall(_plain(value))]
            if key != b"include":
                words.update(names)
                continue
            for name in names:
                included = Path(os.path.normpath(path.parent / name))
                if included not in including and included != path:
                    words |= self._words_of(included, (*including, path))
        if including:  # files that stand for themselves are read once anyway
            self._includes[path] = frozenset(words)
        return frozenset(words)


@functools.cache
def _builtin() -> BuiltinTasks:
    return BuiltinTasks(Path(lm_eval.tasks.__file__).parent)


def _yaml_files(root: Path) -> list[Path]:
    found: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        found += [Path(folder, name) for name in files if name.endswith(".yaml")]
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # an include that is not there: lm-eval leaves the file out, as _parse does


def _plain(value: bytes) -> bytes:
    return _COMMENT.sub(b"", value) if b"#" in value else value


def _parse(path: Path) -> dict[str, Any] | None:
    """None for a file that lm-eval's index leaves out: broken, or neither task nor group."""
    try:
        config = load_yaml(path, resolve_func=False)
        TaskIndex.process_cfg(copy.deepcopy(config), path, {})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return None
    return config


def _named_by(entry: Entry) -> set[str]:
    """Members of a group or a tag; what a group lists may also be inline and exist nowhere else."""
    if entry.kind == Kind.TAG:
        return set(entry.tags)
    if entry.kind != Kind.GROUP or entry.cfg is None:
        return set()
    named: set[str] = set()
    open_lists = [entry.cfg.get("task")]
    while open_lists:
        members = open_lists.pop()
        for member in members if isinstance(members, list) else []:
            if isinstance(member, str):
                named.add(member)
            elif isinstance(member, Mapping):
                named.update(str(member[key]) for key in ("group", "task") if key in member)
                open_lists.append(member.get("task"))
    return named
