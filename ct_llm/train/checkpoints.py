"""Checkpoints that can be trusted after a kill.

transformers writes straight into `checkpoint-N` and resumes from the highest number whatever its
state. So a marker with the hash of every file is written last, and only the newest folder whose
marker holds is resumed from.
"""

import re
import shutil
from pathlib import Path

from pydantic import ValidationError

from ct_llm.cycle_dir import write_record
from ct_llm.digests import file_sha256
from ct_llm.records import Record

MARKER = "ct_complete.json"
_NAME = re.compile(r"checkpoint-(\d+)")


class CheckpointMarker(Record):
    fingerprint: str
    """Of the request that was being trained."""
    files: dict[str, str]
    """sha256 of each file in the checkpoint."""


def mark_complete(checkpoint: Path, fingerprint: str) -> None:
    """Say that every file of the checkpoint is there. Call it when nothing is written any more."""
    write_record(
        checkpoint / MARKER, CheckpointMarker(fingerprint=fingerprint, files=_hashes(checkpoint))
    )


def checkpoint_to_resume(folder: Path, fingerprint: str) -> tuple[Path | None, list[str]]:
    """The newest intact checkpoint of this very request, and a note for each one it removed.

    What cannot be resumed is removed, so that nothing picks it up later and the disk does not fill.
    """
    found = [
        (int(match[1]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name))
    ]
    newest: Path | None = None
    notes: list[str] = []
    for _, path in sorted(found, reverse=True):
        fault = _fault(path, fingerprint) if newest is None else None
        if fault is not None:
            shutil.rmtree(path)
            notes.append(f"removed {path.name}: {fault}")
        elif newest is None:
            newest = path
    return newest, notes


def _fault(checkpoint: Path, fingerprint: str) -> str | None:
    path = checkpoint / MARKER
    if not path.is_file():
        return "it was not written to its end"
    try:
        marker = CheckpointMarker.model_validate_json(path.read_bytes())
    except ValidationError:
        return "its marker cannot be read"
    if marker.fingerprint != fingerprint:
        return "it belongs to another configuration, data set or base model"
    if _hashes(checkpoint) != marker.files:
        return "its files are not the ones that were written"
    return None


def _hashes(checkpoint: Path) -> dict[str, str]:
    return {
        path.relative_to(checkpoint).as_posix(): file_sha256(path)
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
