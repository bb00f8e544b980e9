import json

import pytest

from ct_llm.prepare.clean.conversation import BadRow
from ct_llm.prepare.clean.formats import describe_formats, detect_format, reader
from tests.unit.prepare.clean.one_row import to_conversation

ASKED = {"role": "user", "content": "Sort [3, 1]."}
ANSWERED = {"role": "assistant", "content": "[1, 3]"}
SYSTEM = {"role": "system", "content": "Be brief."}
AGAIN = [{"role": "user", "content": "Sort [9, 8]."}, {"role": "assistant", "content": "[8, 9]"}]


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
            "messages",
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Sort "}, "[3, 1]."]},
                    {"role": "assistant", "content": [{"type": "text", "value": "[1, 3]"}]},
                ]
            },
            [ASKED, ANSWERED],
        ),
        (
            "messages",
            {"messages": [{"role": "developer", "content": "Be brief."}, ASKED, ANSWERED]},
            [SYSTEM, ASKED, ANSWERED],
        ),
        ("messages", {"messages": json.dumps([ASKED, ANSWERED])}, [ASKED, ANSWERED]),
        ("messages", {"messages": [ASKED, ANSWERED], "label": True}, [ASKED, ANSWERED]),
        (
            "messages",
            {
                "messages": [
                    ASKED,
                    {
                        "role": "assistant",
                        "content": [
                            {"type": "reasoning", "value": "Two numbers."},
                            {"type": "text", "value": "[1, 3]"},
                        ],
                    },
                ]
            },
            [ASKED, {**ANSWERED, "reasoning_content": "Two numbers."}],
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
        (
            "prompt_completion",
            {"prompt": "Give JSON.", "response": '[{"a": 1}]', "system": "Be brief."},
            [
                SYSTEM,
                {"role": "user", "content": "Give JSON."},
                {"role": "assistant", "content": '[{"a": 1}]'},
            ],
        ),
        ("alpaca", {"instruction": "Sort [3, 1].", "output": "[1, 3]"}, [ASKED, ANSWERED]),
        (
            "alpaca",
            {"instruction": "Sort.", "input": "[3, 1]", "output": "[1, 3]", "system": "Be brief."},
            [SYSTEM, {"role": "user", "content": "Sort.\n\n[3, 1]"}, ANSWERED],
        ),
        (
            "alpaca",
            {"instruction": "Sort.", "context": "[3, 1]", "response": "[1, 3]"},
            [{"role": "user", "content": "Sort.\n\n[3, 1]"}, ANSWERED],
        ),
        (
            "alpaca",
            {"instruction": "Sort [3, 1].", "input": None, "completion": "[1, 3]"},
            [ASKED, ANSWERED],
        ),
        (
            "alpaca",
            {
                "instruction": "Sort [9, 8].",
                "output": "[8, 9]",
                "history": [["Sort [3, 1].", "[1, 3]"]],
            },
            [ASKED, ANSWERED, *AGAIN],
        ),
        (
            "alpaca",
            {
                "instruction": "Sort.",
                "instances": [
                    {"input": "[3, 1]", "output": "[1, 3]"},
                    {"input": "", "output": "What?"},
                ],
            },
            [
                {"role": "user", "content": "Sort.\n\n[3, 1]"},
                ANSWERED,
                {"role": "user", "content": "Sort."},
                {"role": "assistant", "content": "What?"},
            ],
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
        (
            "sharegpt",
            {
                "conversation": [ASKED, {"from": "Assistant", "value": "[1, 3]"}],
                "system": "Be brief.",
            },
            [SYSTEM, ASKED, ANSWERED],
        ),
        ("preference", {"prompt": "Sort [3, 1].", "chosen": "[1, 3]", "rejected": "No."}, None),
        ("preference", {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": []}, None),
        ("preference", {"prompt": "Sort [3, 1].", "chosen": [ASKED, ANSWERED]}, None),
        ("preference", {"chosen_messages": [ASKED, ANSWERED], "rejected_messages": []}, None),
        (
            "preference",
            {
                "conversations": [{"from": "human", "value": "Sort [3, 1]."}],
                "chosen": {"from": "gpt", "value": "[1, 3]"},
                "rejected": {"from": "gpt", "value": "No."},
            },
            None,
        ),
        ("preference", {"instruction": "Sort [3, 1].", "input": "", "chosen": "[1, 3]"}, None),
        (
            "preference",
            {
                "chosen": "\n\nHuman: Sort [3, 1].\n\nAssistant: [1, 3]",
                "rejected": "\n\nHuman: ...",
            },
            None,
        ),
        (
            "dialogue",
            {
                "utterances": [
                    {"speaker": "USER", "text": "Sort"},
                    {"speaker": "USER", "text": "[3, 1]."},
                    {"speaker": "SYSTEM", "text": "[1, 3]"},
                    {"speaker": "USER", "text": "Bye!"},
                ]
            },
            [{"role": "user", "content": "Sort\n[3, 1]."}, ANSWERED],
        ),
    ],
)
def test_every_format_becomes_messages(row_format, row, messages):
    assert detect_format(row.keys()) == row_format
    found = to_conversation(json.loads(json.dumps(row)), row_format)
    assert found == (messages or [ASKED, ANSWERED], None)


@pytest.mark.parametrize(
    ("row_format", "row", "reason"),
    [
        ("messages", {}, "missing_field"),
        ("messages", "no row", "not_an_object"),
        ("messages", {"messages": None}, "missing_field"),
        ("messages", {"messages": "hello"}, "not_text"),
        ("messages", {"messages": ["hello"]}, "not_text"),
        ("messages", {"messages": 3}, "not_text"),
        ("messages", {"messages": [{"role": "user"}]}, "missing_field"),
        ("messages", {"messages": [{"content": "hi"}]}, "missing_field"),
        ("messages", {"messages": [{"role": ["user"], "content": "hi"}]}, "not_text"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "not_text",
        ),
        ("messages", {"messages": [{"role": "user", "content": [3]}]}, "not_text"),
        ("messages", {"messages": [{"role": "critic", "content": "hi"}]}, "unknown_role"),
        ("messages", {"messages": [ASKED, ANSWERED], "label": False}, "dispreferred"),
        ("prompt_completion", {"prompt": "a", "completion": "b", "label": False}, "dispreferred"),
        ("sharegpt", {"conversations": [ASKED, ANSWERED], "kto_tag": False}, "dispreferred"),
        ("prompt_completion", {"prompt": "hi", "completion": 3}, "not_text"),
        ("alpaca", {"instruction": "Sort."}, "missing_field"),
        ("alpaca", {"instruction": "Sort.", "input": ["3"], "output": "3"}, "not_text"),
        ("alpaca", {"instruction": "Sort.", "instances": ["3"]}, "not_text"),
        ("alpaca", {"instruction": "Sort.", "output": "3", "history": [["a"]]}, "not_text"),
        ("sharegpt", {"conversations": [{"from": "human", "value": None}]}, "missing_field"),
        ("preference", {"chosen": "Good."}, "missing_field"),
        ("preference", {"prompt": "hi", "rejected": "Bad."}, "missing_field"),
        ("text", {"text": "short"}, "too_short"),
        ("text", " ", "empty"),
        ("text", 3, "not_an_object"),
    ],
)
def test_a_row_that_is_not_in_its_format_says_why(row_format, row, reason):
    with pytest.raises(BadRow) as bad:
        to_conversation(row, row_format)
    assert bad.value.reason == reason


@pytest.mark.parametrize(
    ("columns", "row_format"),
    [
        (["instruction", "input", "answer"], None),
        (["question", "answer"], None),
        ([], None),
        (["id", "prompt", "messages"], "messages"),
        (["messages", "chosen", "rejected"], "preference"),
        (["prompt", "response", "instruction"], "prompt_completion"),
        # A message of a flat export: text without its context.
        (["message_id", "parent_id", "text", "role"], "oasst"),
        (["title", "text"], "text"),
    ],
)
def test_the_more_telling_columns_decide(columns, row_format):
    assert detect_format(columns) == row_format


def test_the_formats_are_told_with_their_columns():
    assert "alpaca (instruction + output|response|completion|instances)" in describe_formats()


@pytest.mark.parametrize(
    ("row_format", "columns", "row"),
    [
        (
            "prompt_completion",
            {"prompt": "q", "completion": "a"},
            {"q": "Sort [3, 1].", "a": "[1, 3]"},
        ),
        (
            "alpaca",
            {"instruction": "task", "output": "gold"},
            {"task": "Sort [3, 1].", "gold": "[1, 3]", "output": "what a model said"},
        ),
        (
            "messages",
            {"messages": "turns", "role": "who", "content": "said"},
            {"turns": [{"who": "user", "said": "Sort [3, 1]."}, {"who": "gpt", "said": "[1, 3]"}]},
        ),
        (
            "sharegpt",
            {"conversations": "turns", "from": "by", "value": "t"},
            {"turns": [{"by": "human", "t": "Sort [3, 1]."}, {"by": "gpt", "t": "[1, 3]"}]},
        ),
        (
            "dialogue",
            {"messages": "talk", "role": "actor", "content": "line"},
            {
                "talk": [
                    {"actor": "customer", "line": "Sort [3, 1]."},
                    {"actor": "agent", "line": "[1, 3]"},
                ]
            },
        ),
        ("preference", {"chosen": "best"}, {"prompt": "Sort [3, 1].", "best": "[1, 3]"}),
    ],
)
def test_columns_of_other_names_are_mapped(row_format, columns, row):
    assert reader(row_format, columns)(row).messages == [ASKED, ANSWERED]
