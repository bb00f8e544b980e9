"""The committed base model, made ready for upload."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

BASE = Path(__file__).parent / "base"


def verify_base() -> None:
    """Raise ``ValueError`` unless each file of the committed base has its recorded hash."""
    for line in (BASE / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ", 1)
        if hashlib.sha256((BASE / name).read_bytes()).hexdigest() != digest:
            raise ValueError(f"{BASE / name} is not the file that SHA256SUMS records")


def write_base(folder: Path) -> None:
    """Copy the base model (bfloat16, 1.7 MB) to ``folder``, ready for ``upload_folder``."""
    verify_base()
    folder.mkdir(parents=True, exist_ok=True)
    for path in BASE.iterdir():
        shutil.copy(path, folder / path.name)
