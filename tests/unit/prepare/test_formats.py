import pytest

from ct_llm.prepare.formats import detect_format, to_messages
from ct_llm.prepare.validate import BadRow

ASKED = {"role": "user", "content": "Sort [3, 1]."}
ANSWERED = {"role": "assistant", "content": "[1, 3]"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row_format", "row", "messages"),
    [
        ("messages", {"messages": [{**ASKED, "weight": 1}, ANSWERED]}, [ASKED, ANSWERED]),
        (
            "messages",
            {"messages": [ASKED, {**ANSWERED, "tool_calls": None}]},
            [ASKED, ANSWERED],
        ),
        (
            "prompt_completion",
            {"prompt": "Sort [3, 1].", "completion": "[1, 3]"},
            [ASKED, ANSWERED],
        ),
        (
            "prompt_completion",
            {"prompt": [SYSTEM, ASKED], "completion": [ANSWERED]},
            [SYSTEM, ASKED, ANSWERED],
        ),
        ("alpaca", {"instruction": "Sort [3, 1].", "output": "[1, 3]"}, [ASKED, ANSWERED]),
        (
            "alpaca",
            {"instruction": "Sort.", "input": "[3, 1]", "output": "[1, 3]", "system": "Be brief."},
            [SYSTEM, {"role": "user", "content": "Sort.\n\n[3, 1]"}, ANSWERED],
        ),
        (
            "alpaca",
            {"instruction": "Sort [3, 1].", "input": None, "output": "[1, 3]"},
            [ASKED, ANSWERED],
        ),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "system", "value": "Be brief."},
                    {"from": "human", "value": "Sort [3, 1]."},
                    {"from": "gpt", "value": "[1, 3]"},
                ]
            },
            [SYSTEM, ASKED, ANSWERED],
        ),
    ],
)
def test_every_format_becomes_messages(row_format, row, messages):
    assert detect_format(row.keys()) == row_format
    assert to_messages(row, row_format) == messages


@pytest.mark.parametrize(
    ("row_format", "row", "reason"),
    [
        ("messages", {}, "missing_field"),
        ("messages", {"messages": None}, "missing_field"),
        ("messages", {"messages": "hello"}, "not_text"),
        ("messages", {"messages": ["hello"]}, "not_text"),
        ("messages", {"messages": [{"role": "user"}]}, "missing_field"),
        ("messages", {"messages": [{"role": ["user"], "content": "hi"}]}, "not_text"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
            "not_text",
        ),
        ("messages", {"messages": [{"role": "critic", "content": "hi"}]}, "unknown_role"),
        ("messages", {"messages": [{"role": "tool", "content": "42"}]}, "unsupported_role"),
        (
            "messages",
            {"messages": [ASKED, {**ANSWERED, "tool_calls": [{"id": "1"}]}]},
            "tool_calls",
        ),
        ("prompt_completion", {"prompt": "hi", "completion": 3}, "not_text"),
        ("alpaca", {"instruction": "Sort."}, "missing_field"),
        ("alpaca", {"instruction": "Sort.", "input": ["3"], "output": "3"}, "not_text"),
        (
            "sharegpt",
            {"conversations": [{"from": "function_call", "value": "{}"}]},
            "unsupported_role",
        ),
        ("sharegpt", {"conversations": [{"role": "user", "content": "hi"}]}, "missing_field"),
    ],
)
def test_a_row_that_is_not_in_its_format_says_why(row_format, row, reason):
    with pytest.raises(BadRow) as bad:
        to_messages(row, row_format)
    assert bad.value.reason == reason


def test_columns_of_no_known_format_are_not_guessed():
    assert detect_format(["instruction", "input", "response"]) is None
