"""Repos of thousands of files: one commit, one more file, the newest commit, footers."""

import base64
import json
import logging
import logging.handlers
import queue

import pytest
from huggingface_hub import CommitOperationAdd

NUM_FILES = 10_000


@pytest.fixture(scope="module")
def many(hub):
    """A dataset repo of 10,000 different files, made by one commit."""
    import httpx2
    from huggingface_hub import HfApi

    HfApi(endpoint=hub.endpoint, token=hub.token).create_repo("acme/many", repo_type="dataset")
    lines = [{"key": "header", "value": {"summary": "all at once"}}]
    for number in range(NUM_FILES):
        content = base64.b64encode(shard(number)).decode()
        value = {"path": path(number), "content": content, "encoding": "base64"}
        lines.append({"key": "file", "value": value})
    answer = httpx2.post(
        f"{hub.endpoint}/api/datasets/acme/many/commit/main",
        content="\n".join(map(json.dumps, lines)).encode(),
        headers={"Authorization": f"Bearer {hub.token}"},
        trust_env=False,
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    return "acme/many"


def shard(number: int) -> bytes:
    return f"shard {number}\n".encode() * 40


def path(number: int) -> str:
    return f"data/train-{number:05d}.txt"


def test_the_newest_commit_is_told_without_naming_the_files(many, raw, api):
    answer = raw.get(
        f"/api/datasets/{many}/revision/main", params={"expand": ["sha", "lastModified"]}
    )
    assert set(answer.json()) == {"_id", "id", "sha", "lastModified"}
    assert len(answer.content) < 300
    whole = api.dataset_info(many)
    expanded = api.dataset_info(many, expand=["sha", "lastModified"])
    assert (expanded.sha, expanded.last_modified) == (whole.sha, whole.last_modified)
    assert len(whole.siblings) == NUM_FILES + 1


def test_the_tree_comes_in_pages_of_a_thousand(many, raw, api):
    url, sizes, found = f"/api/datasets/{many}/tree/main?recursive=true", [], {}
    while url:
        page = raw.get(url)
        sizes.append(len(page.json()))
        found |= {item["path"]: item["size"] for item in page.json() if item["type"] == "file"}
        url = page.links.get("next", {}).get("url")
    assert sizes == [1000] * 10 + [2]  # .gitattributes and the folder are entries, too
    assert all(found[path(number)] == len(shard(number)) for number in range(NUM_FILES))
    assert len({f.blob_id for f in api.list_repo_tree(many, "data", repo_type="dataset")}) == 10_000


def test_one_more_file_joins_them_and_the_others_stay(many, raw, api):
    before = {f.path: f.blob_id for f in api.list_repo_tree(many, "data", repo_type="dataset")}
    add = CommitOperationAdd("data/one-more.txt", b"one more")
    commit = api.create_commit(many, [add], commit_message="one", repo_type="dataset").oid
    footer = raw.get(
        f"/datasets/{many}/resolve/{commit}/{path(4711)}", headers={"Range": "bytes=-8"}
    )
    assert footer.status_code == 206 and footer.content == shard(4711)[-8:]
    after = {f.path: f.blob_id for f in api.list_repo_tree(many, "data", repo_type="dataset")}
    assert after.pop("data/one-more.txt") and after == before
    api.delete_file("data/one-more.txt", many, repo_type="dataset")
    again = {f.path: f.blob_id for f in api.list_repo_tree(many, "data", repo_type="dataset")}
    assert again == before


def test_each_request_is_logged_with_the_bytes_of_its_answer(many, raw):
    """The line comes after the answer, so it is waited for."""
    lines: queue.Queue[logging.LogRecord] = queue.Queue()
    logger, handler = logging.getLogger("ct_llm.hub_server"), logging.handlers.QueueHandler(lines)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        raw.get(f"/datasets/{many}/resolve/main/{path(7)}", headers={"Range": "bytes=-100"})
        line = lines.get(timeout=30).getMessage()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert f"GET /datasets/{many}/resolve/main/{path(7)} 206 100" in line
