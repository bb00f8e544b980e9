import json
import unicodedata

import pytest

from ct_llm.prepare.dedup import Row, identity, keep_one, messages_json
from ct_llm.prepare.validate import Message


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


def test_the_smaller_of_two_rows_stays_whichever_came_first():
    one = Row("[1]", "source", "repo", "a.jsonl", 0)
    other = Row("[2]", "source", "repo", "a.jsonl", 1)
    for rows in ([one, other], [other, one]):
        kept: dict[bytes, Row] = {}
        assert [keep_one(kept, b"id", row) for row in rows] == [True, False]
        assert kept == {b"id": one}


def test_messages_are_plain_json():
    messages = chat('a "quoted"\\ \n\t\x1f word', "ü 👍 \u2028 </x>")
    assert json.loads(messages_json(messages)) == messages
    assert messages_json(messages) == json.dumps(
        messages, ensure_ascii=False, separators=(",", ":")
    )
