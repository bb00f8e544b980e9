"""How many rows a file holds.

Parquet says so in its footer, which is read by range: at most 64 KiB, whatever the file's size.
Other formats have no footer, so a new or changed file comes to this disk, where `prepare` finds it
again, and is counted as a stream: a few megabytes of memory, whatever it expands to.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

from ct_llm.errors import DataError, HubNotFoundError, StorageError
from ct_llm.records import DataFile
from ct_llm.sources.byte_streams import (
    MAX_LINE,
    BadBytes,
    TooLong,
    open_bytes,
    read_lines,
    unpacked_name,
)
from ct_llm.sources.file_kinds import file_kind
from ct_llm.sources.source import Source

TAIL_BYTES = 64 * 1024
"""First read of a footer: enough for thousands of column chunks."""
NUM_THREADS = 8
_CHUNK_BYTES = 1 << 20

ReadBytes = Callable[[int, int], bytes]
"""The bytes of a file from the first position up to, not including, the second."""


def count_rows(
    source: Source, revision: str, files: Sequence[DataFile], *, skip_unreadable: bool = False
) -> list[DataFile]:
    """The same files with `num_rows`, eight at a time.

    One that is damaged or has changed raises DataError, and one that the Hub no longer has
    HubNotFoundError; with `skip_unreadable` they keep None instead. Raises HubUnavailableError,
    HubAccessError, StorageError.
    """

    def counted(file: DataFile) -> DataFile:
        try:
            num_rows = _count_file(source, revision, file)
        except (DataError, HubNotFoundError):
            if not skip_unreadable:
                raise
            num_rows = None
        return file.model_copy(update={"num_rows": num_rows})

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return list(threads.map(counted, files))


def _count_file(source: Source, revision: str, file: DataFile) -> int:
    kind = file_kind(file.path)
    try:
        if kind is None:
            raise ValueError("its name has none of the endings that are read")
        if kind.ending == ".parquet":
            return parquet_rows(
                file.num_bytes,
                lambda start, stop: source.read_range(file.path, revision, start, stop),
            )
        local = source.open(file.path, revision)
        try:
            return text_rows(local, file.path)
        except OSError as error:
            raise StorageError(f"could not read {local}: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(
            f"{source.dataset.place} at {revision[:12]}: the rows of {file.path} cannot be counted: "
            f"{error}. Upload it again, remove it, or leave it out with this dataset's `files`."
        ) from error


# ---------------------------------------------------------------- parquet


def parquet_rows(num_bytes: int, read: ReadBytes) -> int:
    """Rows by the footer of a parquet file of `num_bytes`. Raises ValueError when it is damaged.

    Reads the last 64 KiB and, of a footer that is larger, exactly the rest.
    """
    # "PAR1", data, footer, length of the footer (4 bytes, little endian), "PAR1"
    if num_bytes < 12:
        raise ValueError(f"{num_bytes} bytes are too few for a parquet file")
    tail = read(max(0, num_bytes - TAIL_BYTES), num_bytes)
    if tail[-4:] == b"PARE":
        raise ValueError("its footer is encrypted")
    if tail[-4:] != b"PAR1":
        raise ValueError("it is not a parquet file, its end has no PAR1")
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed + 4 > num_bytes:
        raise ValueError(f"its footer claims {needed - 8} bytes of a file of {num_bytes}")
    if needed > len(tail):
        tail = read(num_bytes - needed, num_bytes - len(tail)) + tail
    return _rows_in_footer(tail[-needed:])


def _rows_in_footer(footer: bytes) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A reader asks only for the end of the file; the magic stands at its beginning too. What is not
    # Thrift surfaces as OSError, though no file is involved.
    try:
        num_rows = pq.read_metadata(pa.BufferReader(b"PAR1" + footer)).num_rows
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"its parquet footer is damaged ({error})") from error
    if num_rows < 0:
        raise ValueError(f"its parquet footer is damaged (it says {num_rows} rows)")
    return num_rows


# ---------------------------------------------------------------- text


def text_rows(local: Path, path: str) -> int:
    """Rows of a file that is not parquet; blank lines are none. Raises ValueError when damaged.

    `path`: its name in the dataset. CSV and TSV: records below the header, quoted newlines included.
    JSON: elements of an array, or lines. What a line or an element says is not looked at: a row that
    cannot be read is a row still, for `prepare` to put aside.
    """
    try:
        with open_bytes(local, path) as stream:
            return _rows(stream, unpacked_name(path))
    except BadBytes as error:
        raise ValueError(f"it does not unpack ({error})") from error


def _rows(stream: io.BufferedReader, name: str) -> int:
    if name.endswith((".csv", ".tsv")):
        return _table_rows(stream, "\t" if name.endswith(".tsv") else ",")
    chunks = _from_first_character(stream)
    first = next(chunks, b"")
    if first.startswith(b"[") and not name.endswith(".txt"):
        return _array_elements(chain([first], chunks))
    if name.endswith(".json"):
        second = next(chunks, b"")
        _refuse_object_over_lines(first, whole=not second)
        chunks = chain([second], chunks)
    return _filled_lines(chain([first], chunks))


def _from_first_character(stream: io.BufferedReader) -> Iterator[bytes]:
    chunk = stream.read(_CHUNK_BYTES).lstrip()
    while not chunk and (following := stream.read(_CHUNK_BYTES)):
        chunk = following.lstrip()
    while chunk:
        yield chunk
        chunk = stream.read(_CHUNK_BYTES)


def _filled_lines(chunks: Iterable[bytes]) -> int:
    """Lines with more than white space, of any length: of a line, only whether it is blank is kept."""
    num_lines, filled = 0, False
    for chunk in chunks:
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            num_lines += filled or bool(line.strip())
            filled = False
        filled = filled or bool(rest.strip())
    return num_lines + filled


def _table_rows(stream: io.BufferedReader, delimiter: str) -> int:
    """Records below the header, as RFC 4180 tells them apart. Spreadsheets of half of Europe write
    semicolons for commas."""
    # The module's default of 128 KiB is short of a long conversation. One limit for the process.
    csv.field_size_limit(MAX_LINE)
    lines = _text_lines(stream)
    header = next(lines, "")
    if delimiter == "," and "," not in header and ";" in header:
        delimiter = ";"
    records = csv.reader(lines, delimiter=delimiter, strict=True)
    num_rows = 0
    while True:
        try:
            record = next(records, None)
        except csv.Error as error:
            if "end of data" in str(error) or "limit" in str(error):
                raise ValueError("a quoted cell is never closed") from error
            record = [""]  # a row with wrong quotes is a row
        if record is None:
            return num_rows
        num_rows += bool(record)


def _text_lines(stream: io.BufferedReader) -> Iterator[str]:
    for line in read_lines(stream):
        if isinstance(line, TooLong):
            raise ValueError(f"it has a line of more than {MAX_LINE:,} bytes")
        yield line.decode(errors="replace")


# ---------------------------------------------------------------- JSON

_NO_ROWS = "it is neither a JSON array of rows nor one row a line"
_EDGE = re.compile(rb'["\[\]{},]')
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


def _refuse_object_over_lines(first: bytes, *, whole: bool) -> None:
    """An object over several lines is one object, such as a schema: its lines are not rows.

    `first`: the beginning of the file, or the whole of it. A line that goes on beyond it is a row.
    """
    line, newline, _ = first.partition(b"\n")
    if not (newline or whole) or not line:
        return
    try:
        json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_NO_ROWS} ({error})") from error


def _array_elements(chunks: Iterable[bytes]) -> int:
    """Elements of the one array that the text is: commas at its first level, outside of strings.

    Only what tells elements apart is checked. No recursion and no parsed value, so neither depth
    nor size can be a burden.
    """
    depth = num_elements = 0
    in_string = escaped = filled = closed = False

    def refuse(problem: str) -> ValueError:
        return ValueError(f"{_NO_ROWS} ({problem} after {num_elements:,} elements)")

    for chunk in chunks:
        at = 1 if escaped else 0
        escaped = False
        while True:
            if in_string:
                rest = _REST_OF_STRING.match(chunk, at)
                at = rest.end() if rest else at
                if at < len(chunk) and chunk[at : at + 1] == b'"':
                    in_string, at = False, at + 1
                else:
                    # The chunk ends within the string, perhaps between \ and what it escapes.
                    escaped = at < len(chunk)
                    break
            edge = _EDGE.search(chunk, at)
            if depth < 2 and chunk[at : edge.start() if edge else len(chunk)].strip():
                if depth == 0:
                    raise refuse("text outside of the array")
                filled = True
            if edge is None:
                break
            at = edge.end()
            mark = edge[0]
            if depth == 0 and (mark != b"[" or closed):
                raise refuse("text outside of the array")
            if mark == b",":
                if depth == 1:
                    if not filled:
                        raise refuse("nothing before a comma")
                    num_elements, filled = num_elements + 1, False
            elif mark in b"]}":
                depth -= 1
                if depth == 0:
                    if mark == b"}":
                        raise refuse("a } that nothing opened")
                    if not filled and num_elements:
                        raise refuse("nothing between the last comma and ]")
                    num_elements += filled
                    closed = True
            else:
                filled = filled or depth == 1
                in_string = mark == b'"'
                depth += not in_string
    if not closed:
        raise refuse("the text ends")
    return num_elements
