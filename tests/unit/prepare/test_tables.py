import pyarrow.parquet as pq
import pytest

from ct_llm.errors import StorageError
from ct_llm.prepare.tables import HOLDOUT, QUARANTINE, TRAIN, table

BAD_ROW = ("acme/chats", "a.jsonl", 3, "empty", "{}")


def test_the_columns_are_the_contract_of_prepared_data():
    place = ["repo", "path", "row_index"]
    assert HOLDOUT.names == ["row_id", "messages", "tools", "source", *place]
    assert TRAIN.names == [*HOLDOUT.names, "replay"]
    assert QUARANTINE.names == [*place, "reason", "original"]


@pytest.mark.parametrize("num_rows", [0, 1, 4_096, 5_000])
def test_rows_come_back_and_bytes_repeat(tmp_path, num_rows):
    for name in ("one.parquet", "two.parquet"):
        with table(tmp_path / name, QUARANTINE) as append:
            for _ in range(num_rows):
                append(BAD_ROW)
    read = pq.read_table(tmp_path / "one.parquet")
    assert read.schema == QUARANTINE
    assert read.to_pylist() == [dict(zip(QUARANTINE.names, BAD_ROW, strict=True))] * num_rows
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_nothing_half_written_is_left(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"of an earlier run")
    with pytest.raises(ZeroDivisionError), table(tmp_path / "bad.parquet", QUARANTINE) as append:
        append(BAD_ROW)
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["bad.parquet"]
    assert (tmp_path / "bad.parquet").read_bytes() == b"of an earlier run"


def test_a_disk_that_refuses_is_a_storage_error(tmp_path):
    (tmp_path / "data").write_bytes(b"a file where a folder should be")
    with (
        pytest.raises(StorageError),
        table(tmp_path / "data" / "train.parquet", TRAIN),
    ):
        pass
