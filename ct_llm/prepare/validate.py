"""Is a row fit to train on? Roles in order, real text, no control tokens, not too long."""

import re
from collections.abc import Sequence
from typing import Literal, TypedDict

Reason = Literal[
    "unparsable",
    "not_an_object",
    "missing_field",
    "not_text",
    "unknown_role",
    "unsupported_role",
    "tool_calls",
    "role_order",
    "empty",
    "invalid_unicode",
    "too_long",
    "template_token",
]

# Text that a tokenizer would read as the edge of a turn: <|im_start|>, DeepSeek's full-width bars,
# Llama 2's and Mistral's brackets, Gemma's turns, sentencepiece's <s>. No blank inside, so that
# F#'s `f <| g |> h` stays code.
_TEMPLATE_TOKEN = re.compile(
    r"<[|｜][^\s<>]{1,64}[|｜]>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]"
    r"|<</?SYS>>|</?s>|<(?:bos|eos|start_of_turn|end_of_turn)>"
)


class Message(TypedDict):
    role: str
    content: str


class BadRow(Exception):
    """A row that is quarantined, and why. Never leaves this step."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


def check_messages(messages: Sequence[Message], max_chars: int) -> None:
    """Raises BadRow when the conversation is not fit to train on.

    Fit: an optional system message, then user and assistant in turn, the assistant last; every
    content valid Unicode without NUL, not blank, without template tokens; at most `max_chars`
    characters together.
    """
    if not messages:
        raise BadRow("empty")
    first = 1 if messages[0]["role"] == "system" else 0
    roles = [message["role"] for message in messages[first:]]
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise BadRow("role_order")
    num_chars = 0
    for message in messages:
        _check_text(message["content"])
        num_chars += len(message["content"])
    if num_chars > max_chars:
        raise BadRow("too_long")


def _check_text(text: str) -> None:
    if not text or text.isspace():
        raise BadRow("empty")
    if "\0" in text or not _encodable(text):
        raise BadRow("invalid_unicode")
    # A regex search over every text costs more than all other checks together; most have no bracket.
    if ("<" in text or "[" in text) and _TEMPLATE_TOKEN.search(text):
        raise BadRow("template_token")


def _encodable(text: str) -> bool:
    """False for lone surrogates, which JSON can escape but UTF-8 cannot hold."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
