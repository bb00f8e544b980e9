import pytest
from hypothesis import given
from hypothesis import strategies as st

from ct_llm.prepare.clean.conversation import BadRow
from ct_llm.prepare.clean.plain_text import MIN_CHARS, cut_text


def cut(text: str) -> tuple[str, str]:
    asked, answered = cut_text(text)
    assert [asked["role"], answered["role"]] == ["user", "assistant"]
    return asked["content"], answered["content"]


@pytest.mark.parametrize(
    ("beginning", "rest"),
    [
        ("First. Second.\nThird paragraph here." * 2, "\n\n" + "Rest of it. " * 20),
        ("A sentence of some words.", " And another of many more words" * 10),
        ("He said: “Go!”", " and went on and on" * 15),
        ("这是第一句话。" * 8, "后面还有很多很多内容" * 20),
        ("def f(x)\n    return x + 1", "\ndef g(x)\n" * 25),
        ("word " * 10 + "word", " " + "w" * 250),
    ],
)
def test_texts_are_cut_where_something_ends(beginning, rest):
    asked, answered = cut(beginning + rest)
    text = beginning + rest
    assert text.startswith(asked)
    assert text.endswith(answered.strip()) or text.strip().endswith(answered)
    assert len(asked) <= len(text) / 2
    if rest.startswith("\n\n"):
        assert asked == beginning


def test_the_cut_nearest_to_a_quarter_is_taken():
    text = "abcde ghij. " * 50
    asked, _ = cut(text)
    assert abs(len(asked) - len(text) / 4) < 12


@pytest.mark.parametrize("text", ["x" * 1_000, "A short question?", "", " \n", "x " * 50])
def test_texts_without_a_place_to_cut_are_bad_rows(text):
    with pytest.raises(BadRow) as bad:
        cut_text(text)
    assert bad.value.reason == ("empty" if not text.strip() else "too_short")


@given(st.text(alphabet="ab .\n。\t\u2003", min_size=MIN_CHARS, max_size=3 * MIN_CHARS))
def test_nothing_but_blanks_is_lost(text):
    try:
        asked, answered = cut(text)
    except BadRow:
        return
    assert "".join((asked + answered).split()) == "".join(text.split())
    assert asked.strip() == asked
    assert answered.strip() == answered
    assert asked
    assert answered
