"""Rows out of .csv, .tsv and .txt files: cells and lines are text, whatever they look like."""

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

from ct_llm.prepare.clean.unparsable import Unparsable
from ct_llm.sources.byte_streams import MAX_LINE, BadBytes, TooLong, read_lines

_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
"""What is no UTF-8, as `surrogateescape` decodes it."""


def text_rows(stream: io.BufferedReader) -> Iterator[tuple[int, str | Unparsable]]:
    """A row per line that is not blank, as `load_dataset("text")` reads it; the index is the line's."""
    for index, line in enumerate(read_lines(stream)):
        if isinstance(line, TooLong):
            yield index, Unparsable.of(line.start, "too_long")
        elif line.strip():
            try:
                yield index, line.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                yield index, Unparsable.of(line)


def delimited_rows(stream: io.BufferedReader, delimiter: str) -> Iterator[tuple[int, Any]]:
    """A dict per row under the header; the index counts rows, the header and blank ones left out.

    RFC 4180: quoted cells may hold line ends. A row with more cells than the header is Unparsable, one
    with fewer lacks the last columns. Where a comma was announced but the header has semicolons alone,
    as spreadsheets write it in half of Europe, semicolons it is. Raises BadBytes.
    """
    csv.field_size_limit(MAX_LINE)
    lines = _Lines(stream)
    first = next(lines, "")
    if delimiter == "," and "," not in first and ";" in first:
        delimiter = ";"
    try:
        header = next(csv.reader([first], delimiter=delimiter), [])
    except csv.Error as error:
        raise BadBytes(f"the header is not readable: {error}") from None
    header = [name.strip() for name in header]
    for index, cells in enumerate(_Cells(lines, delimiter)):
        if isinstance(cells, Unparsable):
            yield index, cells
        elif len(cells) > len(header) or _ESCAPED_BYTE.search("".join(cells)):
            yield index, Unparsable.of(lines.taken())
        else:
            yield index, dict(zip(header, cells, strict=False))


class _Lines:
    """Text lines, remembering those of the current row."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._lines = read_lines(stream)
        self._taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if isinstance(line, TooLong):
            raise BadBytes(f"a line has more than {MAX_LINE:,} bytes")
        self._taken.append(line.decode(errors="surrogateescape"))
        return self._taken[-1]

    def forget(self) -> None:
        self._taken.clear()

    def taken(self) -> bytes:
        return "".join(self._taken).encode(errors="surrogateescape")


class _Cells:
    """Rows that are not blank as their cells; Unparsable where the quotes are wrong."""

    def __init__(self, lines: _Lines, delimiter: str) -> None:
        self._lines = lines
        self._rows = csv.reader(lines, delimiter=delimiter, strict=True)

    def __iter__(self) -> Iterator[list[str] | Unparsable]:
        while True:
            self._lines.forget()
            try:
                cells = next(self._rows, None)
            except csv.Error as error:
                if "end of data" in str(error) or "limit" in str(error):
                    raise BadBytes("a quoted cell is never closed") from None
                yield Unparsable.of(self._lines.taken())
                continue
            if cells is None:
                return
            if cells:
                yield cells
