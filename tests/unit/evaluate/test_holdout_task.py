import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ct_llm.errors import DataError, InputError
from ct_llm.evaluate.tasks.holdout_task import cut_to_context, read_holdout, split_response

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello "}]


def _write(path: Path, row_ids: list[str], messages: str | None = None) -> Path:
    texts = [messages or json.dumps([*MESSAGES, {"row": row_id}]) for row_id in row_ids]
    table = {"row_id": row_ids, "messages": texts, "source": ["s"] * len(row_ids)}
    pq.write_table(pa.table(table), path)
    return path


def _render(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    text = "".join(f"<{m['role']}>{m['content']}<end>\n" for m in messages)
    return text + ("<assistant>" if add_generation_prompt else "")


def test_the_choice_depends_on_the_rows_not_on_their_order(tmp_path: Path) -> None:
    row_ids = [f"row{n}" for n in range(50)]
    some = read_holdout(_write(tmp_path / "a.parquet", row_ids), 10)
    again = read_holdout(_write(tmp_path / "b.parquet", row_ids[::-1]), 10)
    assert some == again
    assert len({row.row_id for row in some}) == 10
    assert [row.messages[-1]["row"] for row in some] == [row.row_id for row in some]
    more = read_holdout(tmp_path / "a.parquet", 20)
    assert more[:10] == some


def test_no_rows_are_no_error(tmp_path: Path) -> None:
    table = pa.table({"row_id": pa.array([], pa.string()), "messages": pa.array([], pa.string())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert read_holdout(tmp_path / "a.parquet", 10) == []


def test_tools_come_with_their_rows(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    table = {
        "row_id": ["a", "b", "c"],
        "messages": [json.dumps(MESSAGES)] * 3,
        "tools": [json.dumps(tools), None, "[]"],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    rows = {row.row_id: row.tools for row in read_holdout(tmp_path / "a.parquet", 3)}
    assert rows == {"a": tools, "b": None, "c": None}


@pytest.mark.parametrize("tools", ["[{", '{"a": 1}', "[1]"])
def test_bad_tools_name_their_row(tmp_path: Path, tools: str) -> None:
    table = {"row_id": ["row1"], "messages": [json.dumps(MESSAGES)], "tools": [tools]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row row1: tools is not"):
        read_holdout(tmp_path / "a.parquet", 1)


@pytest.mark.parametrize(
    ("messages", "complaint"), [("[{", "not JSON"), ('{"a": 1}', "not a list of messages")]
)
def test_bad_messages_name_their_row(tmp_path: Path, messages: str, complaint: str) -> None:
    path = _write(tmp_path / "a.parquet", ["row1"], messages)
    with pytest.raises(DataError, match=f"row row1: messages is {complaint}"):
        read_holdout(path, 1)


def test_a_file_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_holdout(tmp_path / "absent.parquet", 1)


def test_the_response_ends_with_the_end_of_turn_marker() -> None:
    prompt, response = split_response(MESSAGES, _render, "row1")
    assert prompt == "<user>Hi<end>\n<assistant>"
    assert response == "Hello <end>"


def test_a_template_that_changes_the_prompt_is_refused() -> None:
    def render(messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        return f"{len(messages)} messages: {_render(messages, add_generation_prompt)}"

    with pytest.raises(InputError, match=r"row1: .* renders the prompt differently"):
        split_response(MESSAGES, render, "row1")


@pytest.mark.parametrize("messages", [MESSAGES[:1], MESSAGES[1:], MESSAGES[::-1]])
def test_the_last_of_several_messages_is_the_assistants(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="last message is not the assistant's"):
        split_response(messages, _render, "row1")


def test_a_response_longer_than_the_context_keeps_its_beginning() -> None:
    def num_tokens(text: str) -> int:
        return len(text) // 3 + 5

    text = "x" * 10_000
    cut = cut_to_context(text, num_tokens, 511)
    assert 500 <= num_tokens(cut) <= 511
    assert cut_to_context("short", num_tokens, 511) == "short"
