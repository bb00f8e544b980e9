"""Rows out of JSON Lines and JSON arrays, by the letter of RFC 8259: no NaN, no Infinity."""

import codecs
import io
import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from ct_llm.prepare.clean.unparsable import Unparsable
from ct_llm.sources.byte_streams import MAX_LINE, BadBytes, TooLong, read_lines

_CHUNK = 1024**2
_LONGEST_TOKEN = 16
"""Characters: an error nearer to the end of what was read may be no more than a token cut in two."""

_AFTER_ELEMENT = (",", "]", " ", "\t", "\n", "\r")
_BLANK = re.compile(r"[ \t\n\r]*")


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_number)


def parse(text: str) -> Any:
    """Raises ValueError: not JSON, or a number beyond Python's limits; RecursionError."""
    return _decoder.decode(text)


def json_rows(stream: io.BufferedReader) -> Iterator[tuple[int, Any]]:
    """An array of rows, a row per line, or rows one after the other over several lines each.

    Told apart by how the file begins: all of them are found under .json on the Hub, and now and then
    under .jsonl. The index is the element's or the line's. Raises BadBytes for an array that is none.
    """
    head = stream.peek(1).lstrip()
    if head.startswith(b"["):
        yield from enumerate(_Values(stream).array())
        return
    if head.partition(b"\n")[0].strip() == b"{" and b"\n" in head:  # as json.dumps(indent=...) does
        yield from enumerate(_Values(stream).sequence())
        return
    for index, line in enumerate(read_lines(stream)):
        if isinstance(line, TooLong):
            yield index, Unparsable.of(line.start, "too_long")
        elif text := line.strip(b" \t\r\n"):
            yield index, _parse_line(text)


def _parse_line(line: bytes) -> Any:
    try:
        text = line.decode()
        value, end = _decoder.raw_decode(text)
    except (ValueError, RecursionError):  # ValueError: not UTF-8 as well
        return Unparsable.of(line)
    return value if end == len(text) else Unparsable.of(line)


class _Values:
    """JSON values, decoded one by one out of a buffer that slides over the file."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._decode_bytes = codecs.getincrementaldecoder("utf-8")().decode
        self._text = ""
        self._position = 0
        self._at_end = False

    def array(self) -> Iterator[Any]:
        num_rows = 0
        try:
            self._expect("[")
            closed = self._next() == "]"
            while not closed:
                yield self._element()
                num_rows += 1
                closed = self._next() == "]"
                if not closed:
                    self._expect(",")
            self._expect("]")
            if self._next():
                raise ValueError("text after the array")
        except (ValueError, RecursionError) as error:
            raise BadBytes(f"not a JSON array, after {num_rows:,} rows: {error}") from None

    def sequence(self) -> Iterator[Any]:
        num_rows = 0
        try:
            while self._next():
                yield self._element()
                num_rows += 1
        except (ValueError, RecursionError) as error:
            raise BadBytes(f"not JSON, after {num_rows:,} rows: {error}") from None

    def _element(self) -> Any:
        chunk = _CHUNK
        while True:
            self._next()
            try:
                value, end = _decoder.raw_decode(self._text, self._position)
                # A number may go on in what was not read yet: 1 or 1. or 1.5e of 1.5e10.
                ended = self._text[end : end + 1] in _AFTER_ELEMENT
                if ended or self._at_end or end < len(self._text) - _LONGEST_TOKEN:
                    self._position = end
                    return value
            except json.JSONDecodeError as error:
                unfinished = (
                    error.msg.startswith("Unterminated string")
                    or error.pos > len(self._text) - _LONGEST_TOKEN
                )
                if self._at_end or not unfinished:
                    raise
            if len(self._text) - self._position > MAX_LINE:
                raise ValueError(f"an element of more than {MAX_LINE:,} characters")
            # Twice as much each time: a long element is scanned a few times, not once per chunk.
            self._read(chunk)
            chunk *= 2

    def _next(self) -> str:
        """The next character that is no blank, which is then at the position; "" at the end."""
        while True:
            blank = _BLANK.match(self._text, self._position)
            self._position = blank.end() if blank else self._position
            if self._position < len(self._text) or self._at_end:
                return self._text[self._position : self._position + 1]
            self._read(_CHUNK)

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise json.JSONDecodeError(f"expected {character!r}", self._text, self._position)
        self._position += 1

    def _read(self, num_bytes: int) -> None:
        data = self._stream.read(num_bytes)
        self._at_end = not data
        text = self._decode_bytes(data, final=not data)
        self._text = self._text[self._position :] + text
        self._position = 0
