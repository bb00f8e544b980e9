import itertools
from typing import Any

import pytest

from ct_llm.prepare.clean.conversation import BadRow
from ct_llm.prepare.clean.formats import detect_format
from tests.unit.prepare.clean.one_row import to_conversation


def node(name: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    """`u…` a prompter's, `a…` an assistant's message."""
    role = "prompter" if name.startswith("u") else "assistant"
    return {"message_id": name, "text": name, "role": role, "replies": list(replies), **more}


def tree(prompt: dict[str, Any]) -> dict[str, Any]:
    return {"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": prompt}


def texts(row: dict[str, Any]) -> list[str]:
    return [message["content"] for message in to_conversation(row, "oasst").messages]


@pytest.mark.parametrize(
    ("replies", "best"),
    [
        ([node("a1", rank=1), node("a2", rank=0)], "a2"),
        ([node("a3"), node("a1"), node("a2")], "a1"),
        ([node("a1"), node("a2", rank=4)], "a2"),
        ([node("a1", rank=0, deleted=True), node("a2", rank=1)], "a2"),
        ([node("a1", rank=0, review_result=False), node("a2", rank=1, review_result=None)], "a2"),
    ],
)
def test_the_best_reply_is_taken_whatever_their_order(replies, best):
    for order in itertools.permutations(replies):
        assert texts(tree(node("u", *order))) == ["u", best]
        assert texts(node("u", *order, parent_id=None)) == ["u", best]


def test_a_thread_ends_with_the_assistant():
    row = tree(
        node("u1", node("a1", node("u2", node("a2", node("u3")), rank=0), node("u4", rank=1)))
    )
    assert texts(row) == ["u1", "a1", "u2", "a2"]
    assert detect_format(row.keys()) == "oasst"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (tree(node("u")), "no_answer"),
        (tree(node("u", node("a", deleted=True))), "no_answer"),
        (tree(node("u", node("a"), deleted=True)), "no_answer"),
        (node("u", node("a"), parent_id="a0"), "role_order"),
        # A flat export has a message per row and no replies.
        ({"message_id": "u", "parent_id": None, "text": "u", "role": "prompter"}, "no_answer"),
        (tree({"role": "prompter", "replies": []}), "missing_field"),
        (tree(node("u", node("a", text=3))), "not_text"),
        (tree(node("u", node("a", role="moderator"))), "unknown_role"),
    ],
)
def test_trees_without_a_thread_say_why(row, reason):
    with pytest.raises(BadRow) as bad:
        to_conversation(row, "oasst")
    assert bad.value.reason == reason


def test_trees_may_be_deep():
    leaf = node("a")
    for _ in range(2_000):
        leaf = node("a", node("u", leaf))
    assert len(texts(tree(node("u", leaf)))) == 4_002
