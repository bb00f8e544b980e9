"""Files of a folder behind an fsspec URL, such as a prefix of an S3 bucket.

Credentials and endpoint come from where the file system's own library looks for them, never from the
config. For S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the machine's role, and
AWS_ENDPOINT_URL for a store other than Amazon's. https://docs.aws.amazon.com/sdkref/latest/guide
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ct_llm.digests import fingerprint
from ct_llm.errors import ConfigError, ContentGoneError, CtError, DataError, StorageError
from ct_llm.sources.file_kinds import file_kind
from ct_llm.sources.folder import ListedFile, is_settled
from ct_llm.sources.readme import README
from ct_llm.sources.source import iso_utc

# What file systems call them. Listing and looking at one file say the same in different forms, and
# other things besides, so only these are relied on.
_CHECKSUMS = ("ETag", "etag", "md5Hash", "md5", "sha", "checksum")
_WHEN_MODIFIED = ("LastModified", "last_modified", "mtime", "modified", "updated", "created")


class RemoteFiles:
    """A Place. Listing gives a checksum on S3; elsewhere a file is fetched to know its content.

    On S3 the checksum is the ETag with the size. An object that was uploaded in one part has the same
    ETag wherever its bytes are the same. With another part size, or encryption by KMS, the same bytes
    get another ETag and count as new content; their rows are then found to be duplicates.
    """

    def __init__(self, url: str) -> None:
        self.name = url
        protocol = url.partition("://")[0]
        if protocol in ("http", "https"):
            raise ConfigError(
                f"datasets: path {url}: a web server does not tell what a folder holds. Use a folder, "
                "a bucket (s3://...) or a dataset repo (hf://datasets/...)."
            )
        try:
            from fsspec.core import url_to_fs

            # Neither instances nor listings that live on: a folder is watched for change.
            self._fs, root = url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            extra = "ct_llm[s3]" if protocol in ("s3", "s3a") else None
            hint = f"Run: pip install '{extra}'" if extra else str(error)
            raise ConfigError(
                f"datasets: path {url} needs a package that is not installed. {hint}"
            ) from error
        except ValueError as error:
            raise ConfigError(f"datasets: path {url} is not a URL that fsspec knows.") from error
        self._root = root.rstrip("/")
        self._has_checksums = protocol in ("s3", "s3a")

    def listing(self) -> list[ListedFile]:
        """One request per 1,000 files. Raises ConfigError, DataError, StorageError."""
        with self._explained("list the files"):
            found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        if self._root in found and found[self._root].get("type") == "file":
            raise ConfigError(
                f"datasets: path {self.name} is a file, not a folder. Name its folder, and the file "
                "in `files`."
            )
        files = []
        for name, info in found.items():
            path = name.removeprefix(self._root).lstrip("/")
            if info.get("type") == "file" and (path == README or file_kind(path) is not None):
                files.append(self._listed(path, info))
        return files

    def look(self, path: str) -> ListedFile | None:
        with self._explained(f"look at {path}"):
            try:
                info = self._fs.info(f"{self._root}/{path}")
            except FileNotFoundError:
                return None
        return self._listed(path, info) if info.get("type") == "file" else None

    def local(self, path: str) -> Path | None:
        return None

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        with self._explained(f"read a part of {path}", missing=ContentGoneError):
            return self._fs.cat_file(f"{self._root}/{path}", start=start, end=stop)

    def fetch(self, path: str, to: Path) -> None:
        with self._explained(f"fetch {path}", missing=ContentGoneError):
            self._fs.get_file(f"{self._root}/{path}", str(to))

    def _listed(self, path: str, info: dict[str, Any]) -> ListedFile:
        num_bytes = int(info["size"] or 0)
        modified = _modified(info)
        checksums = {key: str(info[key]).strip('"') for key in _CHECKSUMS if info.get(key)}
        if not checksums and modified is None:
            raise ConfigError(
                f"datasets: path {self.name}: nothing there tells when a file has changed. Use a "
                "folder, a bucket (s3://...) or a dataset repo (hf://datasets/...)."
            )
        # To the millisecond: one file system gives the same time as a number and as a date.
        time = None if modified is None else round(modified.timestamp(), 3)
        is_known = self._has_checksums and "ETag" in checksums
        return ListedFile(
            path=path,
            num_bytes=num_bytes,
            modified=iso_utc(modified) if modified else None,
            version=fingerprint([path, num_bytes, checksums, time]),
            settled=bool(checksums) or time is None or is_settled(time),
            content_id=f"etag:{checksums['ETag']}:{num_bytes}" if is_known else None,
        )

    @contextmanager
    def _explained(self, doing: str, missing: type[CtError] = ConfigError) -> Iterator[None]:
        """The libraries' exceptions in our words; their texts stay out, as they may quote secrets."""
        try:
            yield
        except CtError:
            raise
        except ImportError as error:
            raise ConfigError(
                f"could not {doing} ({self.name}): a package is missing: {error.name}."
            ) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise missing(
                f"could not {doing} ({self.name}): no such bucket, folder or file. Check `path` of "
                "this dataset."
            ) from error
        except PermissionError as error:
            raise self._refused(doing) from error
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else type(error).__name__
            raise StorageError(
                f"could not {doing} ({self.name}): {reason}. Check the network and the disk, then run "
                "the same command again."
            ) from error
        except _client_errors() as error:
            if "Credentials" in type(error).__name__:
                raise self._refused(doing) from error
            raise StorageError(
                f"could not {doing} ({self.name}): {type(error).__name__}. Check the network and "
                "AWS_ENDPOINT_URL, then run the same command again."
            ) from error

    def _refused(self, doing: str) -> DataError:
        return DataError(
            f"could not {doing} ({self.name}): no credentials, or they do not allow it. For S3 set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for others see their fsspec "
            "package."
        )


def _client_errors() -> tuple[type[Exception], ...]:
    """What botocore raises besides OSError; it is there only where s3fs is."""
    exceptions = sys.modules.get("botocore.exceptions")
    return (exceptions.BotoCoreError, exceptions.ClientError) if exceptions else ()


def _modified(info: dict[str, Any]) -> datetime | None:
    for key in _WHEN_MODIFIED:
        value = info.get(key)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, (int, float)):
            return datetime.fromtimestamp(value, UTC)
    return None
