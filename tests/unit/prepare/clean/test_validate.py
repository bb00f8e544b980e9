import json
from typing import Any

import pytest

from ct_llm.prepare.clean.conversation import BadRow, Conversation, Message
from ct_llm.prepare.clean.validate import CleaningRules, check_conversation

RULES = CleaningRules(max_chars=1_000)
NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool", "c": "assistant"}


def call(arguments: dict[str, Any] | None = None, name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments or {}}}


def chat(letters: str, content: str = "fine") -> list[Message]:
    """s(ystem), u(ser), a(ssistant), c: an assistant that calls a tool, t(ool)."""
    messages: list[Message] = []
    for letter in letters:
        message: Message = {"role": NAMES[letter], "content": "" if letter in "ct" else content}
        if letter == "c":
            message["tool_calls"] = [call()]
        messages.append(message)
    return messages


def why(messages: list[Message], rules: CleaningRules = RULES, tools: Any = None) -> str | None:
    try:
        check_conversation(Conversation(messages, tools), rules)
    except BadRow as bad:
        return bad.reason
    return None


@pytest.mark.parametrize(
    "messages",
    [
        chat("ua"),
        chat("suaua"),
        chat("ucta"),
        chat("suactta"[:2] + "ctta"),
        chat("uauctctaua"),
        chat("uc"),
        chat("uauctc"),
        chat("ua", content="x <= y | z, a[INSTANCE], List<string>, f <| g |> h"),
        chat("ua", content="naïve 日本語 👩‍👩‍👧 \u200b\u202e\ufeff tab\tline\r\n"),
        chat("ua", content="x" * 500),
    ],
)
def test_fit_conversations_pass(messages):
    assert check_conversation(Conversation(messages), RULES).messages == messages
    assert why(messages) is None


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty"),
        (chat("ua", content=" \n\t"), "empty"),
        (chat("ua", content="\u3000"), "empty"),
        *((chat(letters), "role_order") for letters in ("s", "u", "a", "au", "uua", "usa", "ssua")),
        *((chat(letters), "role_order") for letters in ("uau", "uta", "uca", "uct", "ucua", "tua")),
        (chat("ua", content="a\0b"), "control_character"),
        (chat("ua", content="a\x1b[31mb"), "control_character"),
        (chat("ua", content="a\x7f"), "control_character"),
        (chat("ua", content="don\x92t"), "control_character"),
        (chat("ua", content="\x0c"), "empty"),
        (chat("ua", content=json.loads('"\\ud83d"')), "invalid_unicode"),
        (chat("ua", content="x" * 501), "too_long"),
    ],
)
def test_unfit_conversations_say_why(messages, reason):
    assert why(messages) == reason


def _everywhere(text: str) -> list[tuple[str, list[Message], Any]]:
    """The text in every place of a conversation that becomes part of what is trained on."""
    thought = chat("ua")
    thought[1]["reasoning_content"] = text
    called, keyed, named, answered = (chat("ucta") for _ in range(4))
    called[1]["tool_calls"] = [call({"a": [{"b": text}]})]
    keyed[1]["tool_calls"] = [call({text: 1})]
    named[1]["tool_calls"] = [call(name=text)]
    answered[2]["content"] = text
    answered_by = chat("ucta")
    answered_by[2]["name"] = text
    tools = [{"type": "function", "function": {"name": "f", "description": text}}]
    return [
        ("user", chat("ua", content=text), None),
        ("reasoning", thought, None),
        ("argument", called, None),
        ("key", keyed, None),
        ("name", named, None),
        ("answer", answered, None),
        ("answering tool", answered_by, None),
        ("tools", chat("ua"), tools),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("so <|im_start|>system", "template_token"),
        ("a\0b", "control_character"),
        (json.loads('"\\udc00"'), "invalid_unicode"),
        ("hf_" + "abCDeFghIJklMnopQRstUVwxYZabcdEFgh", "secret"),
        ("y" * 1_001, "too_long"),
    ],
)
@pytest.mark.parametrize("place", range(8))
def test_every_text_is_looked_at(text, reason, place):
    where, messages, tools = _everywhere(text)[place]
    assert why(messages, RULES._replace(secrets="quarantine"), tools) == reason, where


@pytest.mark.parametrize("place", range(8))
def test_template_tokens_are_broken_everywhere(place):
    rules = RULES._replace(template_tokens="neutralise")
    _, messages, tools = _everywhere("so <|im_start|>system")[place]
    once = check_conversation(Conversation(messages, tools), rules)
    told = json.dumps(once, ensure_ascii=False)
    assert "<|im_start|>" not in told
    assert "<\u200b|im_start|>" in told
    assert why(once.messages, RULES, once.tools) is None


def test_secrets_are_looked_for_on_request():
    messages = chat("ua", content="AKIA" + "Q7ZK2M4XWB5N3RTY")
    assert why(messages) is None
    assert why(messages, RULES._replace(secrets="quarantine")) == "secret"


@pytest.mark.parametrize("letters", ["uc", "ucta", "uctaua"])
def test_calls_that_cannot_be_rendered_are_bad_rows(letters):
    assert why(chat(letters), RULES._replace(keep_tool_calls=False)) == "tool_calls"


def test_a_list_of_tools_that_cannot_be_rendered_is_left_out():
    tools = [{"type": "function", "function": {"name": "f"}}]
    kept = check_conversation(Conversation(chat("ua"), tools), RULES)
    assert kept.tools == tools
    left = check_conversation(
        Conversation(chat("ua"), tools), RULES._replace(keep_tool_calls=False)
    )
    assert left.tools is None


@pytest.mark.parametrize("value", [float("inf"), float("nan"), b"bytes", {1, 2}])
def test_arguments_that_json_cannot_hold_are_bad_rows(value):
    messages = chat("uc")
    messages[1]["tool_calls"] = [call({"a": value})]
    assert why(messages) == "bad_tool_call"
