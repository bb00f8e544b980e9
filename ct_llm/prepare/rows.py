"""From a file to clean rows: read, brought into messages, checked, identified."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from ct_llm.prepare.dedup import Identity, Row, identity, messages_json
from ct_llm.prepare.files import SourceFile, Unparsable, read_rows
from ct_llm.prepare.formats import Format, describe_formats, detect_format, to_messages
from ct_llm.prepare.validate import BadRow, Reason, check_messages

_DETECTION_ROWS = 100
"""The format is found by the columns of the first rows together: a single one may be damaged."""

_MAX_ORIGINAL_CHARS = 20_000


@dataclass(frozen=True)
class DataSource:
    """A file and how the config says to read it."""

    file: SourceFile
    format: Format | Literal["auto"]
    format_key: str
    """Where the config sets the format, for messages: `datasets[0].format`."""


class CleanRow(NamedTuple):
    id: Identity
    row: Row


class RejectedRow(NamedTuple):
    row_index: int
    reason: Reason
    original: str
    """The row as JSON, or its text where it is none; cut after 20,000 characters."""


def clean_rows(source: DataSource, max_chars: int) -> Iterator[CleanRow | RejectedRow]:
    """Every row of the file, in its order, clean or with the reason why not.

    Raises DataError when the file cannot be read or is in no known format.
    """
    file = source.file
    rows = read_rows(file)
    if source.format == "auto":
        first = list(islice(rows, _DETECTION_ROWS))
        if not first:
            return
        row_format, rows = _detect(source, first), chain(first, rows)
    else:
        row_format = source.format
    default_source = f"{file.repo}/{PurePosixPath(file.path).stem}"

    for index, value in rows:
        try:
            if isinstance(value, Unparsable):
                raise BadRow("unparsable")
            if not isinstance(value, dict):
                raise BadRow("not_an_object")
            messages = to_messages(value, row_format)
            check_messages(messages, max_chars)
        except BadRow as bad:
            yield RejectedRow(index, bad.reason, _original(value))
        else:
            name = _source_column(value) or default_source
            row = Row(messages_json(messages), name, file.repo, file.path, index)
            yield CleanRow(identity(messages), row)


def _detect(source: DataSource, first: list[tuple[int, Any]]) -> Format:
    objects = [value for _, value in first if isinstance(value, dict)]
    if not objects:
        source.file.refuse(
            f"none of its first {len(first)} rows is a JSON object. Expected JSON Lines (an object "
            f"per line) or a JSON array of objects; the first row is {_original(first[0][1])[:80]}"
        )
    columns = {column: None for value in objects for column in value}
    found = detect_format(columns)
    if found is None:
        source.file.refuse(
            f"no known format: columns found {', '.join(columns)}; expected one of "
            f"{describe_formats()}. Rename the columns, or set {source.format_key}."
        )
    return found


def _source_column(row: Mapping[str, Any]) -> str | None:
    """The row's own `source`; one that UTF-8 cannot hold is as good as none."""
    name = row.get("source")
    if not isinstance(name, str):
        return None
    return name.strip() if name.isascii() else name.encode(errors="ignore").decode().strip()


def _original(value: Any) -> str:
    # default=str: Parquet holds dates, decimals and bytes that JSON does not know.
    is_text = isinstance(value, Unparsable)
    text = value.text if is_text else json.dumps(value, ensure_ascii=False, default=str)
    return text[:_MAX_ORIGINAL_CHARS].encode(errors="backslashreplace").decode()
