"""Trees, paths, commits, branches, tags and squashing."""

import pytest
from huggingface_hub import CommitOperationAdd, RepoFile, RepoFolder
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RevisionNotFoundError,
)


def add(path: str, content: bytes = b"content") -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def test_tree_recursive_flat_and_below_a_folder(api, repo):
    api.create_commit(repo, [add("a/b/c.txt"), add("a/d.txt"), add("ä e.txt")], commit_message="m")
    flat = {item.path: item for item in api.list_repo_tree(repo)}
    assert set(flat) == {".gitattributes", "a", "ä e.txt"}
    assert isinstance(flat["a"], RepoFolder) and isinstance(flat["ä e.txt"], RepoFile)
    assert flat["ä e.txt"].size == len(b"content")
    deep = {item.path for item in api.list_repo_tree(repo, recursive=True)}
    assert deep == {".gitattributes", "a", "a/b", "a/b/c.txt", "a/d.txt", "ä e.txt"}
    assert {item.path for item in api.list_repo_tree(repo, "a")} == {"a/b", "a/d.txt"}
    assert {item.path for item in api.list_repo_tree(repo, "a/b")} == {"a/b/c.txt"}
    assert set(api.list_repo_files(repo)) == {".gitattributes", "a/b/c.txt", "a/d.txt", "ä e.txt"}
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "absent"))
    with pytest.raises(RevisionNotFoundError):
        list(api.list_repo_tree(repo, revision="absent"))


def test_expand_names_the_commit_that_last_changed_each_path(api, repo):
    first = api.create_commit(repo, [add("a/x"), add("b/y")], commit_message="first")
    second = api.create_commit(repo, [add("a/x", b"changed")], commit_message="second")
    tree = {f.path: f for f in api.list_repo_tree(repo, recursive=True, expand=True)}
    assert tree["a/x"].last_commit.oid == tree["a"].last_commit.oid == second.oid
    assert tree["b/y"].last_commit.oid == tree["b"].last_commit.oid == first.oid
    assert tree["a/x"].last_commit.title == "second"


def test_paths_info_omits_what_is_missing(api, repo):
    api.create_commit(repo, [add("a/x"), add("w.safetensors")], commit_message="m")
    found = {i.path: i for i in api.get_paths_info(repo, ["a/x", "a", "none", "w.safetensors"])}
    assert set(found) == {"a/x", "a", "w.safetensors"}
    assert found["w.safetensors"].lfs.size == len(b"content")
    (expanded,) = api.get_paths_info(repo, "a/x", expand=True)
    assert expanded.last_commit.title == "m"


def test_a_tree_of_many_files_comes_in_pages(api, repo, raw):
    names = {f"f{number:04d}" for number in range(2100)}
    api.create_commit(repo, [add(name, name.encode()) for name in names], commit_message="many")
    assert set(api.list_repo_files(repo)) == names | {".gitattributes"}
    page = raw.get(f"/api/models/{repo}/tree/main", params={"recursive": "true"})
    assert len(page.json()) == 1000
    # A commit between two pages must not shift the second.
    api.create_commit(repo, [add("0-first")], commit_message="between")
    rest = raw.get(page.links["next"]["url"]).json()
    assert "0-first" not in {item["path"] for item in rest}


def test_commits_are_newest_first_with_authors_and_pages(api, repo, raw):
    for number in range(3):
        api.create_commit(
            repo,
            [add("f", str(number).encode())],
            commit_message=f"title {number} <b>",
            commit_description="why\nit changed",
        )
    commits = api.list_repo_commits(repo, formatted=True)
    titles = [f"title {number} <b>" for number in (2, 1, 0)]
    assert [commit.title for commit in commits] == [*titles, "initial commit"]
    assert commits[0].authors == ["local"] and commits[-1].authors == ["system"]
    assert commits[0].message == "why\nit changed"
    assert commits[0].formatted_title == "title 2 &lt;b&gt;"
    pages = [raw.get(f"/api/models/{repo}/commits/main", params={"limit": 3})]
    pages.append(raw.get(pages[0].links["next"]["url"]))
    assert [item["id"] for page in pages for item in page.json()] == [c.commit_id for c in commits]
    assert "next" not in pages[1].links


def test_branches(api, repo):
    start = api.model_info(repo).sha
    api.create_commit(repo, [add("f")], commit_message="on main")
    api.create_branch(repo, branch="feature/x", revision=start)
    on_branch = api.create_commit(
        repo, [add("g")], commit_message="on branch", revision="feature/x", parent_commit=start
    )
    assert api.model_info(repo, revision="feature/x").sha == on_branch.oid
    assert set(api.list_repo_files(repo, revision="feature/x")) == {".gitattributes", "g"}
    refs = api.list_repo_refs(repo)
    assert {(b.name, b.ref) for b in refs.branches} == {
        ("main", "refs/heads/main"),
        ("feature/x", "refs/heads/feature/x"),
    }
    assert refs.pull_requests is None
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(repo, branch="feature/x")
    assert error.value.response.status_code == 409
    api.create_branch(repo, branch="feature/x", exist_ok=True)
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(repo, branch="feature")
    assert error.value.response.status_code == 409
    api.delete_branch(repo, branch="feature/x")
    with pytest.raises(RevisionNotFoundError):
        api.delete_branch(repo, branch="feature/x")
    with pytest.raises(HfHubHTTPError) as error:
        api.delete_branch(repo, branch="main")
    assert error.value.response.status_code == 403


@pytest.mark.parametrize("name", ["a..b", "x.lock", "sp ace", "0" * 40])
def test_unusable_ref_names_are_refused(api, repo, name):
    for create in (
        lambda: api.create_branch(repo, branch=name),
        lambda: api.create_tag(repo, tag=name),
    ):
        with pytest.raises(HfHubHTTPError) as error:
            create()
        assert error.value.response.status_code == 400


def test_tags_stay_where_they_were_put(api, repo):
    first = api.model_info(repo).sha
    api.create_tag(repo, tag="v1", tag_message="with a message")
    api.create_commit(repo, [add("f")], commit_message="later")
    api.create_tag(repo, tag="release/v2")
    api.create_tag(repo, tag="by-sha", revision=first)
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo).tags}
    later = api.model_info(repo).sha
    assert tags == {"v1": first, "release/v2": later, "by-sha": first}
    assert api.model_info(repo, revision="release/v2").sha == later
    assert api.model_info(repo, revision="refs/tags/v1").sha == first
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(repo, tag="v1")
    assert error.value.response.status_code == 409
    api.create_tag(repo, tag="v1", exist_ok=True)
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(repo, [add("g")], commit_message="to a tag", revision="v1")
    api.delete_tag(repo, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(repo, tag="v1")


def test_a_shortened_commit_id_is_a_revision(api, repo):
    sha = api.model_info(repo).sha
    assert api.model_info(repo, revision=sha[:8]).sha == sha
    for absent in ("f" * 40, "fffffff"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(repo, revision=absent)


def test_super_squash_keeps_the_files_and_drops_the_history(api, repo):
    for number in range(3):
        api.create_commit(repo, [add(f"f{number}")], commit_message="m")
    files = set(api.list_repo_files(repo))
    api.super_squash_history(repo, commit_message="squashed")
    assert [commit.title for commit in api.list_repo_commits(repo)] == ["squashed"]
    assert set(api.list_repo_files(repo)) == files
    with pytest.raises(RevisionNotFoundError):
        api.super_squash_history(repo, branch="absent")
