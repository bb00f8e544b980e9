"""Message trees of Open Assistant: one conversation a tree, along the replies that raters ranked best.

Of several replies the lowest rank counts, then the smallest id, whatever order an export has them in;
messages that were deleted or failed their review are left out with what follows them. Branches beside
the best one are not trained on: they say the same prompt again with answers that are known to be worse.
"""

from collections.abc import Mapping
from typing import Any

from ct_llm.prepare.clean.conversation import BadRow, Message
from ct_llm.prepare.clean.turns import text

_ROLES = {"prompter": "user", "user": "user", "assistant": "assistant"}


def best_thread(row: Mapping[str, Any]) -> list[Message]:
    """row: a tree (`prompt` with its replies), or its first message with its replies.

    A last prompt that nobody answered is left out. Raises BadRow: no_answer, role_order where the row
    begins inside a tree, missing_field, not_text, unknown_role.
    """
    prompt = row.get("prompt")
    node: Any = prompt if isinstance(prompt, dict) else row
    if node.get("parent_id") is not None:
        raise BadRow("role_order")
    messages: list[Message] = []
    while node is not None:
        messages.append(_message(node))
        node = _best(node.get("replies"))
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if not messages or not _usable(prompt if isinstance(prompt, dict) else row):
        raise BadRow("no_answer")
    return messages


def _best(replies: Any) -> Mapping[str, Any] | None:
    usable = [r for r in replies if _usable(r)] if isinstance(replies, list) else []
    return min(usable, key=_order, default=None)


def _usable(node: Any) -> bool:
    return (
        isinstance(node, dict)
        and node.get("deleted") is not True
        and node.get("review_result") is not False
    )


def _order(reply: Mapping[str, Any]) -> tuple[float, str]:
    rank = reply.get("rank")
    return (rank if isinstance(rank, int | float) else float("inf"), str(reply.get("message_id")))


def _message(node: Mapping[str, Any]) -> Message:
    said, name = node.get("text"), node.get("role")
    if said is None or name is None:
        raise BadRow("missing_field")
    role = _ROLES.get(text(name))
    if role is None:
        raise BadRow("unknown_role")
    return {"role": role, "content": text(said)}
