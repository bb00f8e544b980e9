"""One conversation is the same row in whatever format, file and packing it comes."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ct_llm.config import RowFormat
from ct_llm.prepare.clean.conversation import BadRow, Conversation, Message
from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.formats import detect_format, reader
from ct_llm.prepare.clean.identity import identity
from ct_llm.prepare.clean.rows import CleaningRules, CleanRow, DataSource, RejectedRow, clean_rows
from ct_llm.prepare.clean.template_tokens import has_template_token
from ct_llm.prepare.clean.validate import check_conversation
from tests.unit.prepare.clean.one_row import to_conversation

RULES = CleaningRules(max_chars=10_000)


def _fit(text: str) -> bool:
    messages: list[Message] = [{"role": "user", "content": text}]
    try:
        check_conversation(Conversation([*messages, {"role": "assistant", "content": "x"}]), RULES)
    except BadRow:
        return False
    return True


anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
fit_texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r"),
    min_size=1,
    max_size=30,
).filter(_fit)
even_turns = st.lists(fit_texts, min_size=2, max_size=6).map(lambda t: t[: len(t) // 2 * 2])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | fit_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fit_texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(fit_texts, json_values, max_size=3)


def conversation(turns: list[str]) -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * (len(turns) // 2)
    return [{"role": r, "content": text} for r, text in zip(roles, turns, strict=True)]


@given(even_turns)
def test_one_conversation_is_the_same_row_in_every_format(turns):
    messages = conversation(turns)
    names = {"user": "human", "assistant": "gpt"}
    told = [{"from": names[m["role"]], "value": m["content"]} for m in messages]
    written: list[tuple[RowFormat, dict[str, Any]]] = [
        ("messages", {"messages": messages}),
        ("messages", {"messages": json.dumps(messages)}),
        (
            "messages",
            {
                "messages": [
                    {**m, "content": [{"type": "text", "text": m["content"]}], "weight": 1}
                    for m in messages
                ]
            },
        ),
        ("prompt_completion", {"prompt": messages[:-1], "completion": messages[-1:]}),
        ("sharegpt", {"conversations": told}),
        ("preference", {"conversations": told[:-1], "chosen": told[-1], "rejected": told[-1]}),
        ("preference", {"chosen": messages, "rejected": messages[:-1]}),
        ("alpaca", _alpaca(turns)),
        (
            "dialogue",
            {"utterances": [{"speaker": m["role"], "text": m["content"]} for m in messages]},
        ),
        ("oasst", {"message_tree_id": "t", "prompt": _tree(turns)}),
    ]
    for row_format, row in written:
        assert detect_format(row.keys()) == row_format
        assert to_conversation(json.loads(json.dumps(row)), row_format).messages == messages


def _alpaca(turns: list[str]) -> dict[str, Any]:
    *history, (asked, answered) = zip(turns[::2], turns[1::2], strict=True)
    return {"instruction": asked, "input": "", "output": answered, "history": history}


def _tree(turns: list[str]) -> dict[str, Any]:
    node: dict[str, Any] = {}
    for index, text in reversed(list(enumerate(turns))):
        role = "assistant" if index % 2 else "prompter"
        replies = [node, {"text": "worse", "role": role, "rank": 1}] if node else []
        node = {"message_id": str(index), "text": text, "role": role, "rank": 0, "replies": replies}
    return node


@given(
    fit_texts,
    st.lists(st.tuples(fit_texts, objects), min_size=1, max_size=3),
    st.lists(st.tuples(fit_texts, objects), max_size=2),
    fit_texts,
)
def test_calls_are_the_same_row_in_every_writing(asked, calls, tools, answered):
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    listed = [{"name": name, "parameters": parameters} for name, parameters in tools]
    returned = [
        {"role": "tool", "content": "42", "tool_call_id": str(n)} for n in range(len(calls))
    ]
    opened: dict[str, Any] = {"role": "user", "content": asked}
    closed: dict[str, Any] = {"role": "assistant", "content": answered}
    openai = [
        {
            "id": str(n),
            "type": "function",
            "function": {**f, "arguments": json.dumps(f["arguments"])},
        }
        for n, f in enumerate(functions)
    ]
    parts = [{"type": "tool_call", "value": json.dumps(f)} for f in functions]
    rows: list[tuple[RowFormat, dict[str, Any]]] = [
        (
            "messages",
            {
                "messages": [
                    opened,
                    {"role": "assistant", "tool_calls": openai},
                    *returned,
                    closed,
                ],
                "tools": [{"type": "function", "function": tool} for tool in listed],
            },
        ),
        (
            "messages",
            {
                "messages": [opened, {"role": "assistant", "content": parts}, *returned, closed],
                "tools": listed,
            },
        ),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": asked},
                    *({"from": "function_call", "value": json.dumps(f)} for f in functions),
                    *({"from": "observation", "value": "42"} for _ in functions),
                    {"from": "gpt", "value": answered},
                ],
                "tools": json.dumps(listed),
            },
        ),
    ]
    found = [to_conversation(json.loads(json.dumps(row)), name) for name, row in rows]
    assert found[0] == found[1] == found[2]
    checked = check_conversation(found[0], RULES)
    assert [c["function"] for c in checked.messages[1].get("tool_calls", [])] == functions
    assert (checked.tools or []) == [{"type": "function", "function": tool} for tool in listed]


# ---------------------------------------------------------------- files


def _lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _cells(rows: list[dict[str, str]], delimiter: str) -> bytes:
    told = io.StringIO()
    writer = csv.DictWriter(told, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return told.getvalue().encode()


def _parquet(rows: list[dict[str, str]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[list[dict[str, str]]], bytes]] = {
    "a.jsonl": _lines,
    "a.json": lambda rows: json.dumps(rows, ensure_ascii=False, indent=2).encode(),
    "b.json": lambda rows: "\n".join(json.dumps(row, indent=1) for row in rows).encode(),
    "a.jsonl.gz": lambda rows: gzip.compress(_lines(rows)),
    "a.ndjson.zst": lambda rows: pa.compress(_lines(rows), "zstd", asbytes=True),
    "u.jsonl": lambda rows: _lines(rows).decode().encode("utf-16"),
    "a.csv": lambda rows: _cells(rows, ","),
    "a.tsv.gz": lambda rows: gzip.compress(_cells(rows, "\t")),
    "a.parquet": _parquet,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(st.lists(st.tuples(fit_texts, fit_texts), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_the_same_rows_in_files_of_every_kind(folder, pairs):
    # Carriage returns within cells are written as they are, and read as such.
    rows = [{"instruction": asked, "output": answered} for asked, answered in pairs]
    found = {}
    for name, write in WRITERS.items():
        (folder / name).write_bytes(write(rows))
        source = DataSource(SourceFile("acme/rows", name, folder / name), "auto", "format", "rows")
        found[name] = [
            row.row._replace(path="") if isinstance(row, CleanRow) else row
            for row in clean_rows(source, RULES)
        ]
    for name, rows_found in found.items():
        assert rows_found == found["a.jsonl"], name
    assert [row.row_index for row in found["a.jsonl"]] == list(range(len(pairs)))


# ---------------------------------------------------------------- any row at all


def _any_row(keys: list[str]) -> st.SearchStrategy[Any]:
    turn = st.dictionaries(
        st.sampled_from(
            ["role", "from", "content", "value", "speaker", "text", "tool_calls", "name"]
        ),
        json_values | st.sampled_from(["user", "assistant", "tool", "gpt", "function_call", "{}"]),
        max_size=4,
    )
    value = json_values | anything | turn | st.lists(turn, max_size=4)
    return st.dictionaries(st.sampled_from(keys), value, max_size=4) | json_values


COLUMNS = ["messages", "conversations", "prompt", "completion", "chosen", "instruction", "output"]
COLUMNS += ["instances", "history", "utterances", "replies", "message_id", "role", "text", "tools"]
FORMATS: tuple[RowFormat, ...] = (
    "messages",
    "prompt_completion",
    "alpaca",
    "sharegpt",
    "preference",
    "oasst",
    "dialogue",
    "text",
)


@given(_any_row(COLUMNS), st.sampled_from(FORMATS))
@settings(max_examples=400, deadline=None)
def test_any_json_is_a_clean_row_or_a_bad_one(row, row_format):
    for rules in (RULES, RULES._replace(template_tokens="neutralise", keep_tool_calls=False)):
        try:
            messages, tools = check_conversation(reader(row_format)(row), rules)
        except BadRow as bad:
            assert bad.reason
            continue
        assert messages[-1]["role"] == "assistant"
        assert not has_template_token(json.dumps(messages, ensure_ascii=False))
        assert (
            identity(messages, tools).row == identity(json.loads(json.dumps(messages)), tools).row
        )


@given(st.lists(st.binary(max_size=60), max_size=6), st.sampled_from(FORMATS))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_bad_rows(folder, rows, row_format):
    (folder / "any.jsonl").write_bytes(b'{"a": 1}\n' + b"\n".join(rows))
    source = DataSource(
        SourceFile("any", "any.jsonl", folder / "any.jsonl"), row_format, "format", "any"
    )
    found = list(clean_rows(source, RULES))
    assert found
    assert all(isinstance(row, RejectedRow) for row in found)
