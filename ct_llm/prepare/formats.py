"""The four shapes that instruction data comes in, found by the columns; all become messages."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from ct_llm.prepare.validate import BadRow, Message

Format = Literal["messages", "prompt_completion", "alpaca", "sharegpt"]

COLUMNS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "sharegpt": ("conversations",),
}
"""The columns that a row of each format must have; the first format that fits is taken."""

_ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
_SHAREGPT_ROLES = {**_ROLES, "human": "user", "gpt": "assistant"}
_UNSUPPORTED_ROLES = {
    "developer",
    "function",
    "function_call",
    "function_response",
    "observation",
    "tool",
    "tool_call",
    "tool_response",
}


def detect_format(columns: Collection[str]) -> Format | None:
    """The format whose columns are all there; none when no format fits."""
    return next((name for name, needed in COLUMNS.items() if {*needed} <= {*columns}), None)


def describe_formats() -> str:
    return ", ".join(f"{name} ({' + '.join(needed)})" for name, needed in COLUMNS.items())


def to_messages(row: Mapping[str, Any], row_format: Format) -> list[Message]:
    """The row as role and content; roles and types are checked, order and text are not yet.

    Raises BadRow: missing_field, not_text, unknown_role, unsupported_role, tool_calls.
    """
    match row_format:
        case "messages":
            return _conversation(_field(row, "messages"))
        case "prompt_completion":
            return [
                *_text_or_conversation(_field(row, "prompt"), "user"),
                *_text_or_conversation(_field(row, "completion"), "assistant"),
            ]
        case "alpaca":
            return _alpaca(row)
        case "sharegpt":
            turns = _conversation(_field(row, "conversations"), "from", "value", _SHAREGPT_ROLES)
            return [*_system(row), *turns]


def _alpaca(row: Mapping[str, Any]) -> list[Message]:
    instruction = _text(_field(row, "instruction"))
    extra = _text(row.get("input") or "")
    return [
        *_system(row),
        {"role": "user", "content": f"{instruction}\n\n{extra}" if extra.strip() else instruction},
        {"role": "assistant", "content": _text(_field(row, "output"))},
    ]


def _system(row: Mapping[str, Any]) -> list[Message]:
    """Alpaca and ShareGPT files keep the system prompt in a column of its own, often empty."""
    system = _text(row.get("system") or "")
    return [{"role": "system", "content": system}] if system.strip() else []


def _text_or_conversation(value: Any, role: str) -> list[Message]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return _conversation(value)


def _conversation(
    turns: Any,
    role_key: str = "role",
    text_key: str = "content",
    roles: Mapping[str, str] = _ROLES,
) -> list[Message]:
    if not isinstance(turns, list):
        raise BadRow("not_text")
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise BadRow("not_text")
        name = _text(_field(turn, role_key))
        role = roles.get(name)
        if role is None:
            raise BadRow("unsupported_role" if name in _UNSUPPORTED_ROLES else "unknown_role")
        # Training on the text beside a call would teach the model to leave the call out.
        if turn.get("tool_calls") or turn.get("function_call"):
            raise BadRow("tool_calls")
        messages.append({"role": role, "content": _text(_field(turn, text_key))})
    return messages


def _field(row: Mapping[str, Any], name: str) -> Any:
    value = row.get(name)
    if value is None:
        raise BadRow("missing_field")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadRow("not_text")
    return value
