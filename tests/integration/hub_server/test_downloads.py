"""Downloads by the clients that people use, and the bytes and headers below them."""

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import CommitOperationAdd, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

TEXT = b"0123456789" * 10
LARGE = bytes(range(256)) * 20


def parquet(rows: int, *, row_group_size: int | None = None) -> bytes:
    table = pa.table(
        {"id": range(rows), "text": [hashlib.sha256(b"%d" % i).hexdigest() for i in range(rows)]}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=row_group_size)
    return buffer.getvalue()


@pytest.fixture
def files(api, repo) -> str:
    operations = [
        CommitOperationAdd("text.txt", TEXT),
        CommitOperationAdd("sub/large file ä.bin", LARGE),
        CommitOperationAdd("empty", b""),
    ]
    api.create_commit(repo, operations, commit_message="m")
    return repo


@pytest.mark.parametrize(
    ("path", "content"), [("text.txt", TEXT), ("sub/large%20file%20%C3%A4.bin", LARGE)]
)
def test_single_ranges(raw, files, path, content):
    url, size = f"/{files}/resolve/main/{path}", len(content)
    assert raw.get(url).content == content
    for header, expected, place in [
        ("bytes=0-0", content[:1], "0-0"),
        ("bytes=10-19", content[10:20], "10-19"),
        ("bytes=90-", content[90:], f"90-{size - 1}"),
        ("bytes=-5", content[-5:], f"{size - 5}-{size - 1}"),
        ("bytes=-999999", content, f"0-{size - 1}"),
        ("bytes=10-999999", content[10:], f"10-{size - 1}"),
    ]:
        answer = raw.get(url, headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, expected)
        assert answer.headers["content-range"] == f"bytes {place}/{size}"
        assert answer.headers["content-length"] == str(len(expected))
    for header in (f"bytes={size}-", "bytes=-0", "bytes=999999-999999"):
        answer = raw.get(url, headers={"Range": header})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{size}"
    for header in ("bytes=5-2", "bytes=-", "lines=1-2", "bytes=0-1,4-5", "bytes=a-b"):
        answer = raw.get(url, headers={"Range": header})
        assert (answer.status_code, answer.content) == (200, content)
    changed = raw.get(url, headers={"Range": "bytes=0-0", "If-Range": '"other"'})
    assert changed.status_code == 200


def test_headers_of_text_and_of_large_files(api, raw, files):
    commit = api.model_info(files).sha
    text = raw.head(f"/{files}/resolve/main/text.txt")
    blob = hashlib.sha1(b"blob %d\0" % len(TEXT) + TEXT).hexdigest()
    assert text.headers["etag"] == f'"{blob}"'
    assert text.headers["x-repo-commit"] == commit
    assert text.headers["content-length"] == str(len(TEXT))
    assert text.headers["accept-ranges"] == "bytes"
    assert text.content == b"" and "x-linked-etag" not in text.headers
    url = hf_hub_url(files, "sub/large file ä.bin", endpoint=api.endpoint)
    large = get_hf_file_metadata(url, token=api.token)
    assert large.etag == hashlib.sha256(LARGE).hexdigest()
    assert (large.size, large.commit_hash) == (len(LARGE), commit)
    answer = raw.head(f"/{files}/resolve/main/sub/large%20file%20%C3%A4.bin")
    assert answer.headers["x-linked-size"] == str(len(LARGE))
    assert answer.headers["x-linked-etag"] == f'"{large.etag}"'
    assert not [name for name in answer.headers if "xet" in name.lower()]


def test_hf_hub_download_at_refs_and_revisions(api, files, tmp_path):
    old = api.model_info(files).sha
    api.create_branch(files, branch="feature/x")
    api.create_commit(
        files, [CommitOperationAdd("text.txt", b"new")], commit_message="m", revision="feature/x"
    )
    for revision, expected in (("main", TEXT), (old, TEXT), ("feature/x", b"new")):
        path = api.hf_hub_download(files, "text.txt", revision=revision, cache_dir=tmp_path)
        assert Path(path).read_bytes() == expected
    assert Path(api.hf_hub_download(files, "empty", cache_dir=tmp_path)).read_bytes() == b""
    local = api.hf_hub_download(files, "sub/large file ä.bin", local_dir=tmp_path / "local")
    assert Path(local).read_bytes() == LARGE


def test_what_is_missing_has_its_own_error(api, files):
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(files, "absent")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(files, "sub")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(files, "text.txt", revision="absent")
    with pytest.raises(RepositoryNotFoundError):
        api.hf_hub_download("acme/absent", "text.txt")
    assert api.file_exists(files, "text.txt") and not api.file_exists(files, "absent")
    assert api.revision_exists(files, "main") and not api.revision_exists(files, "absent")


def test_snapshot_download_by_branch_and_by_sha(api, files, tmp_path):
    for revision in (None, api.model_info(files).sha):
        folder = Path(api.snapshot_download(files, revision=revision, cache_dir=tmp_path))
        found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert found == {".gitattributes", "text.txt", "sub/large file ä.bin", "empty"}
        assert (folder / "sub" / "large file ä.bin").read_bytes() == LARGE


def test_load_dataset_by_sha(api, run_client):
    name = api.create_repo("acme/rows", repo_type="dataset").repo_id
    operations = [
        CommitOperationAdd("README.md", b"---\nlicense: mit\n---\n# Rows\n"),
        CommitOperationAdd("data/train-00000-of-00001.parquet", parquet(50)),
    ]
    first = api.create_commit(name, operations, commit_message="m", repo_type="dataset").oid
    shard = CommitOperationAdd("data/train-00001-of-00002.parquet", parquet(7))
    second = api.create_commit(name, [shard], commit_message="more", repo_type="dataset").oid
    counts = run_client(
        "from datasets import load_dataset\n"
        f"for sha in ({first!r}, {second!r}):\n"
        f"    rows = load_dataset({name!r}, split='train', revision=sha)\n"
        "    print(len(rows), rows[3]['id'])\n"
    )
    assert counts.splitlines() == ["50 3", "57 3"]


def test_push_to_hub_and_streaming(run_client):
    out = run_client(
        "from datasets import Dataset, load_dataset\n"
        "from huggingface_hub import HfApi\n"
        "Dataset.from_dict({'x': list(range(20))}).push_to_hub('acme/pushed')\n"
        "sha = HfApi().dataset_info('acme/pushed').sha\n"
        "rows = load_dataset('acme/pushed', split='train', revision=sha, streaming=True)\n"
        "print(sum(row['x'] for row in rows))\n"
    )
    assert out.splitlines()[-1] == "190"


def test_a_parquet_footer_is_read_by_range(api, run_client):
    name = api.create_repo("acme/footer", repo_type="dataset").repo_id
    content = parquet(200_000, row_group_size=20_000)
    assert len(content) > 10 * 2**20
    api.create_commit(
        name, [CommitOperationAdd("x.parquet", content)], commit_message="m", repo_type="dataset"
    )
    out = run_client(
        "import pyarrow.parquet as pq\n"
        "from huggingface_hub import HfFileSystem\n"
        "files = HfFileSystem()\n"
        "read = 0\n"
        "def counted(self, start, end, original=__import__('huggingface_hub').hf_file_system"
        ".HfFileSystemFile._fetch_range):\n"
        "    global read\n"
        "    data = original(self, start, end)\n"
        "    read += len(data)\n"
        "    return data\n"
        "__import__('huggingface_hub').hf_file_system.HfFileSystemFile._fetch_range = counted\n"
        f"with files.open('datasets/{name}/x.parquet', block_size=2**16) as file:\n"
        "    print(pq.read_metadata(file).num_rows, read)\n"
        f"print(files.ls('datasets/{name}', detail=False))\n"
    )
    rows, read = out.splitlines()[0].split()
    assert int(rows) == 200_000
    assert 0 < int(read) < 2**18
    assert f"datasets/{name}/x.parquet" in out
