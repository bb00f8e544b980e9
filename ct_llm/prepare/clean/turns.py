"""Conversations as lists of turns, under whatever names, as messages.

One reader for OpenAI's role and content, ShareGPT's from and value, and what else is in the wild:
files mix them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ct_llm.prepare.clean.conversation import BadRow, Message
from ct_llm.prepare.clean.json_rows import parse
from ct_llm.prepare.clean.tool_calls import read_calls, read_tools

_ROLES: dict[str, Literal["system", "user", "assistant", "tool", "call"]] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "function", "ipython", "observation"), "tool"),
    **dict.fromkeys(("tool_response", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call", "tool_calls"), "call"),
}
SPEAKERS: dict[str, Literal["system", "user", "assistant", "tool", "call"]] = {
    **_ROLES,
    **dict.fromkeys(("customer", "client", "caller", "usr"), "user"),
    **dict.fromkeys(("agent", "operator", "wizard", "system", "sys"), "assistant"),
}
"""In recorded dialogues the system is the one that answers."""

_REASONING = ("reasoning_content", "reasoning", "thinking")


class TurnKeys(NamedTuple):
    """What turns may call who speaks and what is said; the first that is there counts."""

    role: tuple[str, ...] = ("role", "from")
    text: tuple[str, ...] = ("content", "value")
    roles: Mapping[str, str] = _ROLES


class Turns(NamedTuple):
    messages: list[Message]
    tools: list[dict[str, Any]]
    """Tools that were listed inside a turn."""


def read_turns(value: Any, keys: TurnKeys) -> Turns:
    """Messages in the order of the turns, which is not yet checked.

    value: a list of turns, one turn alone, or either as JSON text. Calls of tools join the assistant's
    message before them. Raises BadRow: not_text, missing_field, unknown_role, bad_tool_call.
    """
    found = Turns([], [])
    for turn in _turns(value):
        _read_turn(turn, keys, found)
    return found


def holds_turns(value: str, keys: TurnKeys) -> bool:
    """Is the text a list of turns as JSON, as in a CSV cell, or just a text that looks a little so?"""
    if not value.lstrip().startswith("[{"):
        return False
    try:
        turns = parse(value)
    except (ValueError, RecursionError):
        return False
    return all(
        isinstance(turn, dict) and isinstance(_first(turn, keys.role), str) for turn in turns
    )


def _turns(value: Any) -> Sequence[Any]:
    if isinstance(value, str):  # in a CSV cell, or a column that was dumped
        try:
            value = parse(value)
        except (ValueError, RecursionError):
            raise BadRow("not_text") from None
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise BadRow("not_text")
    return value


def _read_turn(turn: Any, keys: TurnKeys, found: Turns) -> None:
    if not isinstance(turn, dict):
        raise BadRow("not_text")
    name = _first(turn, keys.role)
    if name is None:
        raise BadRow("missing_field")
    if not isinstance(name, str):
        raise BadRow("not_text")
    role = keys.roles.get(name) or keys.roles.get(name.strip().lower())
    if role is None:
        raise BadRow("unknown_role")
    content = _first(turn, keys.text)
    if isinstance(content, str) and len(turn) == 2 and role in ("user", "assistant"):  # most turns
        found.messages.append({"role": role, "content": content})
        return
    if role == "call":
        _add_calls(found.messages, read_calls(content))
        return
    parts = _read_parts(content, found.tools)
    calls = turn.get("tool_calls") or turn.get("function_call")
    parts.calls.extend(read_calls(calls) if calls else [])
    if content is None and not parts.calls:
        raise BadRow("missing_field")
    message: Message = {"role": role, "content": "".join(parts.texts)}
    if role == "system" and not message["content"].strip():  # as good as none, and often there
        return
    if role == "assistant":
        if reasoning := _first(turn, _REASONING) or "".join(parts.reasoning):
            message["reasoning_content"] = text(reasoning)
        if parts.calls:
            message["tool_calls"] = parts.calls
    elif parts.calls:
        raise BadRow("bad_tool_call")
    elif role == "tool":
        if isinstance(turn.get("name"), str) and turn["name"].strip():
            message["name"] = turn["name"]
        if isinstance(turn.get("tool_call_id"), str):
            message["tool_call_id"] = turn["tool_call_id"]
    found.messages.append(message)


def _add_calls(messages: list[Message], calls: list[dict[str, Any]]) -> None:
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).extend(calls)
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": calls})


class _Parts(NamedTuple):
    texts: list[str]
    reasoning: list[str]
    calls: list[dict[str, Any]]


def _read_parts(content: Any, tools: list[dict[str, Any]]) -> _Parts:
    """Content as a text, an object (what a tool returned) or a list of parts; pictures are no text."""
    parts = _Parts([], [], [])
    if isinstance(content, dict) and "type" not in content:
        parts.texts.append(json.dumps(content, ensure_ascii=False, default=str))
        return parts
    for part in content if isinstance(content, list) else [content] if content is not None else []:
        if isinstance(part, str):
            parts.texts.append(part)
            continue
        if not isinstance(part, dict):
            raise BadRow("not_text")
        kind = part.get("type", "text")
        value = _first(part, ("value", "text", str(kind)))
        if kind == "text":
            parts.texts.append(text(value))
        elif kind in ("reasoning", "thinking"):
            parts.reasoning.append(text(value))
        elif kind in ("tool_call", "tool_calls"):
            parts.calls.extend(read_calls(value))
        elif kind == "tools":
            tools.extend(read_tools(value) or [])
        else:
            raise BadRow("not_text")
    return parts


def _first(turn: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def text(value: Any) -> str:
    """Raises BadRow: not_text."""
    if not isinstance(value, str):
        raise BadRow("not_text")
    return value
