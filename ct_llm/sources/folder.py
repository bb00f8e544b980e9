"""A folder of files, on this disk or behind a URL, as a source with revisions.

A folder has no commits, so its revision is the digest of the files that are used: their paths,
sizes and contents. `cache` remembers three things:

    <place>/contents-<choice>.json which content a version of a file has: nothing is read twice
    <place>/listings/<revision>    which contents a revision had, for cycles under way
    files/<content>                what was fetched from elsewhere: nothing is fetched twice
"""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from ct_llm.config import DatasetConfig
from ct_llm.cycle_dir import write_atomically
from ct_llm.digests import file_sha256, fingerprint
from ct_llm.errors import ContentGoneError, StorageError
from ct_llm.records import DataFile
from ct_llm.sources.readme import README, README_BYTES, ReadmeConfig, readme_configs
from ct_llm.sources.source import Head, iso_utc
from ct_llm.sources.splits import needs_readme, row_paths

NUM_THREADS = 8
NUM_LISTINGS = 50
SETTLED_SECONDS = 2.0
"""A file may be written twice within one tick of a disk's clock, with one time. What was written
longer ago than this cannot change any more without its time changing, too."""


class ListedFile(NamedTuple):
    path: str
    """Relative to the folder, with "/"."""
    num_bytes: int
    modified: str | None
    """ISO 8601 in UTC."""
    version: str
    """Another one whenever the content is another one."""
    settled: bool
    """Whether `version` can be relied on yet."""
    content_id: str | None
    """A checksum of the content, where listing gives one."""


def is_settled(modified: float) -> bool:
    """`modified`: seconds since the epoch."""
    return time.time() - modified > SETTLED_SECONDS


class Place(Protocol):
    """Where the files of a folder are read from."""

    name: str
    """For people; without credentials."""

    def listing(self) -> list[ListedFile]: ...
    def look(self, path: str) -> ListedFile | None: ...
    def local(self, path: str) -> Path | None:
        """Where the file lies on this disk, if it does."""
        ...

    def read_range(self, path: str, start: int, stop: int) -> bytes: ...
    def fetch(self, path: str, to: Path) -> None: ...


class FolderSource:
    def __init__(self, dataset: DatasetConfig, place: Place, cache: Path) -> None:
        self.dataset = dataset
        self._place = place
        self._fetched = cache / "files"
        self._cache = cache
        self._memory = cache / fingerprint(place.name)[:16]
        self._listed: dict[str, list[DataFile]] = {}
        """Listings of this process, by revision."""
        self._contents: dict[str, dict[str, str]] = {}
        """Revision to path to content."""
        # Two datasets may lie in one folder, and each remembers no more than what it looks at.
        choice = fingerprint([dataset.files, dataset.split, dataset.config])[:16]
        self._contents_file = self._memory / f"contents-{choice}.json"
        self._known: dict[str, str] = _read_json(self._contents_file)
        """Version of a file to its content."""

    def head(self) -> Head:
        """Lists the folder; reads what is new where listing tells no checksum.

        Raises ConfigError (no such folder or bucket, config or split), DataError (no permission, a
        damaged README), SecurityError (a link out of the folder), StorageError.
        """
        listing = {file.path: file for file in self._place.listing()}
        chosen = row_paths(listing, self.dataset, self._configs(listing.get(README)))
        files = self._data_files([listing[path] for path in chosen])
        revision = fingerprint([[file.path, file.num_bytes, file.content_id] for file in files])
        self._listed[revision] = files
        self._contents[revision] = {file.path: file.content_id for file in files}
        self._remember_listing(revision)
        newest = max((listing[path].modified or "" for path in chosen), default="")
        # What a file from the future says would hold brakes and ages for ever.
        return Head(revision, min(newest, iso_utc(datetime.now(UTC))) or None)

    def files(self, revision: str) -> list[DataFile] | None:
        """None for all but the current listing: what was there before may be gone."""
        if revision not in self._listed and self.head().revision != revision:
            return None
        return list(self._listed[revision])

    def read_range(self, path: str, revision: str, start: int, stop: int) -> bytes:
        """Raises ContentGoneError when the file has changed since it was listed."""
        content_id = self._content_at(path, revision)
        fetched = self._fetched_path(content_id)
        if fetched.is_file():
            with fetched.open("rb") as file:
                file.seek(start)
                content = file.read(stop - start)
        else:
            self._check_unchanged(path, content_id)
            content = self._place.read_range(path, start, stop)
        if len(content) != stop - start:
            raise self._changed(path)
        return content

    def open(self, path: str, revision: str) -> Path:
        """Raises ContentGoneError when the file has changed since it was listed, StorageError."""
        content_id = self._content_at(path, revision)
        fetched = self._fetched_path(content_id)
        if fetched.is_file():
            return fetched
        listed = self._check_unchanged(path, content_id)
        local = self._place.local(path)
        if local is not None:
            return local
        self._fetch(listed)
        return fetched

    # ------------------------------------------------------------ contents

    def _configs(self, readme: ListedFile | None) -> list[ReadmeConfig]:
        if readme is None or not readme.num_bytes or not needs_readme(self.dataset):
            return []
        text = self._place.read_range(README, 0, min(readme.num_bytes, README_BYTES))
        content = hashlib.sha256(text).hexdigest()
        return readme_configs(self._place.name, self._cache, content, lambda: text)

    def _data_files(self, listed: list[ListedFile]) -> list[DataFile]:
        with ThreadPoolExecutor(NUM_THREADS) as threads:
            contents = list(threads.map(self._content, listed))
        pairs = list(zip(listed, contents, strict=True))
        self._remember_contents(
            {
                file.version: content
                for file, content in pairs
                if file.settled and not file.content_id
            }
        )
        return [
            DataFile(
                path=file.path,
                content_id=content,
                num_bytes=file.num_bytes,
                num_rows=None,
                seen=False,
            )
            for file, content in pairs
        ]

    def _content(self, file: ListedFile) -> str:
        if file.content_id is not None:
            return file.content_id
        if file.version in self._known:
            return self._known[file.version]
        local = self._place.local(file.path)
        if local is None:
            return self._fetch(file)
        try:
            return file_sha256(local)
        except OSError as error:
            raise StorageError(f"could not read {local}: {error.strerror or error}.") from error

    def _content_at(self, path: str, revision: str) -> str:
        """What the file's content was at the revision."""
        if revision not in self._contents:
            remembered = _read_json(self._memory / "listings" / f"{revision}.json")
            if remembered or self.files(revision) is None:
                self._contents[revision] = remembered
        content_id = self._contents[revision].get(path)
        if content_id is None:
            raise self._changed(path)
        return content_id

    def _check_unchanged(self, path: str, content_id: str) -> ListedFile:
        listed = self._place.look(path)
        if listed is None or self._content(listed) != content_id:
            raise self._changed(path)
        return listed

    def _changed(self, path: str) -> ContentGoneError:
        return ContentGoneError(
            f"{self._place.name}: {path} was changed or removed since it was listed. Run the command "
            "again to take the folder as it is now; files that are added under new names and never "
            "rewritten do not meet this."
        )

    # ------------------------------------------------------------ cache

    def _fetched_path(self, content_id: str) -> Path:
        return self._fetched / hashlib.sha256(content_id.encode()).hexdigest()

    def _fetch(self, file: ListedFile) -> str:
        """Bring the file here and return its content's id. All of it or nothing."""
        with _temporary(self._fetched) as temporary:
            self._place.fetch(file.path, temporary)
            after = self._place.look(file.path)
            if after is None or after.version != file.version:
                raise self._changed(file.path)
            if temporary.stat().st_size != file.num_bytes:
                raise self._changed(file.path)
            content_id = file.content_id or file_sha256(temporary)
            temporary.replace(self._fetched_path(content_id))
        return content_id

    def _remember_contents(self, contents: dict[str, str]) -> None:
        if contents != self._known:
            # It is only a memory: where it cannot be written, files are read again.
            with suppress(StorageError):
                write_atomically(self._contents_file, json.dumps(contents).encode())
            self._known = contents

    def _remember_listing(self, revision: str) -> None:
        folder = self._memory / "listings"
        path = folder / f"{revision}.json"
        if path.exists():
            return
        write_atomically(path, json.dumps(self._contents[revision]).encode())
        for old in sorted(folder.glob("*.json"), key=_modified)[:-NUM_LISTINGS]:
            old.unlink(missing_ok=True)


def _modified(path: Path) -> float:
    # Another process may have taken it away in between.
    return path.stat().st_mtime if path.exists() else 0.0


def _read_json(path: Path) -> dict[str, str]:
    """{} when it is not there or damaged: it is only ever a memory."""
    with suppress(OSError, ValueError):
        value = json.loads(path.read_text("utf-8"))
        if isinstance(value, dict):
            return value
    return {}


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A new file in `folder`, gone afterwards unless it was moved. Raises StorageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".")
        os.close(descriptor)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"could not write to {folder}: {error.strerror or error}.") from error
