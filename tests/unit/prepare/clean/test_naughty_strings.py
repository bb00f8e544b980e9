"""The big list of naughty strings, through every format to the end: kept to the letter, or told why."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from ct_llm.prepare.clean.files import SourceFile
from ct_llm.prepare.clean.rows import CleaningRules, CleanRow, DataSource, RejectedRow, clean_rows
from ct_llm.prepare.tables import HOLDOUT, table

pytestmark = pytest.mark.slow

CALL: dict[str, Any] = {"name": "f", "arguments": {}}


def _messages(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}


FORMATS: dict[str, Callable[[str], dict[str, Any]]] = {
    "messages": _messages,
    "parts": lambda text: {
        "messages": [
            {"role": role, "content": [{"type": "text", "text": text}]}
            for role in ("user", "assistant")
        ]
    },
    "prompt_completion": lambda text: {"prompt": text, "completion": text},
    "alpaca": lambda text: {"instruction": text, "output": text, "source": text},
    "sharegpt": lambda text: {
        "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]
    },
    "preference": lambda text: {"prompt": text, "chosen": text, "rejected": text},
    "oasst": lambda text: {
        "message_id": text,
        "text": text,
        "role": "prompter",
        "replies": [{"message_id": text, "text": text, "role": "assistant", "replies": []}],
    },
    "dialogue": lambda text: {
        "utterances": [{"speaker": "user", "text": text}, {"speaker": "system", "text": text}]
    },
    "text": lambda text: {"text": f"{text} " * (1 + 400 // len(text)) if text else ""},
    "tool calls": lambda text: {
        "conversations": [
            {"from": "human", "value": "call it"},
            {"from": "function_call", "value": json.dumps({**CALL, "arguments": {text: [text]}})},
            {"from": "observation", "value": text},
            {"from": "gpt", "value": "called"},
        ],
        "tools": [{"name": "f", "description": text}],
    },
}
ANY_REASON = {"empty", "control_character", "template_token", "too_short"}


@pytest.fixture(scope="module")
def strings(real_data) -> list[str]:
    folder = real_data / "messy" / "blns"
    listed = json.loads((folder / "blns.json").read_text(encoding="utf-8"))
    return [*listed, *(folder / "blns.txt").read_text(encoding="utf-8").split("\n")]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("template_tokens", ["quarantine", "neutralise"])
def test_every_string_in_every_format(tmp_path, strings, name, template_tokens):
    local = tmp_path / "rows.jsonl"
    local.write_text("".join(json.dumps(FORMATS[name](text)) + "\n" for text in strings))
    rules = CleaningRules(200_000, template_tokens, "quarantine")
    source = DataSource(SourceFile("naughty", "rows.jsonl", local), "auto", "format", "naughty")
    found = list(clean_rows(source, rules))
    assert len(found) == len(strings)
    bad = [row for row in found if isinstance(row, RejectedRow)]
    assert {row.reason for row in bad} <= ANY_REASON
    assert len(bad) < len(strings) * (0.2 if name != "text" else 0.6)

    clean = [row for row in found if isinstance(row, CleanRow)]
    with table(tmp_path / "rows.parquet", HOLDOUT) as append:
        for row in clean:
            append((row.id.row.hex(), *row.row))
    back = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [row["messages"] for row in back] == [row.row.messages for row in clean]
    for row in back:
        text, said = strings[row["row_index"]], json.loads(row["messages"])
        if name not in ("text", "tool calls") and template_tokens == "quarantine":
            # Both turns of the oldest formats keep every character.
            assert said[0]["content"].strip() == text.strip()
            assert said[-1]["content"].strip() == text.strip()
        if name == "tool calls" and template_tokens == "quarantine":
            assert said[1]["tool_calls"][0]["function"]["arguments"] == {text: [text]}
            assert json.loads(row["tools"])[0]["function"]["description"] == text


def test_every_string_in_a_cell_and_on_a_line(tmp_path, strings):
    usable = [text for text in strings if "\0" not in text]
    told = io.StringIO()
    csv.writer(told).writerows([["instruction", "output"], *([text, text] for text in usable)])
    (tmp_path / "a.csv").write_bytes(told.getvalue().encode())
    source = DataSource(SourceFile("naughty", "a.csv", tmp_path / "a.csv"), "auto", "format", "n")
    found = list(clean_rows(source, CleaningRules(200_000)))
    assert len(found) == len(usable)
    for text, row in zip(usable, found, strict=True):
        if isinstance(row, CleanRow):
            assert json.loads(row.row.messages)[1]["content"] == text
