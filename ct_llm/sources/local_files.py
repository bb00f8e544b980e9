"""Files of a folder on this disk. Links that leave it are refused: whoever fills a folder with data
must not decide which other files of this machine are trained on.
"""

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ct_llm.errors import ConfigError, DataError, SecurityError, StorageError
from ct_llm.sources.folder import ListedFile, is_settled
from ct_llm.sources.readme import README
from ct_llm.sources.source import iso_utc
from ct_llm.sources.splits import holds_rows, reaches


def local_root(place: str) -> Path | None:
    """The folder of a path or of a file:// URL; None for other URLs."""
    for scheme in ("file://", "local://"):
        place = place.removeprefix(scheme)
    return None if "://" in place else Path(place)


class LocalFiles:
    """A Place. `glob`: folders that it cannot reach are not looked into."""

    def __init__(self, root: Path, glob: str = "**") -> None:
        self.name = str(root)
        self._root = root
        self._glob = glob

    def listing(self) -> list[ListedFile]:
        """Raises ConfigError (no such folder), SecurityError (a link out of it), StorageError."""
        if not self._root.is_dir():
            problem = "is a file, not a folder" if self._root.exists() else "does not exist"
            hint = (
                "Name its folder, and the file in `files`" if self._root.exists() else "Create it"
            )
            raise ConfigError(f"datasets: path {self.name} {problem}. {hint}, or correct the path.")
        try:
            return [self._listed(path) for path in self._walk("")]
        except OSError as error:
            raise StorageError(f"could not list {self.name}: {error.strerror or error}.") from error

    def _walk(self, folder: str) -> Iterator[str]:
        with os.scandir(self._root / folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if reaches(path, self._glob):
                    yield from self._walk(path)
            elif self._may_hold_rows(path) or self._is_folder_in_reach(path):
                if entry.is_symlink():
                    self._refuse_way_out(path)
                # A link to a folder within is passed over: its files are listed where they lie. So are
                # pipes and devices: reading one could wait for ever.
                if entry.is_file():
                    yield path

    def _is_folder_in_reach(self, path: str) -> bool:
        return (self._root / path).is_dir() and reaches(path, self._glob)

    def _may_hold_rows(self, path: str) -> bool:
        return path == README or holds_rows(path, self._glob, text=True)

    def _refuse_way_out(self, path: str) -> None:
        try:
            target = (self._root / path).resolve(strict=True)
        except (RuntimeError, FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"{self.name}: {path} is a link that leads nowhere. Remove it, or leave it out with "
                "this dataset's `files`."
            ) from error
        if not target.is_relative_to(self._root.resolve()):
            raise SecurityError(
                f"{self.name}: {path} is a link out of the folder, to {target}. Links are followed "
                "only within the folder; put a copy there instead, or leave it out with this "
                "dataset's `files`."
            )

    def _listed(self, path: str) -> ListedFile:
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = path.encode(errors="surrogateescape").decode(errors="replace")
            raise DataError(f"{self.name}: the name {shown!r} is not UTF-8. Rename it.") from None
        status = (self._root / path).stat()
        return ListedFile(
            path=path,
            num_bytes=status.st_size,
            modified=iso_utc(datetime.fromtimestamp(status.st_mtime, UTC)),
            # The change time as well: a copy can set the modification time back, but not this one.
            version=f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}",
            settled=is_settled(max(status.st_mtime, status.st_ctime)),
            content_id=None,
        )

    def look(self, path: str) -> ListedFile | None:
        """As it is now; None when it is gone. Raises SecurityError when it has become a link out."""
        local = self._root / PurePosixPath(path)
        try:
            if not stat.S_ISREG(local.stat().st_mode):
                return None
            self._refuse_way_out(path)
            return self._listed(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"could not read {local}: {error.strerror or error}.") from error

    def local(self, path: str) -> Path:
        return self._root / path

    def read_range(self, path: str, start: int, stop: int) -> bytes:
        """Raises StorageError."""
        self._refuse_way_out(path)
        try:
            with (self._root / path).open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise StorageError(
                f"could not read {self.name}: {path}: {error.strerror or error}."
            ) from error

    def fetch(self, path: str, to: Path) -> None:
        raise NotImplementedError("files of this disk are read where they lie")
