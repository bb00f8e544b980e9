import json
from typing import Any

import pytest

from ct_llm.prepare.clean.conversation import BadRow
from tests.unit.prepare.clean.one_row import to_conversation

ARGUMENTS = {"city": "Oslo", "days": [1, 2]}
FUNCTION = {"name": "weather", "arguments": ARGUMENTS}
AS_TEXT = {**FUNCTION, "arguments": json.dumps(ARGUMENTS)}
SCHEMA = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}}}}
ASKED = {"role": "user", "content": "Weather in Oslo?"}
SAID = {"role": "assistant", "content": "Snow."}
CALL = {"id": "call00000", "type": "function", "function": FUNCTION}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RETURNED = {
    "role": "tool",
    "content": '{"sky": "snow"}',
    "name": "weather",
    "tool_call_id": "call00000",
}


def openai(call: Any, content: Any = None) -> dict[str, Any]:
    return {
        "messages": [
            ASKED,
            {"role": "assistant", "content": content, **call},
            {"role": "tool", "content": '{"sky": "snow"}', "tool_call_id": "toolu_7"},
            SAID,
        ]
    }


def parts(*parts: Any) -> dict[str, Any]:
    return openai({"content": list(parts)})


@pytest.mark.parametrize(
    ("row_format", "row"),
    [
        ("messages", openai({"tool_calls": [{**CALL, "id": "toolu_7"}]})),
        ("messages", openai({"tool_calls": [{"function": AS_TEXT}]})),
        ("messages", openai({"tool_calls": json.dumps([FUNCTION])}, content="")),
        ("messages", openai({"tool_calls": [{"name": "weather", "parameters": ARGUMENTS}]})),
        ("messages", openai({"function_call": AS_TEXT})),
        ("messages", parts({"type": "tool_call", "value": json.dumps(FUNCTION)})),
        ("messages", parts({"type": "tool_calls", "tool_calls": [FUNCTION]})),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": "Weather in Oslo?"},
                    {"from": "function_call", "value": json.dumps(FUNCTION)},
                    {"from": "observation", "value": '{"sky": "snow"}'},
                    {"from": "gpt", "value": "Snow."},
                ]
            },
        ),
        (
            "prompt_completion",
            {
                "prompt": [ASKED],
                "completion": [
                    {"role": "assistant", "tool_calls": [FUNCTION]},
                    {"role": "tool", "content": {"sky": "snow"}},
                    SAID,
                ],
            },
        ),
    ],
)
def test_calls_in_every_writing_are_the_same_messages(row_format, row):
    row = {**row, "tools": json.dumps([SCHEMA])}
    assert to_conversation(json.loads(json.dumps(row)), row_format) == (
        [ASKED, CALLED, RETURNED, SAID],
        [{"type": "function", "function": SCHEMA}],
    )


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        (None, None),
        ("", None),
        ([], None),
        ("[]", None),
        ([SCHEMA], [SCHEMA]),
        ([{"type": "function", "function": SCHEMA}], [SCHEMA]),
        ([{"type": "function", **SCHEMA}], [SCHEMA]),
        (SCHEMA, [SCHEMA]),
        ([json.dumps(SCHEMA), SCHEMA], [SCHEMA, SCHEMA]),
        ([{**SCHEMA, "parameters": json.dumps(SCHEMA["parameters"])}], [SCHEMA]),
    ],
)
def test_tools_in_every_writing_are_the_same_tools(tools, expected):
    found = to_conversation({"messages": [ASKED, SAID], "tools": tools}, "messages").tools
    assert found == (expected and [{"type": "function", "function": tool} for tool in expected])


def test_tools_listed_inside_a_turn_are_tools():
    system = {"role": "system", "content": [{"type": "tools", "value": json.dumps([SCHEMA])}]}
    messages, tools = to_conversation({"messages": [system, ASKED, SAID]}, "messages")
    assert tools == [{"type": "function", "function": SCHEMA}]
    assert messages == [ASKED, SAID]


def test_answers_find_their_calls_by_id_or_in_order():
    def call(name: str, call_id: str | None) -> dict[str, Any]:
        return {"id": call_id, "function": {"name": name, "arguments": {}}}

    def returned(**more: Any) -> dict[str, Any]:
        return {"role": "tool", "content": "", **more}

    messages, _ = to_conversation(
        {
            "messages": [
                ASKED,
                {"role": "assistant", "tool_calls": [call("a", "x"), call("b", "y")]},
                returned(tool_call_id="y"),
                returned(tool_call_id="x", name="alpha"),
                returned(),
                {"role": "assistant", "content": None, "tool_calls": [call("c", None)]},
                returned(),
                SAID,
            ]
        },
        "messages",
    )
    answers = [(m.get("tool_call_id"), m.get("name")) for m in messages if m["role"] == "tool"]
    assert answers == [
        ("call00001", "b"),
        ("call00000", "alpha"),
        (None, None),
        ("call00002", "c"),
    ]


def test_calls_follow_what_is_said_before_them_in_one_message():
    turns = [
        {"from": "human", "value": "Weather in Oslo?"},
        {"from": "gpt", "value": "Let me look."},
        {"from": "function_call", "value": json.dumps(FUNCTION)},
        {"from": "function_call", "value": json.dumps({"name": "time"})},
    ]
    messages, _ = to_conversation({"conversations": turns}, "sharegpt")
    assert len(messages) == 2
    assert messages[1]["content"] == "Let me look."
    assert [call["function"] for call in messages[1].get("tool_calls", [])] == [
        FUNCTION,
        {"name": "time", "arguments": {}},
    ]


@pytest.mark.parametrize(
    "call",
    [
        "weather(Oslo)",
        "{'name': 'weather'}",
        "3",
        "[]",
        '{"arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"name": 3}',
        '{"name": "weather", "arguments": "Oslo"}',
        '{"name": "weather", "arguments": [1]}',
        '{"name": "weather", "arguments": {"a": NaN}}',
        "[" * 100_000,
    ],
)
def test_calls_that_cannot_be_read_are_bad_rows(call):
    for row in (
        {"conversations": [{"from": "human", "value": "?"}, {"from": "function_call", "value": call}]},
        {"conversations": [ASKED, {"role": "assistant", "content": "", "tool_calls": call}]},
        {"conversations": [ASKED, {"role": "assistant", "content": [{"type": "tool_call", "value": call}]}]},
    ):  # fmt: skip
        with pytest.raises(BadRow) as bad:
            to_conversation(row, "sharegpt")
        assert bad.value.reason == "bad_tool_call"


@pytest.mark.parametrize("tools", ["hammer", "[3]", [3], '["hammer"]', [{"function": {}}], 3])
def test_tools_that_cannot_be_read_are_bad_rows(tools):
    with pytest.raises(BadRow) as bad:
        to_conversation({"messages": [ASKED, SAID], "tools": tools}, "messages")
    assert bad.value.reason == "bad_tool_call"


def test_only_assistants_call_tools():
    with pytest.raises(BadRow) as bad:
        to_conversation({"messages": [{**ASKED, "tool_calls": [FUNCTION]}, SAID]}, "messages")
    assert bad.value.reason == "bad_tool_call"
