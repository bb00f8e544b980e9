import csv
import gzip
import io
import json
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.errors import DataError, StorageError
from ct_llm.prepare.clean.files import SourceFile, Unparsable, read_rows
from ct_llm.sources import byte_streams

ROWS = [{"a": 1}, {"a": "ü\u2028"}, {"b": [None, {"c": 2.5}]}]
LINES = "\n".join(map(json.dumps, ROWS))


def zstd(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


PACK = {".gz": gzip.compress, ".zst": zstd}


def read(tmp_path: Path, name: str, data: bytes) -> list:
    local = tmp_path / name
    local.write_bytes(data)
    return list(read_rows(SourceFile("acme/chats", name, local)))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("rows.jsonl", LINES.encode()),
        ("rows.ndjson", LINES.replace("\n", "\r\n").encode() + b"\r\n"),
        ("rows.json", LINES.encode()),
        ("ROWS.JSON", json.dumps(ROWS).encode()),
        ("rows.json", json.dumps(ROWS, indent=2, ensure_ascii=False).encode()),
        ("rows.jsonl", b" \n" + json.dumps(ROWS).encode()),
        ("rows.json", "\n".join(json.dumps(row, indent=2) for row in ROWS).encode()),
        ("rows.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("rows.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("rows.jsonl", LINES.encode("utf-16")),
        ("rows.json", b"\xfe\xff" + json.dumps(ROWS, ensure_ascii=False).encode("utf-16-be")),
    ],
)
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_json_rows_under_every_name_and_layout(tmp_path, name, data, packing):
    packed = PACK[packing](data) if packing else data
    assert read(tmp_path, f"{name}{packing}", packed) == list(enumerate(ROWS))


def test_the_index_of_a_json_line_is_its_line(tmp_path):
    assert read(tmp_path, "rows.jsonl", b'{"a":1}\n\n{"a":2}\n') == [(0, {"a": 1}), (2, {"a": 2})]


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": ',
        b"{'a': 1}",
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b"9" * 5_000,
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1} {"a": 2}',
        b'\x0b{"a": 1}',
    ],
)
def test_a_bad_line_is_one_unparsable_row(tmp_path, line):
    rows = read(tmp_path, "rows.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    assert [value for _, value in rows][::2] == [{"a": 1}, {"a": 2}]
    assert isinstance(rows[1][1], Unparsable)


def test_of_a_key_twice_the_last_one_counts(tmp_path):
    assert read(tmp_path, "rows.jsonl", b'{"a": 1, "a": 2}') == [(0, {"a": 2})]


@pytest.mark.parametrize(
    "data",
    [
        b"[1, 2",
        b"[1 2]",
        b"[1,]",
        b"[1]]",
        b"[,1]",
        b'["\xff"]',
        b"[",
        b"[" * 100_000,
        b"[NaN]",
        b'["a',
        b'[1, {"a": tru',
    ],
)
def test_a_broken_array_names_the_file(tmp_path, data):
    with pytest.raises(DataError, match=r"acme/chats: rows\.json: not a JSON array"):
        read(tmp_path, "rows.json", data)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64])
def test_an_array_is_the_same_wherever_the_buffer_ends(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("ct_llm.prepare.clean.json_rows._CHUNK", chunk)
    rows = [12345, -1.5e-7, True, None, 'é\\"\n', "", {}, [], {"a": [1, {"ключ": "値🙂"}]}, 10**30]
    for indent in (None, 3):
        for ascii_only in (True, False):
            data = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()
            assert read(tmp_path, "rows.json", data) == list(enumerate(rows))


def test_rows_over_several_lines_are_told_where_they_break(tmp_path):
    with pytest.raises(DataError, match=r"rows\.json: not JSON, after 1 rows"):
        read(tmp_path, "rows.json", json.dumps(ROWS[0], indent=1).encode() + b"{]")


def test_an_array_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("ct_llm.prepare.clean.json_rows._CHUNK", 1_000)
    monkeypatch.setattr("ct_llm.prepare.clean.json_rows.MAX_LINE", 10_000)
    small = [{"a": "x" * 900}] * 100
    assert read(tmp_path, "rows.json", json.dumps(small).encode()) == list(enumerate(small))
    with pytest.raises(DataError, match=r"after 1 rows: an element of more than 10,000"):
        read(tmp_path, "rows.json", json.dumps([1, "x" * 50_000]).encode())


# ---------------------------------------------------------------- text and cells


def test_a_text_file_is_a_row_per_line(tmp_path):
    rows = read(tmp_path, "rows.txt", "first\n\n sec\u2028ond \r\n\xff".encode("latin-1", "ignore"))
    assert rows[0] == (0, "first")
    assert rows[1][0] == 2
    assert isinstance(rows[2][1], Unparsable)
    assert read(tmp_path, "rows.txt.gz", gzip.compress("é\u2028e\n".encode())) == [(0, "é\u2028e")]


CELLS = [["instruction", "output"], ["Say\n“hi”", 'a,b;c\t"d"'], ["", "NaN"], ["1", "2"]]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv", ";"), ("a.csv.zst", ",")]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_cells_are_text(tmp_path, name, delimiter, encoding):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(CELLS)
    data = text.getvalue().encode(encoding)
    rows = read(tmp_path, name, zstd(data) if name.endswith("zst") else data)
    assert rows == [(n, dict(zip(CELLS[0], c, strict=True))) for n, c in enumerate(CELLS[1:])]


def test_cells_that_do_not_fit_the_header(tmp_path):
    data = b'a,b\n1\n\n1,2,3\n"1"x,2\n"\xff",2\n5,6\n'
    short, long, quotes, not_utf8, last = [value for _, value in read(tmp_path, "a.csv", data)]
    assert short == {"a": "1"}
    assert last == {"a": "5", "b": "6"}
    assert [long.text, quotes.text, not_utf8.text] == ["1,2,3", '"1"x,2', '"\\xff",2']


@pytest.mark.parametrize("data", [b"", b"\n", b"a,b\n"])
def test_a_table_without_rows(tmp_path, data):
    assert read(tmp_path, "a.csv", data) == []


def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path):
    with pytest.raises(DataError, match="never closed"):
        read(tmp_path, "a.csv", b'a,b\n1,"2\n3,4\n')


# ---------------------------------------------------------------- packed files


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_several_packed_parts_are_one_file(tmp_path, packing):
    pack = PACK[packing]
    assert len(read(tmp_path, f"a.jsonl{packing}", pack(b"1\n2\n") + pack(b"3\n"))) == 3


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_damaged_packed_file_is_named(tmp_path, packing):
    packed = PACK[packing](LINES.encode() * 100)
    for damaged in (packed[:-5], LINES.encode(), packed + b"more"):
        with pytest.raises(DataError, match=r"acme/chats: a\.jsonl"):
            read(tmp_path, f"a.jsonl{packing}", damaged)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.zst", "a.jsonl"])
def test_a_line_without_end_is_one_row_and_never_held(tmp_path, monkeypatch, name):
    monkeypatch.setattr(byte_streams, "MAX_LINE", 1_000)
    data = b"1\n" + b"x" * 1_000_000 + b"\n2\n"
    packed = PACK[name[name.rindex(".") :]](data) if name[-1] != "l" else data
    _, (index, long), last = read(tmp_path, name, packed)
    assert (index, long.reason, len(long.text)) == (1, "too_long", 1_000)
    assert last[0] == 2


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_file_that_unpacks_to_what_no_text_does_is_refused(tmp_path, monkeypatch, packing):
    monkeypatch.setattr(byte_streams, "_UNPACKED_FREELY", 1_000_000)
    monkeypatch.setattr(byte_streams, "_MAX_EXPANSION", 100)
    with pytest.raises(DataError, match="unpack to more than"):
        read(tmp_path, f"a.jsonl{packing}", PACK[packing](b"\n" * 20_000_000))


# ---------------------------------------------------------------- Parquet


def test_parquet_rows_in_order(tmp_path):
    table = pa.table({"n": range(2_500), "text": [f"row {n}" for n in range(2_500)]})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = read(tmp_path, "rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    assert rows == [(n, {"n": n, "text": f"row {n}"}) for n in range(2_500)]


def test_only_the_damaged_row_of_a_parquet_batch_is_unparsable(tmp_path):
    not_utf8 = pa.array([b"fine", b"\xff\xfe", b"fine"]).view(pa.string())
    pq.write_table(pa.table({"text": not_utf8}), tmp_path / "made.parquet")
    rows = read(tmp_path, "rows.parquet", (tmp_path / "made.parquet").read_bytes())
    assert [value for _, value in rows][::2] == [{"text": "fine"}] * 2
    assert isinstance(rows[1][1], Unparsable)


def test_dates_in_parquet_are_values_and_impossible_ones_bad_rows(tmp_path):
    days = pa.array([date(2026, 1, 2), None], pa.date32())
    far = pa.array([2**30], pa.int32()).cast(pa.date32())
    table = pa.table({"day": pa.concat_arrays([days, far])})
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = read(tmp_path, "rows.parquet", (tmp_path / "rows.parquet").read_bytes())
    assert [value for _, value in rows][:2] == [{"day": date(2026, 1, 2)}, {"day": None}]
    assert isinstance(rows[2][1], Unparsable)


def test_keys_that_parquet_adds_to_structs_are_taken_out(tmp_path):
    rows = [
        {"n": None, "turns": [{"role": "user", "call": None}, {"role": "tool", "call": {"a": 1}}]},
        {"n": 1, "turns": [{"role": "user", "call": {"b": [{"c": None, "d": 2}]}}]},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "made.parquet")
    read_back = read(tmp_path, "rows.parquet", (tmp_path / "made.parquet").read_bytes())
    assert [value for _, value in read_back] == [
        {"n": None, "turns": [{"role": "user"}, {"role": "tool", "call": {"a": 1}}]},
        {"n": 1, "turns": [{"role": "user", "call": {"b": [{"d": 2}]}}]},
    ]


MIB = 1024**2


def repeated(kind: str, num_small: int, num_large: int) -> pa.Table:
    """On disk next to nothing, decoded a MiB per large row."""
    numbers = pa.array([0] * num_small + [1] * num_large, pa.int32())
    text = pa.DictionaryArray.from_arrays(numbers, pa.array(["small", "x" * MIB]))
    if kind == "text":
        return pa.table({"text": text})
    return pa.table({"turns": pa.ListArray.from_arrays(range(len(text) + 1), text)})


PEAK = """
import sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from ct_llm.prepare.clean.files import SourceFile, read_rows
tracemalloc.start()
n = sum(1 for _ in read_rows(SourceFile("acme/chats", "rows.parquet", Path(sys.argv[1]))))
print(n, tracemalloc.get_traced_memory()[1] + pa.default_memory_pool().max_memory())
"""


def peak_of_reading(path: Path) -> tuple[int, int]:
    """Rows, and the most bytes that Python and Arrow held at once; in a process of its own."""
    told = subprocess.check_output([sys.executable, "-c", PEAK, path], text=True)
    num_rows, peak = map(int, told.split())
    return num_rows, peak


@pytest.mark.parametrize("kind", ["text", "turns"])
def test_a_parquet_cell_that_is_repeated_is_decoded_a_few_at_a_time(tmp_path, kind):
    made = tmp_path / "made.parquet"
    table = repeated(kind, 1_500, 3_000)
    pq.write_table(table, made, store_schema=False, dictionary_pagesize_limit=8 * MIB)
    assert made.stat().st_size < MIB // 4
    num_rows, peak = peak_of_reading(made)
    assert num_rows == 4_500
    assert peak < 300 * MIB


def test_parquet_texts_told_by_their_difference_are_decoded_a_few_at_a_time(tmp_path):
    made = tmp_path / "made.parquet"
    table = pa.table({"text": ["x" * MIB] * 500})
    encoding = {"text": "DELTA_BYTE_ARRAY"}
    pq.write_table(table, made, use_dictionary=False, column_encoding=encoding, write_batch_size=16)
    num_rows, peak = peak_of_reading(made)
    assert num_rows == 500
    assert peak < 300 * MIB


def test_a_parquet_row_that_is_too_long_is_not_decoded(tmp_path):
    long = pa.array([["small"], ["x" * MIB] * 65, ["small"]])
    pq.write_table(pa.table({"turns": long}), tmp_path / "made.parquet", compression="zstd")
    rows = read(tmp_path, "rows.parquet", (tmp_path / "made.parquet").read_bytes())
    assert [value for _, value in rows][::2] == [{"turns": ["small"]}] * 2
    assert (rows[1][0], rows[1][1].reason) == (1, "too_long")
    assert rows[1][1].text == f"a row of {65 * MIB:,} bytes"


def test_parquet_values_of_every_kind_come_back_as_they_were(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a", None, "é"]),
            "large": pa.array(["a", None, ""], pa.large_string()),
            "view": pa.array(["a", None, "a view of more than twelve bytes"], pa.string_view()),
            "bytes": pa.array([b"\xff", None, b""]),
            "kind": pa.array(["a", None, "a"]).dictionary_encode(),
            "price": pa.array([Decimal("1.50"), None, Decimal(2)], pa.decimal128(5, 2)),
            "json": pa.array(["{}", None, "[1]"], pa.json_()),
            "map": pa.array([[("k", "v")], None, []], pa.map_(pa.string(), pa.string())),
            "pair": pa.array([["a", "b"], None, ["c", None]], pa.list_(pa.string(), 2)),
            "nested": pa.array([[{"a": [{"b": "c"}]}], None, [{"a": []}]]),
            "null": pa.nulls(3),
        }
    )
    pq.write_table(table, tmp_path / "made.parquet")
    rows = read(tmp_path, "rows.parquet", (tmp_path / "made.parquet").read_bytes())
    assert [value for _, value in rows] == pq.read_table(tmp_path / "made.parquet").to_pylist()


@pytest.mark.parametrize("cut", [0, 10, 300])
def test_truncated_parquet_names_the_file(tmp_path, cut):
    pq.write_table(pa.table({"text": [f"row {n}" for n in range(1_000)]}), tmp_path / "x")
    with pytest.raises(DataError, match=r"rows\.parquet: not a readable Parquet file"):
        read(tmp_path, "rows.parquet", (tmp_path / "x").read_bytes()[:cut])


# ---------------------------------------------------------------- no file of rows


@pytest.mark.parametrize("name", ["rows.xml", "rows.gz", "rows", "rows.parquet.gz", "jsonl"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: not a kind of file"):
        read(tmp_path, name, b"a,b\n")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.jsonl.zst", "rows.csv"])
def test_a_file_that_vanished_from_the_disk_is_not_the_datasets_fault(tmp_path, name):
    with pytest.raises(StorageError):
        list(read_rows(SourceFile("acme/chats", name, tmp_path / name)))
