import json
from collections.abc import Iterable
from typing import Any, Literal

import pytest

from ct_llm.errors import DataError
from ct_llm.prepare.files import SourceFile
from ct_llm.prepare.formats import Format
from ct_llm.prepare.rows import CleanRow, DataSource, RejectedRow, clean_rows
from tests.unit.prepare.dataset_on_disk import REPO, DatasetOnDisk, alpaca


def read(
    dataset: DatasetOnDisk,
    rows: Iterable[Any] | bytes,
    row_format: Format | Literal["auto"] = "auto",
    path: str = "chats/june.jsonl",
) -> list[CleanRow | RejectedRow]:
    local = dataset.open_file(REPO, "b" * 40, dataset.write(path, rows))
    source = DataSource(SourceFile(REPO, path, local), row_format, "datasets[0].format")
    return list(clean_rows(source, max_chars=1_000))


def test_clean_rows_say_where_they_come_from(dataset):
    ours, theirs = read(dataset, [alpaca(1), alpaca(2, source=" forum ")])
    assert isinstance(ours, CleanRow)
    assert isinstance(theirs, CleanRow)
    assert ours.row.source == f"{REPO}/june"
    assert theirs.row.source == "forum"
    assert (theirs.row.repo, theirs.row.path, theirs.row.row_index) == (REPO, "chats/june.jsonl", 1)
    assert [message["role"] for message in json.loads(ours.row.messages)] == ["user", "assistant"]


@pytest.mark.parametrize("source", [None, 3, "", "  ", ["forum"]])
def test_a_source_that_is_no_name_counts_as_none(dataset, source):
    (found,) = read(dataset, [alpaca(1, source=source)])
    assert isinstance(found, CleanRow)
    assert found.row.source == f"{REPO}/june"


def test_the_format_is_found_although_the_first_rows_are_bad(dataset):
    found = read(dataset, [3, {}, {"instruction": "only"}, alpaca(1)])
    assert [row.reason for row in found if isinstance(row, RejectedRow)] == [
        "not_an_object",
        "missing_field",
        "missing_field",
    ]
    assert isinstance(found[3], CleanRow)


def test_an_unknown_format_is_told_with_the_columns_found(dataset):
    with pytest.raises(DataError) as error:
        read(dataset, [{"instruction": "Sort.", "response": "Done."}])
    told = str(error.value)
    assert f"{REPO}: chats/june.jsonl: no known format" in told
    assert "columns found instruction, response" in told
    assert "alpaca (instruction + output)" in told
    assert "datasets[0].format" in told


def test_a_format_that_was_set_is_not_detected(dataset):
    found = read(dataset, [{"instruction": "Sort.", "response": "Done."}], row_format="alpaca")
    assert found == [
        RejectedRow(0, "missing_field", '{"instruction": "Sort.", "response": "Done."}')
    ]


def test_rows_that_are_no_objects_are_no_dataset(dataset):
    with pytest.raises(DataError, match="JSON object"):
        read(dataset, ["just text", "more text"])


def test_an_empty_file_has_no_rows(dataset):
    assert read(dataset, b"") == []
    assert read(dataset, b"[]", path="empty.json") == []


def test_the_original_is_kept_cut_and_writable(dataset):
    found = read(dataset, b'{"messages": "' + b"x" * 30_000 + b'"}\n{"messages": "\\ud800"}\n')
    long, lone_surrogate = (row.original for row in found if isinstance(row, RejectedRow))
    assert len(long) == 20_000
    assert lone_surrogate == '{"messages": "\\ud800"}'


@pytest.mark.parametrize("depth", [900, 950, 970, 980, 985, 990, 995, 1_000])
def test_rows_nested_as_deep_as_python_reads_do_not_crash(dataset, depth):
    found = read(dataset, b'{"messages": ' + b"[" * depth + b"]" * depth + b"}\n", "messages")
    assert len(found) == 1
    assert isinstance(found[0], RejectedRow)
