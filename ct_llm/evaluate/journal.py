"""An unfinished evaluation on disk: every finished batch, so that a kill costs one batch at most.

    <folder>/journal/
      inputs.json      fingerprint of what the scores follow from; written last when a journal begins
      known.json       scores of earlier evaluations that this one goes by, as they were at its start
      00000.json ...   one finished batch each

Every file is written whole or not at all. The evaluation does not know that it was interrupted: it
runs the same loop again, and a batch that is here is read instead of scored. A file that cannot be
read, or that holds other items than the batch, is as good as none.

Whoever asked for the evaluation removes the journal once its result is on record (`remove_journal`): a
kill in between would else be followed by a new evaluation, which knows more scores than the first did.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ct_llm.cycle_dir import write_atomically
from ct_llm.digests import fingerprint
from ct_llm.errors import StorageError
from ct_llm.records import KnownScore, Side

FORMAT = 1
"""Raise when batches saved before would be scored differently."""

ItemKey = tuple[str, str]
"""Slice and item id."""
SideScores = dict[Side, KnownScore]
Scores = dict[ItemKey, SideScores]


class SavedBatch(NamedTuple):
    scores: Scores
    seconds: float
    """From the first score of the evaluation to the end of this batch, without pauses between runs."""


class Journal:
    """Of one evaluation. A journal of other inputs that is still in the folder is thrown away."""

    def __init__(self, folder: Path, inputs: Any) -> None:
        """inputs: whatever decides the scores, as JSON. Raises StorageError."""
        self.folder = folder / "journal"
        self._inputs = fingerprint([FORMAT, inputs])
        header = self._read("inputs.json")
        if header is None or header.get("inputs") != self._inputs:
            remove_journal(folder)

    def known(self) -> Scores | None:
        """Earlier scores as they were when this journal began; None: it has not begun."""
        begun, content = self._read("inputs.json"), self._read("known.json")
        return None if begun is None or content is None else _parse(content.get("scores"))

    def begin(self, known: Mapping[ItemKey, Mapping[Side, KnownScore]]) -> None:
        """Raises StorageError."""
        self._write("known.json", {"scores": _plain(known)})
        self._write("inputs.json", {"inputs": self._inputs})

    def read(self, number: int, content_key: str) -> SavedBatch | None:
        """content_key: of the batch's items and all that is asked for them."""
        content = self._read(_name(number))
        if content is None or content.get("key") != content_key:
            return None
        scores, seconds = _parse(content.get("scores")), content.get("seconds")
        if scores is None or not isinstance(seconds, float):
            return None
        return SavedBatch(scores, seconds)

    def save(self, number: int, content_key: str, batch: SavedBatch) -> None:
        """Raises StorageError."""
        content = {"key": content_key, "seconds": batch.seconds, "scores": _plain(batch.scores)}
        self._write(_name(number), content)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        # ASCII: generated text may hold half a surrogate pair, which no UTF-8 file can.
        write_atomically(self.folder / name, json.dumps(content).encode("ascii"))

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):  # not there, or damaged: it is made again
            return None
        return content if isinstance(content, dict) else None


def remove_journal(folder: Path) -> None:
    """What the evaluation gave is recorded elsewhere by now. Raises StorageError."""
    journal = folder / "journal"
    if not journal.exists():
        return
    try:
        (journal / "inputs.json").unlink(missing_ok=True)  # without it, the rest is nothing
        shutil.rmtree(journal)
    except OSError as error:
        raise StorageError(
            f"{journal} could not be removed: {error.strerror or error}. Remove it by hand, then run "
            "the same command again."
        ) from error


def _name(number: int) -> str:
    return f"{number:05d}.json"


def _plain(scores: Mapping[ItemKey, Mapping[Side, KnownScore]]) -> list[list[Any]]:
    return [
        [slice_name, item_id, {side: list(known) for side, known in sides.items()}]
        for (slice_name, item_id), sides in scores.items()
    ]


def _parse(rows: Any) -> Scores | None:
    try:
        return {
            (str(slice_name), str(item_id)): {
                side: KnownScore(float(score), str(output))
                for side, (score, output) in sides.items()
            }
            for slice_name, item_id, sides in rows
        }
    except (TypeError, ValueError, AttributeError):
        return None
