"""What every format becomes, and why a row may not become it."""

from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

Reason = Literal[
    "unparsable",
    "not_an_object",
    "missing_field",
    "not_text",
    "unknown_role",
    "role_order",
    "tool_calls",
    "bad_tool_call",
    "no_answer",
    "dispreferred",
    "too_short",
    "empty",
    "invalid_unicode",
    "control_character",
    "too_long",
    "template_token",
    "secret",
]
"""Why a row is quarantined.

unparsable: no JSON, no UTF-8, nested too deep. not_an_object: JSON, but no row. missing_field,
not_text: what the format needs is not there, or is no text (images, numbers). unknown_role: neither
a user's nor an assistant's nor a tool's. role_order: not in turn, or the assistant not last.
tool_calls: holds tool calls, which the config or the chat template does not take. bad_tool_call: a
call or a tool that cannot be read. no_answer: a tree without an assistant's reply. dispreferred: an
answer that raters marked as bad. too_short: no place to cut a text into a prompt and the rest. empty,
invalid_unicode (lone surrogates), control_character, too_long, template_token, secret: of the text.
"""


class Message(TypedDict):
    """Keys in this order. OpenAI's form, but `arguments` is an object and content always a text."""

    role: str
    """system, user, assistant or tool."""
    content: str
    """"" where an assistant only calls tools or a tool returned nothing."""
    reasoning_content: NotRequired[str]
    """What the assistant thought first; templates that know it render it."""
    tool_calls: NotRequired[list[dict[str, Any]]]
    """[{"id": ..., "type": "function", "function": {"name": ..., "arguments": {...}}}]. The id is made
    up, the same every time: some templates demand one of nine characters."""
    name: NotRequired[str]
    """Of the tool that answers."""
    tool_call_id: NotRequired[str]


class Conversation(NamedTuple):
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    """[{"type": "function", "function": {"name": ..., "parameters": {...}}}]"""


class BadRow(Exception):
    """A row that is quarantined, and why. Never leaves this step."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason
