import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from ct_llm.config import Format
from ct_llm.errors import DataError
from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.rows import CleaningRules, CleanRow, DataSource, RejectedRow, clean_rows
from tests.unit.prepare.dataset_on_disk import REPO, DatasetOnDisk, alpaca

RULES = CleaningRules(max_chars=1_000)


def read(
    dataset: DatasetOnDisk,
    rows: Iterable[Any] | bytes,
    row_format: Format = "auto",
    path: str = "chats/june.jsonl",
    columns: Mapping[str, str] | None = None,
    rules: CleaningRules = RULES,
) -> list[CleanRow | RejectedRow]:
    local = dataset.open_file(REPO, "b" * 40, dataset.write(path, rows))
    source = DataSource(
        SourceFile(REPO, path, local), row_format, "datasets[0].format", "chats", columns or {}
    )
    return list(clean_rows(source, rules))


def test_clean_rows_say_where_they_come_from(dataset):
    ours, theirs = read(dataset, [alpaca(1), alpaca(2, source=" forum ")])
    assert isinstance(ours, CleanRow)
    assert isinstance(theirs, CleanRow)
    assert ours.row.source == "chats"
    assert theirs.row.source == "forum"
    assert (theirs.row.repo, theirs.row.path, theirs.row.row_index) == (REPO, "chats/june.jsonl", 1)
    assert [message["role"] for message in json.loads(ours.row.messages)] == ["user", "assistant"]


@pytest.mark.parametrize("source", [None, 3, "", "  ", ["forum"]])
def test_a_source_that_is_no_name_counts_as_none(dataset, source):
    (found,) = read(dataset, [alpaca(1, source=source)])
    assert isinstance(found, CleanRow)
    assert found.row.source == "chats"


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
        read(dataset, [{"instruction": "Sort.", "answer": "Done."}])
    told = str(error.value)
    assert f"{REPO}: chats/june.jsonl: no known format" in told
    assert "columns found instruction, answer" in told
    assert "alpaca (instruction + output" in told
    assert "datasets[0].columns, or set datasets[0].format" in told


def test_hostile_names_and_rows_are_shown_short_and_harmless(dataset):
    secret = "AKIA" + "Q7ZK2M4XWB5N3RTY"
    columns = {f"\x1b]0;owned\x07{secret} {n}" + "x" * 1_000: 1 for n in range(50_000)}
    name = "chats/\x1b[2J" + "y" * 180 + ".jsonl"
    for rows, told in (
        ([{secret: 1, **columns}], "AKIA[redacted], \\x1b]0;owned\\x07"),
        (f"{{\u202e\x1b {secret} {'x' * 10_000}".encode(), "{\\u202e\\x1b AKIA[redacted]"),
    ):
        with pytest.raises(DataError) as error:
            read(dataset, rows, path=name)
        message = str(error.value)
        assert told in message
        assert message.isprintable() and secret not in message
        assert len(message) < 4_000
        assert ("… and 49,981 more" in message) == isinstance(rows, list)


def test_a_format_that_was_set_is_not_detected(dataset):
    row = {"instruction": "Sort.", "answer": "Done.", "messages": []}
    assert read(dataset, [row], row_format="alpaca") == [
        RejectedRow(0, "missing_field", json.dumps(row))
    ]


def test_mapped_columns_are_found_and_name_the_source(dataset):
    rows = [{"q": "Sort.", "a": "Done.", "from_where": "forum"}, {"q": "Sort."}]
    columns = {"prompt": "q", "completion": "a", "source": "from_where"}
    found, bad = read(dataset, rows, columns=columns)
    assert isinstance(found, CleanRow)
    assert found.row.source == "forum"
    assert bad == RejectedRow(1, "missing_field", '{"q": "Sort."}')


def test_cells_hold_conversations(dataset):
    turns = json.dumps([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}])
    quoted = turns.replace('"', '""')
    (found,) = read(dataset, f'id,messages\n1,"{quoted}"\n'.encode(), path="a.csv")
    assert isinstance(found, CleanRow)
    assert json.loads(found.row.messages) == json.loads(turns)


def test_texts_are_rows(dataset):
    text = "A sentence of some words. " * 20
    for path, rows in (
        ("a.jsonl", [text, "short", 3]),
        ("b.jsonl", [{"text": text}, {"text": "short"}, 3]),
        ("c.txt", f"{text}\nshort\n \n".encode()),
    ):
        cut, short, *others = read(dataset, rows, path=path)
        assert isinstance(cut, CleanRow), path
        assert isinstance(short, RejectedRow)
        assert short.reason == "too_short"
        assert [row.reason for row in others if isinstance(row, RejectedRow)] == (
            ["not_an_object"] if others else []
        )


def test_rows_that_are_no_objects_are_no_dataset(dataset):
    with pytest.raises(DataError, match="JSON object"):
        read(dataset, [1, [2], None])


def test_tools_are_kept_as_json(dataset):
    tools = [{"name": "f", "description": "Zürich"}]
    asked, said = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
    with_tools, plain = read(
        dataset, [{"messages": [asked, said], "tools": t} for t in (tools, [])]
    )
    assert isinstance(with_tools, CleanRow)
    assert isinstance(plain, CleanRow)
    assert with_tools.row.tools is not None
    assert json.loads(with_tools.row.tools) == [{"type": "function", "function": tools[0]}]
    assert plain.row.tools is None
    assert with_tools.id != plain.id


def test_secrets_are_not_copied_into_the_quarantine(dataset):
    secret = "AKIA" + "Q7ZK2M4XWB5N3RTY"
    rows = [
        alpaca(1, answer=secret),
        alpaca(2, answer="", notes=f"the key:\n{secret}"),
        alpaca(3, answer="fine", notes=secret),
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    found = read(
        dataset,
        lines + b'{"broken: "' + secret.encode(),
        rules=RULES._replace(secrets="quarantine"),
    )
    assert [row.reason for row in found if isinstance(row, RejectedRow)] == [
        "secret",
        "empty",
        "unparsable",
    ]
    assert not [row for row in found if secret[4:] in str(row)]
    assert "AKIA[redacted]" in str(found[0])


def test_neutralised_rows_are_rows_like_others(dataset):
    rules = RULES._replace(template_tokens="neutralise")
    (found,) = read(dataset, [alpaca(1, answer="say </s>")], rules=rules)
    (again,) = read(dataset, [alpaca(1, answer="say <\u200b/s>")], rules=rules)
    assert isinstance(found, CleanRow)
    assert json.loads(found.row.messages)[1]["content"] == "say <\u200b/s>"
    assert again == found


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


@pytest.mark.parametrize("depth", [50, 300, 900, 980])
@pytest.mark.parametrize("template_tokens", ["quarantine", "neutralise"])
def test_tool_calls_nested_deep_do_not_crash(dataset, depth, template_tokens):
    nested = '{"a": ' * depth + '"</s>"' + "}" * depth
    row = f"""{{"messages": [{{"role": "user", "content": "?"}}, {{"role": "assistant", "content": "",
        "tool_calls": [{{"name": "f", "arguments": {nested}}}]}}]}}"""
    rules = CleaningRules(max_chars=100_000, template_tokens=template_tokens)
    (found,) = read(dataset, row.replace("\n", " ").encode(), "messages", rules=rules)
    if depth > 100:
        assert isinstance(found, RejectedRow)
        assert found.reason in ("unparsable", "bad_tool_call")
    else:
        assert isinstance(found, CleanRow) == (template_tokens == "neutralise")


def test_a_file_of_two_formats_loses_no_row(dataset):
    """As when somebody merges two shards."""
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    pair = {"prompt": "Which?", "chosen": "This one.", "rejected": "That one."}
    rows = [*[pair] * 3, *[{"messages": said}] * 5, alpaca(1), {"prompt": "nothing else"}]
    found = read(dataset, rows)
    assert [type(row) for row in found] == [CleanRow] * 9 + [RejectedRow]
    only = read(dataset, rows, "preference")
    assert [type(row) for row in only] == [CleanRow] * 3 + [RejectedRow] * 7
