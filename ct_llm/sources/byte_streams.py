"""A file's bytes as UTF-8: unpacked from .gz and .zst, UTF-16 recoded, cut into lines of bounded length.

Nothing here holds more than a buffer or one line in memory, whatever a file claims to unpack to.
"""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

MAX_LINE = 64 * 1024**2
"""Bytes. A longer line is no row; no more than this of one is ever held."""

SHOWN = 20_000
"""Bytes kept of a line that is too long, to show what it was."""

_BUFFER = 1024**2
_UNPACKED_FREELY = 1024**3
_MAX_EXPANSION = 1_000
"""Text packs to a hundredth at best; gzip cannot do better than 1:1032 and zstd can."""

_PACKED = {".gz": "gzip", ".zst": "zstd"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class BadBytes(Exception):
    """Bytes that are not what the file's ending says. Whoever reads the file says which file it is."""


class TooLong(NamedTuple):
    """A line of more than MAX_LINE bytes: its beginning."""

    start: bytes


def unpacked_name(path: str) -> str:
    """The path in lower case, without the ending of the packing."""
    name = path.lower()
    ending = next((ending for ending in _PACKED if name.endswith(ending)), "")
    return name.removesuffix(ending)


def open_bytes(local: Path, path: str) -> io.BufferedReader:
    """The file as UTF-8 without a byte order mark; `path` is its name in the dataset.

    Reading raises BadBytes where it does not unpack, OSError where the disk fails.
    """
    packing = next((how for ending, how in _PACKED.items() if path.lower().endswith(ending)), None)
    raw = _Unpacked(local, packing) if packing else local.open("rb", buffering=0)
    stream: io.BufferedReader = io.BufferedReader(raw, _BUFFER)
    try:
        head = stream.peek(3)
    except BaseException:
        stream.close()
        raise
    if head[:2] in _UTF16:
        return io.BufferedReader(_Recoded(stream), _BUFFER)
    if head[:3] == codecs.BOM_UTF8:
        stream.read(3)
    return stream


def read_lines(stream: io.BufferedReader) -> Iterator[bytes | TooLong]:
    """Line after line, with its end."""
    while line := stream.readline(MAX_LINE):
        if len(line) < MAX_LINE or line.endswith(b"\n"):
            yield line
        else:
            start = line[:SHOWN]
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE)
            yield TooLong(start)


class _Unpacked(io.RawIOBase):
    def __init__(self, local: Path, packing: str) -> None:
        self._file = local.open("rb")
        self._stream = pa.CompressedInputStream(pa.PythonFile(self._file, "r"), packing)
        self._num_packed = max(1, local.stat().st_size)
        self._num_unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:
            if error.errno is not None:  # the disk's
                raise
            raise BadBytes(str(error)) from None
        buffer[: len(data)] = data
        self._num_unpacked += len(data)
        if self._num_unpacked > max(_UNPACKED_FREELY, _MAX_EXPANSION * self._num_packed):
            raise BadBytes(
                f"its {self._num_packed:,} bytes unpack to more than {self._num_unpacked:,}, "
                "as no text does"
            )
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Recoded(io.RawIOBase):
    """UTF-16 with a byte order mark as UTF-8; what is no character becomes bytes that are no UTF-8."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._pending:
            data = self._source.read(_BUFFER)
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError:  # half a character at the end
                text = "\ufffd"
                self._decoder.reset()
            self._pending = text.encode("utf-8", "surrogatepass")
            if not data:
                break
        size = min(len(buffer), len(self._pending))
        buffer[:size] = self._pending[:size]
        self._pending = self._pending[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()
