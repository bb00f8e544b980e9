"""Tool calls and tools, in whatever writing, in OpenAI's.

Calls come as `tool_calls`, as the older `function_call`, as a ShareGPT turn of that role, or as a part
of the content; their arguments as an object or as JSON text.
"""

from collections.abc import Sequence
from typing import Any

from ct_llm.prepare.clean.conversation import BadRow, Message
from ct_llm.prepare.clean.json_rows import parse


def read_calls(value: Any) -> list[dict[str, Any]]:
    """One call or several, as objects or JSON text. Raises BadRow: bad_tool_call."""
    value = _parsed(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not value:
        raise BadRow("bad_tool_call")
    return [_call(_parsed(item)) for item in value]


def _call(value: Any) -> dict[str, Any]:
    function = value.get("function") or value if isinstance(value, dict) else None
    function = _parsed(function)
    if not isinstance(function, dict):
        raise BadRow("bad_tool_call")
    name = function.get("name")
    arguments = _parsed(
        next(
            (function[key] for key in ("arguments", "parameters", "args") if function.get(key)), {}
        )
    )
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        raise BadRow("bad_tool_call")
    return {
        "id": value.get("id"),
        "type": "function",
        "function": {"name": name, "arguments": dict(arguments)},
    }


def read_tools(value: Any) -> list[dict[str, Any]] | None:
    """The row's tools; none where there are none. Raises BadRow: bad_tool_call."""
    if value is None or value == "":
        return None
    value = _parsed(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise BadRow("bad_tool_call")
    return [_tool(_parsed(item)) for item in value] or None


def _tool(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRow("bad_tool_call")
    function = _parsed(value.get("function", value))
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("bad_tool_call")
    function = dict(function)
    function.pop("type", None)
    if isinstance(function.get("parameters"), str):
        function["parameters"] = _parsed(function["parameters"])
    return {"type": "function", "function": function}


def number_calls(messages: Sequence[Message]) -> None:
    """Give every call an id of ours, and every tool's answer the id and the name of its call.

    An answer that names none of the open calls by the file's own id belongs to the first of them.
    """
    number = 0
    open_calls: dict[int, tuple[Any, dict[str, Any]]] = {}
    """By number: the file's own id, and the call."""
    for message in messages:
        if calls := message.get("tool_calls"):
            open_calls = {number + place: (call["id"], call) for place, call in enumerate(calls)}
            for place, call in enumerate(calls):
                call["id"] = f"call{number + place:05d}"
            number += len(calls)
        elif message["role"] == "tool":
            theirs = message.pop("tool_call_id", None)
            asked = [n for n, (call_id, _) in open_calls.items() if call_id == theirs] or open_calls
            if asked:
                _, call = open_calls.pop(min(asked))
                message.setdefault("name", call["function"]["name"])
                message["tool_call_id"] = call["id"]


def _parsed(value: Any) -> Any:
    """JSON text as its value, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except (ValueError, RecursionError):
        raise BadRow("bad_tool_call") from None
