"""Making files and new names on disk survive a power cut."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Side by side the file system's journal takes all of them in one go: measured on ext4, three new files
# cost 12 ms one after the other and 1-2 ms together.
_pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="fsync")


def fsync_all(paths: Iterable[Path]) -> None:
    """Flush files, and folders in which names were created or replaced."""
    for _ in _pool.map(_fsync, paths):
        pass


def folders_up_to(folder: Path, top: Path) -> list[Path]:
    """`folder` and each one above it up to and including `top`."""
    return [folder, *(above for above in folder.parents if above.is_relative_to(top))]


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
