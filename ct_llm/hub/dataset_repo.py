"""A dataset repo on the Hub: which files hold rows, how many rows, and the files themselves.

Rows of parquet files are counted from their footers, read by range: a few KB whatever the file's
size. JSON has no footer, so a new or changed file is downloaded, and `prepare` finds it in the cache.
"""

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ct_llm.errors import DataError, HubUnavailableError
from ct_llm.hub.client import explained
from ct_llm.records import DataFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json")
METADATA = {"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"}
"""Written beside rows by `datasets`; they hold none."""

TAIL_BYTES = 64 * 1024
"""First read of a footer: enough for thousands of column chunks."""
NUM_THREADS = 8


def list_data_files(api: "HfApi", repo: str, revision: str, glob: str) -> list[DataFile]:
    """The files that hold rows at a revision, by path; nothing is counted yet.

    Raises HubNotFoundError when repo or revision is not there.
    """
    from huggingface_hub.hf_api import RepoFile

    with explained("list the files", repo):
        tree = list(
            api.list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
        )
    return [
        DataFile(
            path=entry.path,
            content_id=entry.lfs.sha256 if entry.lfs else entry.blob_id,
            num_bytes=entry.size,
            num_rows=None,
            seen=False,
        )
        for entry in sorted(tree, key=lambda entry: entry.path)
        if isinstance(entry, RepoFile) and holds_rows(entry.path, glob)
    ]


def holds_rows(path: str, glob: str) -> bool:
    """By name: the ending, no metadata, no hidden file or folder, and the config's glob."""
    place = PurePosixPath(path)
    hidden = any(part.startswith(".") for part in place.parts)
    if hidden or place.name in METADATA or not place.name.endswith(SUFFIXES):
        return False
    # `**/` also stands for no folder at all, as in every shell that knows it.
    return fnmatchcase(path, glob) or fnmatchcase(path, glob.replace("**/", ""))


def count_rows(api: "HfApi", repo: str, revision: str, files: Sequence[DataFile]) -> list[DataFile]:
    """The same files with `num_rows`. Raises DataError for one that is damaged."""

    def counted(file: DataFile) -> DataFile:
        where = f"{repo} at {revision}: {file.path}"
        if file.path.endswith(".parquet"):
            num_rows = _parquet_rows(api, repo, revision, file, where)
        else:
            num_rows = json_rows(download_file(api, repo, revision, file.path), where)
        return file.model_copy(update={"num_rows": num_rows})

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return list(threads.map(counted, files))


def download_file(api: "HfApi", repo: str, revision: str, path: str) -> Path:
    """The file on this disk, from the Hub's cache if it is there. Raises HubNotFoundError."""
    with explained(f"download {path}", repo):
        return Path(api.hf_hub_download(repo, path, revision=revision, repo_type="dataset"))


def open_dataset_file(api: "HfApi") -> Callable[[str, str, str], Path]:
    """(repo, revision, path) -> local path: how `prepare` reads without knowing of the Hub."""
    return lambda repo, revision, path: download_file(api, repo, revision, path)


# ---------------------------------------------------------------- counting


def json_rows(path: Path, where: str) -> int:
    """Rows of a JSON array, or lines of JSONL whatever its name is. Raises DataError."""
    with path.open("rb") as file:
        if _first_byte(file) == b"[" and path.suffix == ".json":
            file.seek(0)
            try:
                return len(json.load(file))
            except ValueError as error:
                raise DataError(f"{where} is not JSON: {error}. Mend or remove the file.") from None
        file.seek(0)
        return sum(1 for line in file if line.strip())


def _first_byte(file: io.BufferedReader) -> bytes:
    while (byte := file.read(1)).isspace():
        pass
    return byte


def _parquet_rows(api: "HfApi", repo: str, revision: str, file: DataFile, where: str) -> int:
    from pyarrow import ArrowException

    tail = _read_tail(api, repo, revision, file.path, min(TAIL_BYTES, file.num_bytes))
    needed = footer_bytes(tail, where)
    if needed > len(tail):
        tail = _read_tail(api, repo, revision, file.path, min(needed, file.num_bytes))
    try:
        return rows_in_footer(tail)
    except (ArrowException, OSError) as error:
        raise DataError(
            f"{where}: its parquet footer is damaged: {error}. Upload it again."
        ) from None


def footer_bytes(tail: bytes, where: str) -> int:
    """How many bytes from the end the footer takes, its length and magic included."""
    if len(tail) < 12 or tail[-4:] not in (b"PAR1", b"PARE"):
        raise DataError(f"{where} is not a parquet file: its end has no PAR1. Upload it again.")
    return int.from_bytes(tail[-8:-4], "little") + 8


def rows_in_footer(tail: bytes) -> int:
    import pyarrow.parquet as pq

    # A reader asks only for the end of the file; the magic stands at its beginning too.
    return pq.read_metadata(io.BytesIO(b"PAR1" + tail)).num_rows


def _read_tail(api: "HfApi", repo: str, revision: str, path: str, size: int) -> bytes:
    """The last `size` bytes of a file by one range request."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    url = hf_hub_url(repo, path, repo_type="dataset", revision=revision, endpoint=api.endpoint)
    headers = build_hf_headers(token=api.token, library_name="ct_llm")
    with explained(f"read the footer of {path}", repo):
        response = http_backoff(
            "GET",
            url,
            headers={**headers, "Range": f"bytes=-{size}", "Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=30,
        )
        hf_raise_for_status(response)
    if len(response.content) < size:
        raise HubUnavailableError(
            f"{repo}: {path}: asked for the last {size} bytes, got {len(response.content)}. Run again."
        )
    return response.content[-size:]
