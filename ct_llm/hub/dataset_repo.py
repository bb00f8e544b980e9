"""A dataset repo on the Hub: which files hold rows, how many rows, and the files themselves.

Rows of parquet files are counted from their footers, read by range: at most 64 KiB, whatever the
file's size. JSON has no footer, so a new or changed file is downloaded, and `prepare` finds it in the
cache. Everything is asked at a full commit sha, so that a push in between changes nothing.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ct_llm.errors import DataError, HubNotFoundError, HubUnavailableError
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

ReadBytes = Callable[[int, int], bytes]
"""The bytes of a file from the first position up to, not including, the second."""


# ---------------------------------------------------------------- which files


def list_data_files(api: "HfApi", repo: str, revision: str, glob: str) -> list[DataFile] | None:
    """The files that hold rows at a commit, by path, nothing counted; None if the commit is gone.

    A commit goes when history is squashed or force-pushed. One request per 1,000 files and folders.
    Raises HubNotFoundError when the repo is not there, HubAccessError, HubUnavailableError.
    """
    from huggingface_hub import RepoFile, errors

    with explained(f"list the files at {revision}", repo):
        try:
            tree = list(
                api.list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
            )
        except errors.RevisionNotFoundError:
            return None
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
    """By name: the ending, no metadata, no hidden file or folder, and the config's glob.

    `*` stays within a folder and `**` spans any number of them, none included, as in `data_files` of
    the `datasets` library.
    """
    parts = PurePosixPath(path).parts
    name = parts[-1].lower()
    hidden = any(part.startswith(".") for part in parts)
    if hidden or name in METADATA or not name.endswith(SUFFIXES):
        return False
    return _matches(parts, PurePosixPath(glob).parts)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skip:], pattern[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


# ---------------------------------------------------------------- how many rows


def count_rows(
    api: "HfApi",
    repo: str,
    revision: str,
    files: Sequence[DataFile],
    *,
    skip_unreadable: bool = False,
) -> list[DataFile]:
    """The same files with `num_rows`, eight at a time.

    One that is damaged raises DataError, and one that the Hub no longer has HubNotFoundError; with
    `skip_unreadable` they keep None instead. Raises HubUnavailableError, HubAccessError.
    """

    def counted(file: DataFile) -> DataFile:
        try:
            num_rows = _count_file(api, repo, revision, file)
        except (DataError, HubNotFoundError):
            if not skip_unreadable:
                raise
            num_rows = None
        return file.model_copy(update={"num_rows": num_rows})

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return list(threads.map(counted, files))


def _count_file(api: "HfApi", repo: str, revision: str, file: DataFile) -> int:
    try:
        if file.path.lower().endswith(".parquet"):
            return parquet_rows(
                file.num_bytes,
                lambda start, stop: _read_range(api, repo, revision, file.path, start, stop),
            )
        return json_rows(download_file(api, repo, revision, file.path))
    except ValueError as error:
        raise DataError(
            f"{repo} at {revision}: the rows of {file.path} cannot be counted: {error}. Upload it "
            "again, remove it, or leave it out with this dataset's `files`."
        ) from error


def parquet_rows(num_bytes: int, read: ReadBytes) -> int:
    """Rows by the footer of a parquet file of `num_bytes`. Raises ValueError when it is damaged.

    Reads the last 64 KiB and, of a footer that is larger, exactly the rest.
    """
    # "PAR1", data, footer, length of the footer (4 bytes, little endian), "PAR1"
    if num_bytes < 12:
        raise ValueError(f"{num_bytes} bytes are too few for a parquet file")
    tail = read(max(0, num_bytes - TAIL_BYTES), num_bytes)
    if tail[-4:] == b"PARE":
        raise ValueError("its footer is encrypted")
    if tail[-4:] != b"PAR1":
        raise ValueError("it is not a parquet file, its end has no PAR1")
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed + 4 > num_bytes:
        raise ValueError(f"its footer claims {needed - 8} bytes of a file of {num_bytes}")
    if needed > len(tail):
        tail = read(num_bytes - needed, num_bytes - len(tail)) + tail
    return _rows_in_footer(tail[-needed:])


def _rows_in_footer(footer: bytes) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A reader asks only for the end of the file; the magic stands at its beginning too. What is not
    # Thrift surfaces as OSError, though no file is involved.
    try:
        num_rows = pq.read_metadata(pa.BufferReader(b"PAR1" + footer)).num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"its parquet footer is damaged ({error})") from error
    if num_rows < 0:
        raise ValueError(f"its parquet footer is damaged (it says {num_rows} rows)")
    return num_rows


def json_rows(path: Path) -> int:
    """Rows of JSON lines or, in a .json file, of one array. Raises ValueError when it is damaged.

    Lines are counted, not parsed; an array is parsed in memory.
    """
    if path.suffix.lower() == ".json":
        with path.open("rb") as file:
            first = next(_filled(file), b"")
        if first.startswith(b"["):
            return len(_parsed(path.read_bytes()))
        # An object over several lines is one object, such as a schema: its lines are not rows.
        if first:
            _parsed(first)
    with path.open("rb") as file:
        return sum(1 for _ in _filled(file))


def _filled(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines that are not blank, without the byte order mark that some editors put first."""
    stripped = (line.removeprefix(b"\xef\xbb\xbf").strip() for line in lines)
    return (line for line in stripped if line)


def _parsed(text: bytes) -> list[object]:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"it is neither a JSON array of rows nor one row a line ({error})"
        ) from error


def _read_range(api: "HfApi", repo: str, revision: str, path: str, start: int, stop: int) -> bytes:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    url = hf_hub_url(repo, path, repo_type="dataset", revision=revision, endpoint=api.endpoint)
    headers = build_hf_headers(token=api.token, library_name="ct_llm")
    # Compressed on the way, it would be a range of other bytes.
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with (
        explained(f"read the footer of {path} at {revision}", repo),
        http_stream_backoff(
            "GET", url, headers=headers, follow_redirects=True, timeout=30, max_retries=2
        ) as response,
    ):
        hf_raise_for_status(response)
        # Streamed, because a proxy that ignores Range sends the whole file: gigabytes for one number.
        partial = response.status_code == 206
        content = response.read() if partial else b""
    if len(content) != stop - start:
        got = f"{len(content)} bytes came" if partial else "the whole file was offered"
        raise HubUnavailableError(
            f"could not read the footer of {path} at {revision} ({repo}): asked for {stop - start} "
            f"bytes, {got}. Is there a proxy that does not know Range? Run the same command again."
        )
    return content


# ---------------------------------------------------------------- the files themselves


def download_file(api: "HfApi", repo: str, revision: str, path: str) -> Path:
    """The file on this disk, from the Hub's cache if it is there.

    Raises HubNotFoundError, HubAccessError, HubUnavailableError, StorageError (disk full).
    """
    with explained(f"download {path} at {revision}", repo):
        return Path(api.hf_hub_download(repo, path, revision=revision, repo_type="dataset"))


def open_dataset_file(api: "HfApi") -> Callable[[str, str, str], Path]:
    """(repo, revision, path) -> local path: how `prepare` reads without knowing of the Hub."""
    return lambda repo, revision, path: download_file(api, repo, revision, path)
