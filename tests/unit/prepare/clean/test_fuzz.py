"""Damaged files of every kind: a named error or bad rows, never a crash. Seeded, so it is repeatable."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.errors import DataError
from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.rows import CleaningRules, CleanRow, DataSource, RejectedRow, clean_rows

pytestmark = pytest.mark.slow

_CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": {"a": ["1", "é"]}}}
ROWS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi 🙂"},
            {"role": "assistant", "content": None, "tool_calls": [_CALL]},
            {"role": "tool", "content": "3", "tool_call_id": "x"},
            {"role": "assistant", "content": "It is \u4e09.\n" * 3},
        ],
        "tools": [{"name": "f", "parameters": {"type": "object"}}],
        "source": f"source {number}",
    }
    for number in range(6)
]
ALPACA = [{"instruction": f"Task {n}", "input": "é", "output": "done " * n} for n in range(1, 30)]
SPLICES = [b"", b"\0", b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\\u", b"\xff", b"\n", b"null"]
SPLICES += [
    b"1e999",
    b"[" * 2_000,
    b"<|im_start|>",
    b"\\ud800",
    b"\xef\xbb\xbf",
    b"NaN",
    b"9" * 5_000,
]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(
        json.dumps(row, ensure_ascii=n % 2 == 0) + "\n" for n, row in enumerate(rows)
    ).encode()


def table(rows: list[dict[str, Any]], compression: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, compression=compression, row_group_size=10)
    return sink.getvalue().to_pybytes()


def mutated(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(len(changed) + 1)
        match draw.randrange(5):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(changed):
                changed[at] = draw.randrange(256)
            case 2:
                del changed[at:]
            case 3:
                del changed[at : at + draw.randrange(1, 40)]
            case _:
                changed[at:at] = draw.choice(SPLICES)
    return bytes(changed)


FILES: dict[str, tuple[bytes, int]] = {
    "messages.jsonl": (lines(ROWS), 1_000),
    "messages.json": (json.dumps(ROWS, indent=1).encode(), 600),
    "pretty.json": ("\n".join(json.dumps(row, indent=1) for row in ROWS).encode(), 300),
    "alpaca.csv": (
        b"instruction,input,output\n"
        + b"".join(f'Task {n},"é, ""x""\n",done\n'.encode() for n in range(20)),
        500,
    ),
    "text.txt": (("A sentence of some words. " * 15 + "\n").encode() * 3, 200),
    "utf16.jsonl": (lines(ROWS[:2]).decode().encode("utf-16"), 300),
    "alpaca.jsonl.gz": (gzip.compress(lines(ALPACA), mtime=0), 400),
    "alpaca.jsonl.zst": (pa.compress(lines(ALPACA), "zstd", asbytes=True), 400),
    "messages.parquet": (table(ROWS, "none"), 600),
    "alpaca.parquet": (table(ALPACA, "zstd"), 600),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("row_format", ["auto", "messages"])
def test_no_damage_crashes(tmp_path: Path, name: str, row_format: Any) -> None:
    data, times = FILES[name]
    local = tmp_path / name
    source = DataSource(SourceFile("fuzz", name, local), row_format, "datasets[0].format", "fuzz")
    rules = CleaningRules(10_000, "neutralise", "quarantine")
    draw = random.Random(f"{name} {row_format}")
    outcomes = {"rows": 0, "bad rows": 0, "bad files": 0}
    for _ in range(times // 2):
        local.write_bytes(mutated(data, draw))
        try:
            found = list(clean_rows(source, rules))
        except DataError as error:
            assert name in str(error)
            outcomes["bad files"] += 1
            continue
        for row in found:
            if isinstance(row, RejectedRow):
                outcomes["bad rows"] += 1
                row.original.encode()
            else:
                assert isinstance(row, CleanRow)
                outcomes["rows"] += 1
                json.loads(row.row.messages.encode())
    assert outcomes["bad files"] + outcomes["bad rows"] > times / 20
    assert outcomes["rows"] or row_format == "messages"


@pytest.mark.parametrize("read", [lambda data: data, lambda data: data[::-1]])
def test_what_is_no_file_of_its_kind_at_all(tmp_path: Path, read: Callable[[bytes], bytes]) -> None:
    for name in FILES:
        for other, (data, _) in FILES.items():
            local = tmp_path / name
            local.write_bytes(read(data))
            source = DataSource(SourceFile("fuzz", name, local), "auto", "format", "fuzz")
            try:
                found = list(clean_rows(source, CleaningRules(10_000)))
            except DataError:
                continue
            assert found, (name, other)
