import json
import unicodedata
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ct_llm.prepare.clean.conversation import Message
from ct_llm.prepare.clean.identity import Row, identity, messages_json


def chat(prompt: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    "like",
    [
        chat("  What is\n\n a café? ", "A place."),
        chat("What is a café?", "A\tplace.\u3000"),
        chat(unicodedata.normalize("NFD", "What is a café?"), "A place."),
    ],
)
def test_blanks_and_unicode_forms_do_not_make_a_row_new(like):
    assert identity(like) == identity(chat("What is a café?", "A place."))


@pytest.mark.parametrize(
    "other",
    [
        chat("what is a café?", "A place."),
        chat("Whatis a café?", "A place."),
        chat("What is a cafe?", "A place."),
        [{"role": "system", "content": "Be brief."}, *chat("What is a café?", "A place.")],
    ],
)
def test_letters_case_and_roles_do(other):
    assert identity(other).row != identity(chat("What is a café?", "A place.")).row
    assert identity(other).prompt != identity(chat("What is a café?", "A place.")).prompt


def test_answers_to_one_prompt_share_the_prompt():
    one, other = identity(chat("Name a fruit.", "Fig")), identity(chat("Name a  fruit.", "Kiwi"))
    assert one.prompt == other.prompt
    assert one.row != other.row


def test_text_cannot_move_between_messages():
    assert identity(chat("a b", "c")).row != identity(chat("a", "b c")).row


def test_the_smaller_of_two_rows_is_known_by_its_text():
    one = Row("[1]", None, "source", "repo", "b.jsonl", 7)
    other = Row("[2]", None, "source", "repo", "a.jsonl", 1)
    assert min(one, other) == min(other, one) == one


checked_texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r")
    | st.sampled_from('\\"\n nrt')
)


@given(checked_texts)
def test_runs_of_blanks_are_one_blank(text):
    assert identity(chat(text, "x")) == identity(chat(" ".join(text.split()), "x"))
    assert (identity(chat(text + "a", "x")) == identity(chat(text + " a", "x"))) == (
        not text.strip() or text[-1].isspace()
    )


def called(arguments: dict[str, Any], **more: Any) -> list[Message]:
    function = {"name": "weather", "arguments": arguments}
    calls: list[Any] = [{"id": "call00000", "type": "function", "function": function}]
    return [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "Snow", "name": "weather", "tool_call_id": "call00000"},
        {"role": "assistant", "content": "Snow.", **more},
    ]  # pyright: ignore[reportReturnType]


def test_calls_are_part_of_a_row_whatever_the_order_of_their_keys():
    one, same = called({"a": 1, "b": [2]}), called({"b": [2], "a": 1})
    assert identity(one) == identity(same)
    for other in (called({"a": 1}), called({"a": 1, "b": ["2"]}), called({"a": 1, "b": None})):
        assert identity(other).row != identity(one).row
        assert identity(other).prompt != identity(one).prompt
    unnamed = called({"a": 1, "b": [2]})
    del unnamed[2]["name"]  # pyright: ignore[reportTypedDictNotRequiredAccess]
    assert identity(unnamed) != identity(one)


def test_the_made_up_ids_of_calls_do_not_count():
    one, other = called({"a": 1}), called({"a": 1})
    other[1]["tool_calls"][0]["id"] = other[2]["tool_call_id"] = "toolu_7"  # pyright: ignore
    assert identity(one) == identity(other)


def test_tools_and_thoughts_are_part_of_a_row():
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"a": 1, "b": 2}}}]
    same = [{"function": {"parameters": {"b": 2, "a": 1}, "name": "f"}, "type": "function"}]
    plain = chat("Hi", "Ho")
    assert identity(plain, tools) == identity(plain, same)
    assert identity(plain, tools).prompt != identity(plain).prompt
    assert identity(plain, []) == identity(plain, None) == identity(plain)
    thought, again, other = (called({}, reasoning_content=t) for t in ("Hm. So", "Hm.  So\n", "No"))
    assert identity(thought) == identity(again)
    assert identity(thought).prompt == identity(other).prompt == identity(called({})).prompt
    assert len({identity(m).row for m in (thought, other, called({}))}) == 3


@given(checked_texts, checked_texts)
@example('a "quoted"\\ \n\t\r\\n word', "ü 👍 \u2028 </x> \x7f")
def test_messages_are_plain_json(asked, answered):
    messages = chat(asked, answered)
    assert json.loads(messages_json(messages)) == messages
    assert messages_json(messages) == json.dumps(
        messages, ensure_ascii=False, separators=(",", ":")
    )


def test_calls_are_written_as_plain_json_too():
    messages = called({"city": "Zürich", "n": 1.5})
    assert json.loads(messages_json(messages)) == messages
