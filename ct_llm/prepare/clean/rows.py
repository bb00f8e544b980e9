"""From a file to clean rows: read, brought into messages, checked, identified."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

from ct_llm.config import Format, RowFormat
from ct_llm.prepare.clean.conversation import BadRow, Conversation, Reason
from ct_llm.prepare.clean.credentials import redact
from ct_llm.prepare.clean.files import SourceFile, Unparsable, read_rows
from ct_llm.prepare.clean.formats import Read, describe_formats, detect_format, reader
from ct_llm.prepare.clean.identity import Identity, Row, identity, messages_json
from ct_llm.prepare.clean.validate import CleaningRules, check_conversation
from ct_llm.prepare.one_line import one_line

_DETECTION_ROWS = 100
"""The format is found by the columns of the first rows together: a single one may be damaged."""

_MAX_ORIGINAL_CHARS = 20_000

_SHOWN_COLUMNS = 20
_SHOWN_CHARS = 80
"""Of a row or of a column's name, in messages."""


@dataclass(frozen=True)
class DataSource:
    """A file and how the config says to read it."""

    file: SourceFile
    format: Format
    format_key: str
    """Where the config sets the format, for messages: `datasets[0].format`."""
    default_source: str
    """The source of rows that name none. Not the file's name: the same rows spread over other files
    must give the same result."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our name of a column to the file's."""


class CleanRow(NamedTuple):
    id: Identity
    row: Row


class RejectedRow(NamedTuple):
    row_index: int
    reason: Reason
    original: str
    """The row as JSON, or its text where it is none; cut after 20,000 characters, and without
    credentials where the rules look for them."""


def clean_rows(source: DataSource, rules: CleaningRules) -> Iterator[CleanRow | RejectedRow]:
    """Every row of the file, in its order, clean or with the reason why not.

    Raises DataError when the file cannot be read or is in no known format.
    """
    file = source.file
    rows = read_rows(file)
    row_format = source.format
    if row_format == "auto":
        first = list(islice(rows, _DETECTION_ROWS))
        if not first:
            return
        row_format, rows = _detect(source, first), chain(first, rows)
    read = _reader(source, row_format)
    source_column = source.columns.get("source", "source")

    for index, value in rows:
        try:
            if isinstance(value, Unparsable):
                raise BadRow(value.reason)
            messages, tools = check_conversation(read(value), rules)
            row_id = identity(messages, tools)
            text = messages_json(messages)
        except BadRow as bad:
            yield RejectedRow(index, bad.reason, _original(value, rules))
        except RecursionError:  # arguments of a tool call, nested hundreds deep
            yield RejectedRow(index, "unparsable", _original(value, rules))
        else:
            name = _source_name(value, source_column) or source.default_source
            listed = json.dumps(tools, ensure_ascii=False) if tools else None
            yield CleanRow(row_id, Row(text, listed, name, file.repo, file.path, index))


def _reader(source: DataSource, row_format: RowFormat) -> Read:
    """Files are merged now and then: with `auto`, a row of another format is read as what it is."""
    read = reader(row_format, source.columns)

    def read_any(row: Any) -> Conversation:
        try:
            return read(row)
        except BadRow as bad:
            if bad.reason != "missing_field" or not isinstance(row, dict):
                raise
            own = detect_format(_our_names(source, row))
            if own is None or own == row_format:
                raise
            return reader(own, source.columns)(row)

    return read_any if source.format == "auto" else read


def _our_names(source: DataSource, columns: Collection[str]) -> set[str]:
    return {*columns, *(ours for ours, theirs in source.columns.items() if theirs in columns)}


def _detect(source: DataSource, first: list[tuple[int, Any]]) -> RowFormat:
    objects = [value for _, value in first if isinstance(value, dict)]
    if not objects and any(isinstance(value, str) for _, value in first):
        return "text"
    if not objects:
        shown = one_line(redact(_text_of(first[0][1])), _SHOWN_CHARS)
        source.file.refuse(
            f"none of its first {len(first)} rows is a JSON object. Expected JSON Lines (an object "
            f"per line) or a JSON array of objects; the first row is {shown}"
        )
    columns = {column: None for value in objects for column in value}
    found = detect_format(_our_names(source, columns))
    if found is None:
        source.file.refuse(
            f"no known format: columns found {_list_columns(list(columns))}; expected one of "
            f"{describe_formats()}. Rename the columns, map them with "
            f"{source.format_key.replace('format', 'columns')}, or set {source.format_key}."
        )
    return found


def _list_columns(columns: list[Any]) -> str:
    """Damaged rows may turn texts into columns: few of them are shown, and no credential."""
    shown = [one_line(redact(str(name)), _SHOWN_CHARS) for name in columns[:_SHOWN_COLUMNS]]
    if len(columns) > _SHOWN_COLUMNS:
        shown.append(f"… and {len(columns) - _SHOWN_COLUMNS:,} more")
    return ", ".join(shown)


def _source_name(row: Any, column: str) -> str | None:
    """The row's own source; what UTF-8 cannot hold of it is left out."""
    name = row.get(column) if isinstance(row, dict) else None
    if not isinstance(name, str):
        return None
    return name.strip() if name.isascii() else name.encode(errors="ignore").decode().strip()


def _original(value: Any, rules: CleaningRules) -> str:
    text = _text_of(value)
    if rules.secrets == "quarantine":
        text = redact(text)
    return text[:_MAX_ORIGINAL_CHARS]


def _text_of(value: Any) -> str:
    # default=str: Parquet holds dates, decimals and bytes that JSON does not know.
    is_text = isinstance(value, Unparsable)
    text = value.text if is_text else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode(errors="backslashreplace").decode()
