"""Is a conversation fit to train on? Roles in order, real text, nothing hidden in it, not too long."""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from ct_llm.prepare.clean.conversation import BadRow, Conversation, Message
from ct_llm.prepare.clean.credentials import has_credential
from ct_llm.prepare.clean.template_tokens import (
    has_template_token,
    may_begin_token,
    neutralise,
    neutralise_all,
)


class CleaningRules(NamedTuple):
    """What the config says of rows, wherever they come from."""

    max_chars: int
    template_tokens: Literal["quarantine", "neutralise"] = "quarantine"
    secrets: Literal["ignore", "quarantine"] = "ignore"
    keep_tool_calls: bool = True
    """False: rows with tool calls are bad, and lists of tools are left out."""
    special_tokens: tuple[str, ...] = ()
    """Of the base model's tokenizer: template tokens too, beside those of well-known models."""


_ORDER = re.compile(r"s?(?:u(?:ct+)*a)*u(?:ct+)*[ac]")
"""system, user, assistant, assistant that calls tools, tool: by their letters."""

_MAX_DEPTH = 100
"""Of a tool or an argument. Chat templates and JSON readers recurse; what they can do must not hang on
how deep in the program they are."""

_CONTROL_BYTES = bytes(
    code for code in [*range(0x20), 0x7F] if chr(code) not in "\t\n\r"
)  # C0 and DEL
_C1 = re.compile("[\x80-\x9f]")


def check_conversation(conversation: Conversation, rules: CleaningRules) -> Conversation:
    """The conversation, its template tokens neutralised where the rules say so.

    Fit: an optional system message, then user and assistant in turn, the assistant last; between them
    any number of times an assistant that calls tools and the tools' answers (the last one may be a
    call). Every text valid Unicode without control characters but tab and line ends, without template
    tokens, and not blank where something must be said; at most `max_chars` characters together, tools
    and arguments included.

    Raises BadRow: empty, role_order, tool_calls, invalid_unicode, control_character, template_token,
    secret, too_long, bad_tool_call.
    """
    messages, tools = conversation
    if not messages:
        raise BadRow("empty")
    _check_order(messages, rules)
    num_chars = 0
    for message in messages:
        content = message["content"]
        num_chars += len(content)
        if not content or content.isspace():
            _check_may_be_silent(message)
        if len(message) > 2:
            num_chars += _check_extras(message, rules)
    # One look at all texts together: most rows need no more.
    if _may_hide_something("".join([message["content"] for message in messages]), rules):
        for message in messages:
            message["content"] = _checked(message["content"], rules)
    if tools is not None:
        tools = _checked_json(tools, rules) if rules.keep_tool_calls else None
        num_chars += len(json.dumps(tools, ensure_ascii=False)) if tools else 0
    if num_chars > rules.max_chars:
        raise BadRow("too_long")
    return conversation if tools is conversation.tools else Conversation(messages, tools)


def _check_order(messages: list[Message], rules: CleaningRules) -> None:
    letters = "".join(["c" if "tool_calls" in m else m["role"][0] for m in messages])
    if not rules.keep_tool_calls and ("c" in letters or "t" in letters):
        raise BadRow("tool_calls")
    if letters != "ua" and not _ORDER.fullmatch(letters):
        raise BadRow("role_order")


def _check_may_be_silent(message: Message) -> None:
    if "tool_calls" not in message and message["role"] != "tool":
        raise BadRow("empty")


def _check_extras(message: Message, rules: CleaningRules) -> int:
    """What a message has beside role and content; gives its characters."""
    num_chars = 0
    if (reasoning := message.get("reasoning_content")) is not None:
        message["reasoning_content"] = _checked(reasoning, rules)
        num_chars += len(reasoning)
    if (name := message.get("name")) is not None:
        message["name"] = _checked(name, rules)
        num_chars += len(name)
    if (calls := message.get("tool_calls")) is not None:
        message["tool_calls"] = _checked_json(calls, rules)
        num_chars += len(json.dumps(calls, ensure_ascii=False))
    return num_chars


def _checked_json(value: list[dict[str, Any]], rules: CleaningRules) -> list[dict[str, Any]]:
    found = [text for text in _texts(value) if _checked(text, rules) != text]
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):  # a date or infinity out of Parquet, 1e999 out of JSON
        raise BadRow("bad_tool_call") from None
    return neutralise_all(value, rules.special_tokens) if found else value


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    """All keys and texts within a JSON value."""
    if depth > _MAX_DEPTH:
        raise BadRow("bad_tool_call")
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, depth + 1)


def _may_hide_something(text: str, rules: CleaningRules) -> bool:
    return (
        not text.isascii()
        or may_begin_token(text, rules.special_tokens)
        or rules.secrets == "quarantine"
        # Deleting from bytes is several times faster than a regex.
        or len(text.encode().translate(None, _CONTROL_BYTES)) != len(text)
    )


def _checked(text: str, rules: CleaningRules) -> str:
    """The text, or the text neutralised."""
    try:
        data = text.encode()
    except UnicodeEncodeError:  # lone surrogates, which JSON can escape but UTF-8 cannot hold
        raise BadRow("invalid_unicode") from None
    if len(data.translate(None, _CONTROL_BYTES)) != len(data):
        raise BadRow("control_character")
    if b"\xc2" in data and _C1.search(text):  # 0xC2 begins C1 controls in UTF-8
        raise BadRow("control_character")
    if rules.secrets == "quarantine" and has_credential(text):
        raise BadRow("secret")
    # A regex search over every text costs more than all other checks together; most have no bracket.
    special = rules.special_tokens
    if may_begin_token(text, special) and has_template_token(text, special):
        if rules.template_tokens == "quarantine":
            raise BadRow("template_token")
        return neutralise(text, special)
    return text
