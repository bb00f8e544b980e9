"""The JSON test suite (nst/JSONTestSuite): what begins with y_ must parse, with n_ must not."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from ct_llm.errors import DataError
from ct_llm.prepare.clean.files import SourceFile, Unparsable, read_rows

pytestmark = pytest.mark.slow


def suite(real_data: Path, kind: str) -> list[Path]:
    files = sorted((real_data / "messy" / "json").glob(f"{kind}_*.json"))
    assert len(files) > 20
    return files


def read(folder: Path, name: str, data: bytes) -> list[Any]:
    (folder / name).write_bytes(data)
    return [value for _, value in read_rows(SourceFile("suite", name, folder / name))]


def one_line(data: bytes) -> bytes:
    """Between two good rows; line ends are blanks to JSON."""
    return b'{"row": 0}\n' + data.replace(b"\r", b" ").replace(b"\n", b" ") + b'\n{"row": 2}\n'


def test_what_must_parse_does(tmp_path, real_data):
    for file in suite(real_data, "y"):
        data = file.read_bytes()
        value = json.loads(data)
        assert read(tmp_path, "rows.jsonl", one_line(data)) == [{"row": 0}, value, {"row": 2}], file
        assert read(tmp_path, "rows.json", b"[" + data + b"]") == [value], file
        # A file that is an array holds its elements as rows.
        rows = read(tmp_path, "rows.json", data)
        assert rows == (value if isinstance(value, list) else [value]), file


def test_what_must_not_parse_does_not(tmp_path, real_data):
    for file in suite(real_data, "n"):
        data = file.read_bytes()
        if file.stem != "n_string_unescaped_newline":  # on one line it is none
            first, *middle, last = read(tmp_path, "rows.jsonl", one_line(data))
            assert (first, last) == ({"row": 0}, {"row": 2})
            assert all(isinstance(value, Unparsable) for value in middle), file
            assert middle or not data.strip(), file
        for name, whole in (("rows.json", data), ("rows.jsonl", data)):
            try:
                rows = read(tmp_path, name, whole)
            except DataError:
                continue
            # Rows beside the broken ones are rows of a JSON Lines file; of nothing there are none.
            empty = not data.removeprefix(codecs.BOM_UTF8).strip()
            assert rows == [] if empty else any(isinstance(row, Unparsable) for row in rows), file


@pytest.mark.parametrize("number", ["1e999", "-1e999", "0e1", "123123e100000", "1" * 4_000])
def test_numbers_of_any_size_are_read_or_are_bad_rows(tmp_path, number):
    assert len(read(tmp_path, "rows.jsonl", one_line(f'{{"n": {number}}}'.encode()))) == 3
