"""The LFS store: signed links, checked bytes, and no way to another repo's objects."""

import hashlib
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError

from ct_llm.hub_server import add_token
from ct_llm.hub_server.auth import LinkSigner

CONTENT = b"large file content"


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def batch(raw, repo: str, content: bytes) -> dict:
    answer = raw.post(
        f"/{repo}.git/info/lfs/objects/batch",
        json={
            "operation": "upload",
            "transfers": ["basic", "multipart"],
            "objects": [{"oid": oid_of(content), "size": len(content)}],
            "hash_algo": "sha256",
        },
    )
    assert answer.status_code == 200
    return answer.json()["objects"][0]


def put(href: str, content: bytes) -> int:
    # A client of its own: the upload must not need a token.
    return httpx2.put(href, content=content, trust_env=False).status_code


def test_an_upload_is_verified_and_then_known(raw, repo, hub):
    content = b"verified" * 10
    actions = batch(raw, repo, content)["actions"]
    wanted = {"oid": oid_of(content), "size": len(content)}
    assert raw.post(actions["verify"]["href"], json=wanted).status_code == 404
    assert put(actions["upload"]["href"], content) == 200
    assert raw.post(actions["verify"]["href"], json=wanted).status_code == 200
    assert raw.post(actions["verify"]["href"], json={**wanted, "size": 1}).status_code == 404
    assert "actions" not in batch(raw, repo, content)
    assert not list((hub.root / "lfs" / "incoming").iterdir())


def test_the_batch_call_needs_a_write_token(hub, repo):
    url = f"{hub.endpoint}/{repo}.git/info/lfs/objects/batch"
    body = {"operation": "upload", "objects": [{"oid": oid_of(b"x"), "size": 1}]}
    reader = {"Authorization": f"Bearer {add_token(hub.root, 'batch-reader', 'read')}"}
    assert httpx2.post(url, json=body, trust_env=False).status_code == 401
    assert httpx2.post(url, json=body, headers=reader, trust_env=False).status_code == 403


@pytest.mark.parametrize("wrong", [b"other bytes of it!", b"short", CONTENT + b"more", b""])
def test_other_bytes_than_announced_are_refused(raw, repo, hub, wrong):
    href = batch(raw, repo, CONTENT)["actions"]["upload"]["href"]
    assert put(href, wrong) in (400, 413)
    assert "actions" in batch(raw, repo, CONTENT)
    assert not list((hub.root / "lfs" / "incoming").iterdir())


def test_a_stream_without_a_length_is_stopped_at_the_announced_size(raw, repo, hub):
    href = batch(raw, repo, CONTENT)["actions"]["upload"]["href"]
    try:
        status = httpx2.put(href, content=(b"x" * 2**20 for _ in range(64)), trust_env=False)
        assert status.status_code == 413
    except httpx2.WriteError:
        pass  # The server had answered and closed before everything was sent: refused as well.
    assert not list((hub.root / "lfs" / "incoming").iterdir())


def test_forged_and_expired_links_are_refused(raw, repo, hub):
    href = batch(raw, repo, CONTENT)["actions"]["upload"]["href"]
    parts = urlsplit(href)
    query = {key: values[0] for key, values in parse_qs(parts.query).items()}
    forged = [
        {**query, "size": str(len(CONTENT) + 1)},
        {**query, "expires": str(int(query["expires"]) + 1)},
        {**query, "repo": "0" * 32},
        {**query, "signature": "0" * 64},
        {**query, "signature": "ä"},
        {key: value for key, value in query.items() if key != "signature"},
        {},
    ]
    base = f"{hub.endpoint}{parts.path}"
    for changed in forged:
        assert put(f"{base}?{urlencode(changed)}", CONTENT) in (400, 403)
    other_object = href.replace(oid_of(CONTENT), oid_of(b"other"))
    assert put(other_object, b"other") in (400, 403)
    expired = LinkSigner(hub.root).sign(query["repo"], oid_of(CONTENT), len(CONTENT), now=0)
    assert put(f"{base}?{expired}", CONTENT) == 403
    assert "actions" in batch(raw, repo, CONTENT)


def test_knowing_a_hash_does_not_open_another_repos_file(api, raw, repo):
    secret = b"private weights" * 100
    private = api.create_repo("acme/private-weights", private=True).repo_id
    api.create_commit(private, [CommitOperationAdd("w.bin", secret)], commit_message="m")
    assert "actions" in batch(raw, repo, secret)
    pointer = (
        "version https://git-lfs.github.com/spec/v1\n"
        f"oid sha256:{oid_of(secret)}\nsize {len(secret)}\n"
    )
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(path_or_fileobj=pointer.encode(), path_in_repo="stolen", repo_id=repo)
    assert error.value.response.status_code == 400
    # Who has the bytes may upload them; they are stored once.
    api.create_commit(repo, [CommitOperationAdd("own.bin", secret)], commit_message="m")
    assert api.get_paths_info(repo, "own.bin")[0].lfs.sha256 == oid_of(secret)
