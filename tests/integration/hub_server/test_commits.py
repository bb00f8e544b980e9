"""Commits: what they hold, who wins a race, and what they must not hold."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError


def read(api: HfApi, repo: str, path: str, revision: str | None = None) -> bytes:
    return Path(api.hf_hub_download(repo, path, revision=revision)).read_bytes()


def commit_lines(*items: dict, parent: str | None = None) -> bytes:
    header = {"key": "header", "value": {"summary": "m", "parentCommit": parent}}
    return b"".join(json.dumps(item).encode() + b"\n" for item in (header, *items))


def file_line(path: str, content: bytes = b"x") -> dict:
    value = {"path": path, "content": base64.b64encode(content).decode(), "encoding": "base64"}
    return {"key": "file", "value": value}


def test_regular_and_large_files_in_one_commit(api, repo):
    operations = [
        CommitOperationAdd("config.json", b"{}"),
        CommitOperationAdd("adapter_model.safetensors", b"weights" * 1000),
        CommitOperationAdd("binary-without-extension", bytes(range(256))),
        CommitOperationAdd("empty.bin", b""),
    ]
    info = api.create_commit(repo, operations, commit_message="m", commit_description="d")
    assert info.commit_url.endswith(f"/{repo}/commit/{info.oid}")
    assert (info.repo_url.repo_id, info.oid) == (repo, api.model_info(repo).sha)
    lfs = {f.path for f in api.list_repo_tree(repo) if getattr(f, "lfs", None)}
    assert lfs == {"adapter_model.safetensors", "binary-without-extension"}
    for operation in operations:
        assert read(api, repo, operation.path_in_repo) == operation.path_or_fileobj


def test_a_text_file_of_more_than_10_mib_is_large(api, repo):
    text = b"line\n" * (2 * 2**20 + 10_000)
    api.upload_file(path_or_fileobj=text, path_in_repo="big.txt", repo_id=repo)
    (info,) = api.get_paths_info(repo, "big.txt")
    assert info.lfs is not None and info.size == len(text)


def test_unchanged_files_make_no_commit(api, repo):
    operations = [CommitOperationAdd("f", b"x"), CommitOperationAdd("w.bin", b"y")]
    first = api.create_commit(repo, operations, commit_message="m")
    again = [CommitOperationAdd("f", b"x"), CommitOperationAdd("w.bin", b"y")]
    assert api.create_commit(repo, again, commit_message="again").oid == first.oid
    assert len(api.list_repo_commits(repo)) == 2


def test_files_of_the_gitignore_are_left_out(api, repo, tmp_path):
    for name in (".gitignore", "keep.txt", "x.log", "build/out.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("*.log\nbuild/\n" if name == ".gitignore" else name)
    api.upload_folder(repo_id=repo, folder_path=tmp_path)
    assert set(api.list_repo_files(repo)) == {".gitattributes", ".gitignore", "keep.txt"}


def test_deleting_files_and_folders(api, repo):
    operations = [CommitOperationAdd(path, b"x") for path in ("a/1", "a/b/2", "c", "d/3")]
    api.create_commit(repo, operations, commit_message="add")
    deletions = [CommitOperationDelete("a/"), CommitOperationDelete("c")]
    api.create_commit(repo, deletions, commit_message="delete")
    assert set(api.list_repo_files(repo)) == {".gitattributes", "d/3"}
    api.delete_file("d/3", repo)
    assert {item.path for item in api.list_repo_tree(repo)} == {".gitattributes"}
    tip = api.model_info(repo).sha
    for absent in ("none", "none/"):
        with pytest.raises(EntryNotFoundError, match="with this name doesn't exist"):
            api.create_commit(repo, [CommitOperationDelete(absent)], commit_message="m")
    assert api.model_info(repo).sha == tip


def test_copies_within_a_repo(api, repo):
    operations = [CommitOperationAdd("f", b"text"), CommitOperationAdd("w.bin", b"large")]
    first = api.create_commit(repo, operations, commit_message="add")
    api.create_commit(repo, [CommitOperationAdd("f", b"changed")], commit_message="change")
    copies = [
        CommitOperationCopy("w.bin", "copies/w.bin"),
        CommitOperationCopy("f", "copies/f", src_revision=first.oid),
    ]
    api.create_commit(repo, copies, commit_message="copy")
    assert read(api, repo, "copies/w.bin") == b"large"
    assert read(api, repo, "copies/f") == b"text"


def test_a_stale_parent_is_412_and_changes_nothing(api, repo):
    stale = api.model_info(repo).sha
    tip = api.create_commit(
        repo, [CommitOperationAdd("f", b"1")], commit_message="m", parent_commit=stale
    ).oid
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit(
            repo, [CommitOperationAdd("f", b"2")], commit_message="m", parent_commit=stale
        )
    assert error.value.response.status_code == 412
    assert api.model_info(repo).sha == tip


def test_of_eight_commits_on_one_parent_exactly_one_wins(hub, repo, api):
    parent = api.model_info(repo).sha

    def attempt(number: int) -> int:
        client = HfApi(endpoint=hub.endpoint, token=hub.token)
        operation = CommitOperationAdd("f", str(number).encode())
        try:
            client.create_commit(repo, [operation], commit_message="m", parent_commit=parent)
        except HfHubHTTPError as error:
            return error.response.status_code
        return 200

    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(attempt, range(8)))
    assert statuses == [200] + [412] * 7
    assert len(api.list_repo_commits(repo)) == 2


def test_concurrent_commits_without_a_parent_are_all_kept(hub, repo, api):
    def attempt(number: int) -> str:
        client = HfApi(endpoint=hub.endpoint, token=hub.token)
        operation = CommitOperationAdd(f"f{number}", b"x")
        return client.create_commit(repo, [operation], commit_message="m").oid

    with ThreadPoolExecutor(8) as pool:
        oids = set(pool.map(attempt, range(24)))
    assert len(oids) == 24
    assert oids < {commit.commit_id for commit in api.list_repo_commits(repo)}
    assert len(api.list_repo_files(repo)) == 25


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "a/../../outside",
        "/absolute",
        "a//b",
        "./a",
        "a/.",
        ".git/config",
        "a/.GIT/hooks/x",
        ".git./config",
        ".git::$INDEX_ALLOCATION/x",
        ".g\u200cit/config",
        "\ud800",
        "GIT~1/config",
        "a\\b",
        "C:/x",
        "a\nb",
        "a\0b",
        "",
        "x" * 2000,
    ],
)
def test_paths_that_could_leave_the_folder_are_refused(raw, api, repo, path):
    tip = api.model_info(repo).sha
    large = {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": "0" * 64}}
    for line in (file_line(path), large):
        answer = raw.post(f"/api/models/{repo}/commit/main", content=commit_lines(line))
        assert answer.status_code == 400
    assert api.model_info(repo).sha == tip


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json\n",
        b'{"key":"file","value":{"path":"a","content":"eA=="}}\n',
        commit_lines({"key": "file", "value": {"path": "a", "content": "%%%"}}),
        commit_lines({"key": "file", "value": {"path": "a"}}),
        commit_lines({"key": "surprise", "value": {"path": "a"}}),
        commit_lines({"key": "lfsFile", "value": {"path": "a", "oid": "short"}}),
        commit_lines({"key": "lfsFile", "value": {"path": "a", "oid": "0" * 64}}),
        commit_lines(file_line("a"), file_line("a/b")),
    ],
)
def test_malformed_commits_are_400(raw, repo, body):
    assert raw.post(f"/api/models/{repo}/commit/main", content=body).status_code == 400


def test_a_commit_to_an_absent_branch_or_with_an_absent_parent_is_404(api, repo):
    operation = CommitOperationAdd("f", b"x")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(repo, [operation], commit_message="m", revision="absent")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(repo, [operation], commit_message="m", parent_commit="f" * 40)
