"""Rows from a parquet footer and from text of every kind, and what is said of damaged files."""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.sources import byte_streams, row_counts
from ct_llm.sources.row_counts import TAIL_BYTES, parquet_rows, text_rows

pytestmark = pytest.mark.slow


class Bytes:
    """A file's content that remembers which ranges were asked of it."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> bytes:
        assert 0 <= start < stop <= len(self.content)
        self.ranges.append((start, stop))
        return self.content[start:stop]

    def rows(self) -> int:
        return parquet_rows(len(self.content), self.read)


def parquet(columns: dict[str, list[int]], row_group_size: int | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=row_group_size)
    return sink.getvalue()


# ---------------------------------------------------------------- parquet


def test_a_file_smaller_than_the_tail_is_read_whole():
    file = Bytes(parquet({"x": [1, 2, 3]}))
    assert file.rows() == 3
    assert file.ranges == [(0, len(file.content))]


def test_no_rows_is_a_number():
    assert Bytes(parquet({"x": []})).rows() == 0


def test_only_the_tail_of_a_large_file_is_read():
    file = Bytes(b"PAR1" + b"\0" * 10_000_000 + parquet({"x": [1, 2]})[4:])
    assert file.rows() == 2
    assert file.ranges == [(len(file.content) - TAIL_BYTES, len(file.content))]


def test_of_a_large_footer_exactly_the_missing_part_is_read():
    content = parquet({f"column_{i}": list(range(20)) for i in range(100)}, row_group_size=1)
    footer = int.from_bytes(content[-8:-4], "little") + 8
    assert footer > TAIL_BYTES
    file = Bytes(content)
    assert file.rows() == 20
    tail = len(content) - TAIL_BYTES
    assert file.ranges == [(tail, len(content)), (len(content) - footer, tail)]


def cut(content: bytes) -> bytes:
    return content[:-3]


def scrambled(content: bytes) -> bytes:
    footer = int.from_bytes(content[-8:-4], "little")
    return content[: -8 - footer] + b"\xff" * footer + content[-8:]


def boasting(content: bytes) -> bytes:
    return content[:-8] + (2**31).to_bytes(4, "little") + b"PAR1"


def without_footer(content: bytes) -> bytes:
    return content[:-8] + bytes(4) + b"PAR1"


def encrypted(content: bytes) -> bytes:
    return content[:-4] + b"PARE"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "no PAR1"),
        (scrambled, "damaged"),
        (boasting, "claims 2147483648 bytes"),
        (without_footer, "damaged"),
        (encrypted, "encrypted"),
        (lambda _: b"", "0 bytes"),
        (lambda _: b"PAR1PAR1", "8 bytes"),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "no PAR1"),
    ],
)
def test_a_damaged_footer_is_named_and_nothing_more_is_read(
    damage: Callable[[bytes], bytes], said: str
):
    file = Bytes(damage(parquet({"x": [1, 2, 3]})))
    with pytest.raises(ValueError, match=said):
        file.rows()
    assert len(file.ranges) <= 1


# ---------------------------------------------------------------- text


def compressed(name: str, content: bytes) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content)
    return pa.Codec("zstd").compress(content, asbytes=True) if name.endswith(".zst") else content


def count(folder: Path, name: str, content: bytes) -> int:
    file = folder / name
    file.write_bytes(content)
    return text_rows(file, name)


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.jsonl", b'{"x": 1}\n{"x": 2}\n', 2),
        ("no_newline_at_the_end.jsonl", b'{"x": 1}\n{"x": 2}', 2),
        ("blank_lines.jsonl", b'\n{"x": 1}\r\n  \r\n\n{"x": 2}\n\n', 2),
        ("broken_line.jsonl", b'{"x": 1}\n{"x":\n{"x": 2}\n', 3),
        ("array.jsonl", b'[{"x": 1}, {"x": 2}]', 2),
        ("empty.jsonl", b"", 0),
        ("a.ndjson", b'{"x": 1}\n', 1),
        ("array.json", b'[{"x": 1},\n {"x": 2},\n {"x": 3}]', 3),
        ("array_with_bom.json", b'\xef\xbb\xbf\n [{"x": 1}]', 1),
        ("marks_in_strings.json", rb'["a, \"b]", {"x": "\\"}, "\\\",", [1, [2, 3]]]', 4),
        ("plain.json", b"[1, true ,null,\n2]\n", 4),
        ("no_rows.json", b"[]", 0),
        ("no_rows.jsonl", b" [ ] ", 0),
        ("lines.json", b'{"x": 1}\n{"x": 2}\n', 2),
        ("one_row.json", b'{"x": 1}', 1),
        ("empty.json", b" \n", 0),
        ("a.csv", b"q,a\n1,2\n3,4\n", 2),
        ("crlf_and_bom.csv", b"\xef\xbb\xbfq,a\r\n1,2\r\n3,4", 2),
        ("quoted_newlines.csv", b'q,a\n"one\ntwo\r\n\r\nthree","4"\n"say ""hi""\n",5\n', 2),
        ("blank_lines.csv", b"q,a\n\n1,2\n\n", 1),
        ("quote_inside.csv", b'q,a\n5" pipe,2\n6" pipe,2\n', 2),
        ("wrong_quotes.csv", b'q,a\n"1"2,3\n4,5\n', 2),
        ("semicolons.csv", b'q;a\n1;"2\n3"\n4;5\n', 2),
        ("utf16.csv", "q,a\n1,2\n".encode("utf-16"), 1),
        ("utf16.jsonl", '{"x": 1}\n{"x": "é"}\n'.encode("utf-16"), 2),
        ("utf16.json", '[{"x": 1}, 2]'.encode("utf-16"), 2),
        ("header_alone.csv", b"q,a\n", 0),
        ("empty.csv", b"", 0),
        ("not_utf8.csv", b"q,a\n\xff\xfe,2\n", 1),
        ("a.tsv", b'q\ta\n1, 2\t3\n"4\n5"\t6\n', 2),
        ("a.txt", b"one\n\n  \ntwo", 2),
    ],
)
def test_rows_of_text(tmp_path: Path, name: str, content: bytes, rows: int, compression: str):
    name += compression
    assert count(tmp_path, name, compressed(name, content)) == rows


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.json", b'[{"x": 1}, {"x"', "the text ends after 1 elements"),
        ("comma_at_the_end.json", b'[{"x": 1},]', "nothing between the last comma and ]"),
        ("two_commas.jsonl", b"[1,,2]", "nothing before a comma"),
        ("two_arrays.json", b"[1]\n[2]", "text outside of the array after 1"),
        ("text_after.json", b"[1] x", "text outside of the array"),
        ("wrong_end.json", b"[1}", "a } that nothing opened"),
        ("object_over_lines.json", b'{\n  "x": 1\n}\n', "neither a JSON array of rows nor one row"),
        ("cut_object.json", b'{"x": 1, "y', "neither a JSON array of rows nor one row"),
        ("not_text.json", b"\x89PNG\r\n", "neither a JSON array of rows nor one row"),
        ("too_deep.json", b"[" * 200_000, "the text ends after 0 elements"),
        ("too_deep_object.json", b'{"x":' * 200_000, "neither a JSON array of rows nor one row"),
        ("cut.jsonl.gz", gzip.compress(b'{"x": 1}\n' * 1_000)[:-20], "does not unpack"),
        ("no.jsonl.gz", b'{"x": 1}\n', "does not unpack"),
        ("cut.csv.zst", compressed("x.zst", b"a,b\n" * 1_000)[:-5], "does not unpack"),
        ("no.jsonl.zst", b'{"x": 1}\n', "does not unpack"),
    ],
)
def test_damage_is_named(tmp_path: Path, name: str, content: bytes, said: str):
    with pytest.raises(ValueError, match=said):
        count(tmp_path, name, content)


def test_a_quoted_field_that_never_ends_is_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in (row_counts, byte_streams):
        monkeypatch.setattr(module, "MAX_LINE", 10_000)
    with pytest.raises(ValueError, match="never closed"):
        count(tmp_path, "a.csv", b'q,a\n1,"' + b"2,3\n" * 10_000)
    with pytest.raises(ValueError, match="line of more than 10,000"):
        count(tmp_path, "b.csv", b"q,a\n" + b"2,3" * 10_000)
    with pytest.raises(ValueError, match="never closed"):
        count(tmp_path, "c.csv", b'q,a\n1,"2\n3,4\n')


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.jsonl.zst", "bomb.json.gz", "bomb.txt.gz"])
def test_a_file_that_expands_a_thousandfold_is_not_held(tmp_path: Path, name: str):
    """50 MB of one line, or of one string in an array."""
    content = b"[" * name.startswith("bomb.json.") + b'"' + b"x" * 50_000_000
    packed = compressed(name, content + b'"' + b"]" * name.startswith("bomb.json."))
    assert len(packed) < 100_000
    del content
    tracemalloc.start()
    try:
        assert count(tmp_path, name, packed) == 1
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(
    rows=st.lists(JSON, max_size=6),
    indent=st.sampled_from([None, 2]),
    ascii_only=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_any_array_is_counted_wherever_it_is_cut(
    rows: list[object], indent: int | None, ascii_only: bool, chunk: int
):
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode()
    pieces = [text[start : start + chunk] for start in range(0, len(text), chunk)]
    assert row_counts._array_elements(pieces) == len(rows)


FIELD = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1)


@given(rows=st.lists(st.tuples(FIELD, FIELD), max_size=8), delimiter=st.sampled_from(",\t"))
def test_any_table_is_counted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str
):
    sink = io.StringIO()
    csv.writer(sink, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("q", "a"), *rows])
    name = "a.csv" if delimiter == "," else "a.tsv"
    folder = tmp_path_factory.mktemp("table")
    assert count(folder, name, sink.getvalue().encode()) == len(rows)


def test_the_json_test_suite_never_surprises(real_data: Path):
    """Of what must parse, arrays have as many rows as elements; of the rest, a number or ValueError."""
    files = sorted((real_data / "messy" / "json").glob("*.json"))
    assert len(files) > 200
    for file in files:
        # One object over several lines parses, and yet holds no rows.
        if file.name.startswith("y_") and file.name != "y_object_with_newlines.json":
            value = json.loads(file.read_bytes())
            rows = text_rows(file, file.name)
            assert rows == (len(value) if isinstance(value, list) else 1), file.name
        else:
            try:
                assert text_rows(file, file.name) >= 0
            except ValueError as error:
                assert "JSON array" in str(error)
