import pytest
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.prepare.one_line import one_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is: 日本語, naïve, 👍", "as it is: 日本語, naïve, 👍"),
        ("red \x1b[31malert\x1b[0m", r"red \x1b[31malert\x1b[0m"),
        ("two\r\nlines\tand a tab", r"two\r\nlines\tand a tab"),
        ("user\u202egpj.exe", r"user\u202egpj.exe"),
        ("bell \x07, NUL \0, C1 \x9b31m", r"bell \x07, NUL \x00, C1 \x9b31m"),
        ("zero\u200bwidth, line\u2028end", r"zero\u200bwidth, line\u2028end"),
        ("half \ud83d a pair", r"half \ud83d a pair"),
        ("wide\u3000and\xa0hard blanks", "wide and hard blanks"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert one_line(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [("0123456789", "0123456789"), ("0123456789a", "012345678…"), ("1234567\x1b!!", "1234567…")],
)
def test_longer_texts_end_in_an_ellipsis_and_never_in_half_an_escape(text: str, shown: str) -> None:
    assert one_line(text, 10) == shown


@given(st.text(st.characters()), st.integers(1, 40))
def test_any_text_is_one_printable_line_within_its_room(text: str, room: int) -> None:
    shown = one_line(text, room)
    assert shown.isprintable()
    assert len(shown) <= room
    assert one_line(shown, room) == shown
