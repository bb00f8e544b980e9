"""Trees as git itself would write them, whatever the edits; caches that stay within their bound."""

import re
from itertools import accumulate

from dulwich.objects import ObjectID, Tree
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.hub_server.bounded_cache import BoundedCache
from ct_llm.hub_server.git_tree import format_entries, parse_entries
from ct_llm.hub_server.snapshot import FILE_MODE, FOLDER_MODE
from ct_llm.hub_server.tree_editor import PathConflict, TreeEditor

# Few characters, so that names are often prefixes of each other: git's order is about these.
NAMES = st.text(alphabet="ab.-0é\U0001f600", min_size=1, max_size=3).filter(
    lambda name: name not in (".", "..")
)
OIDS = st.binary(min_size=20, max_size=20).map(bytes.hex)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
EDITS = st.lists(st.tuples(st.sampled_from(["put", "remove", "remove folder"]), PATHS, OIDS))


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from([FILE_MODE, FOLDER_MODE]), OIDS)))
def test_a_tree_is_written_as_dulwich_writes_it_and_read_back(entries):
    tree = Tree()
    for name, (mode, oid) in entries.items():
        tree.add(name.encode(), mode, ObjectID(oid.encode()))
    assert format_entries(entries) == tree.as_raw_string()
    assert parse_entries(format_entries(entries)) == entries


@given(st.lists(EDITS, max_size=4))
def test_edits_commit_by_commit_leave_the_files_they_should(commits):
    stored: dict[str, bytes] = {}
    root, files = None, {}
    for edits in commits:
        editor = TreeEditor(lambda oid: parse_entries(stored[oid]), root)
        for kind, path, oid in edits:
            below = {name for name in files if name.startswith(path + "/")}
            above = set(accumulate(path.split("/")[:-1], lambda a, b: f"{a}/{b}"))
            if kind == "remove folder":
                assert editor.remove(path, folder=True) == bool(below)
                files = {name: files[name] for name in files if name not in below}
            elif kind == "remove":
                assert editor.remove(path, folder=False) == (path in files)
                files.pop(path, None)
            elif below or above & set(files):
                try:
                    editor.put(path, FILE_MODE, oid)
                    raise AssertionError("a file in the way of a folder was accepted")
                except PathConflict as error:
                    assert re.search("is a (file|folder), not a", str(error))
            else:
                editor.put(path, FILE_MODE, oid)
                files[path] = oid
        root, trees = editor.write()
        stored.update({tree.id.decode(): tree.as_raw_string() for tree in trees})
        assert dict(_walk(stored, root)) == files


def _walk(stored: dict[str, bytes], oid: str, folder: str = ""):
    for name, (mode, child) in parse_entries(stored[oid]).items():
        if mode == FOLDER_MODE:
            yield from _walk(stored, child, f"{folder}{name}/")
        else:
            yield folder + name, child


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 15)), max_size=30))
def test_a_cache_holds_no_more_than_its_limit_and_the_newest_value_always(puts):
    cache: BoundedCache[int, str] = BoundedCache(10, len)
    for key, length in puts:
        cache.put(key, "x" * length)
        held = [value for value in map(cache.get, range(6)) if value is not None]
        assert sum(map(len, held)) <= 10 or len(held) == 1
        assert cache.get(key) == "x" * length
