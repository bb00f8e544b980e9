"""Rows that somebody brings as a test set: the same formats and checks, but nothing is left out."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ct_llm.errors import DataError
from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.rows import CleaningRules, DataSource, RejectedRow, clean_rows
from ct_llm.prepare.tables import HOLDOUT, table

RULES = CleaningRules(max_chars=200_000)


def write_held_out(rows: Path | Sequence[dict[str, Any]], path: Path) -> int:
    """Write rows (a file, or a list) as a holdout that `evaluate` reads; gives their number.

    Raises DataError for an unusable row, naming it: a test set that silently shrinks compares
    something else than was asked.
    """
    if isinstance(rows, Path):
        return _write(rows, path)
    with tempfile.TemporaryDirectory(prefix="ct_llm_") as folder:
        file = Path(folder) / "test_data.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
        return _write(file, path)


def _write(file: Path, path: Path) -> int:
    place = SourceFile("test set", file.name, file)
    source = DataSource(place, "auto", "the rows' format", default_source=place.repo)
    written: set[bytes] = set()
    with table(path, HOLDOUT) as append:
        for found in clean_rows(source, RULES):
            if isinstance(found, RejectedRow):
                raise DataError(
                    f"{file.name}: row {found.row_index} cannot be used ({found.reason}): "
                    f"{found.original[:200]}. Mend it or take it out."
                )
            if found.id.row not in written:
                written.add(found.id.row)
                append((found.id.row.hex(), *found.row))
        if not written:
            raise DataError(f"{file.name} holds no rows. Give at least one.")
    return len(written)
