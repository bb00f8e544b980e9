import gzip
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ct_llm.errors import DataError
from ct_llm.prepare.held_out import write_held_out

ROWS = [{"instruction": f"Say {i}", "output": str(i)} for i in range(3)]


@pytest.mark.parametrize("as_file", [True, False])
def test_rows_and_files_of_rows_are_taken(tmp_path: Path, as_file: bool) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(ROWS))
    out = tmp_path / "holdout.parquet"
    assert write_held_out(file if as_file else ROWS, out) == 3
    assert pq.read_table(out, columns=["messages"]).num_rows == 3


def test_every_format_and_packing_is_taken(tmp_path: Path) -> None:
    call = {"name": "weather", "arguments": {"city": "Oslo"}}
    turns = [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "Snow"},
        {"from": "gpt", "value": "Snow."},
    ]
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps({"conversations": turns, "tools": [call]}).encode()))
    assert write_held_out(file, tmp_path / "holdout.parquet") == 1
    (row,) = pq.read_table(tmp_path / "holdout.parquet").to_pylist()
    assert json.loads(row["messages"])[1]["tool_calls"][0]["function"] == call
    assert json.loads(row["tools"])[0]["type"] == "function"
    assert row["source"] == "test set"


def test_a_row_twice_is_one_item(tmp_path: Path) -> None:
    assert write_held_out([*ROWS, ROWS[0]], tmp_path / "holdout.parquet") == 3


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([*ROWS, {"instruction": "Say", "output": ""}], r"row 3 cannot be used \(empty\)"),
        ([{"question": "?"}], "no known format: columns found question"),
        ([], "holds no rows"),
    ],
)
def test_nothing_is_left_out_silently(
    tmp_path: Path, rows: list[dict[str, str]], said: str
) -> None:
    out = tmp_path / "holdout.parquet"
    with pytest.raises(DataError, match=said):
        write_held_out(rows, out)
    assert not out.exists()
