import json

import pytest

from ct_llm.prepare.validate import BadRow, Message, check_messages


def chat(*roles: str, content: str = "fine") -> list[Message]:
    return [{"role": role, "content": content} for role in roles]


@pytest.mark.parametrize(
    "messages",
    [
        chat("user", "assistant"),
        chat("system", "user", "assistant", "user", "assistant"),
        chat("user", "assistant", content="x <= y | z, a[INSTANCE], List<string>, f <| g |> h"),
        chat("user", "assistant", content="naïve 日本語 👩‍👩‍👧 \u200b"),
        chat("user", "assistant", content="x" * 500),
    ],
)
def test_fit_conversations_pass(messages):
    check_messages(messages, max_chars=1000)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "empty"),
        (chat("user", "assistant", content=" \n\t"), "empty"),
        (chat("user", "assistant", content="\u3000"), "empty"),
        (chat("system"), "role_order"),
        (chat("user"), "role_order"),
        (chat("assistant", "user"), "role_order"),
        (chat("user", "user", "assistant"), "role_order"),
        (chat("user", "system", "assistant"), "role_order"),
        (chat("system", "system", "user", "assistant"), "role_order"),
        (chat("user", "assistant", "user"), "role_order"),
        (chat("user", "assistant", content="a\0b"), "invalid_unicode"),
        (chat("user", "assistant", content=json.loads('"\\ud83d"')), "invalid_unicode"),
        (chat("user", "assistant", content="x" * 501), "too_long"),
    ],
)
def test_unfit_conversations_say_why(messages, reason):
    with pytest.raises(BadRow) as bad:
        check_messages(messages, max_chars=1000)
    assert bad.value.reason == reason


@pytest.mark.parametrize(
    "token",
    [
        "<|im_start|>",
        "<|user|>",
        "<|eot_id|>",
        "<｜end▁of▁sentence｜>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<s>",
        "</s>",
        "<start_of_turn>",
        "[TOOL_CALLS]",
    ],
)
def test_tokens_of_chat_templates_are_found_inside_text(token):
    with pytest.raises(BadRow) as bad:
        check_messages(chat("user", "assistant", content=f"so {token}so"), max_chars=1000)
    assert bad.value.reason == "template_token"
