"""Held-out rows that a program can grade: which are taken, and what counts as right."""

import json
from pathlib import Path

import pytest

from ct_llm.evaluate.tasks.holdout_task import HeldOutRow
from ct_llm.evaluate.tasks.newest_checks import Check, checkable_rows, find_check, is_correct


def row(question: str, response: str, row_id: str = "row1") -> HeldOutRow:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    return HeldOutRow(row_id, turns, None)


@pytest.mark.parametrize(
    ("question", "response", "kind", "answer"),
    [
        ("How many?", "First 48 / 2 = 24.\n#### 72", "number", "72"),
        ("How many?", "#### 1,072", "number", "1072"),
        ("How many?", "3 + 14 = 17. The answer is 17.", "number", "17"),
        ("How many?", "So the answer is: **17 apples**.", "number", "17"),
        ("Solve it.", "Hence $x = \\boxed{-3.50}$.", "number", "-3.5"),
        ("What is 9 - 2 x 3?", "3", "number", "3"),
        ("In Fahrenheit?\n25°C", "77.0°F", "number", "77"),
        (
            "How many clips?",
            "She sold 48+24 = 72 clips altogether in April and May.",
            "number",
            "72",
        ),
        ("The volume?", "It is 4 x 4 x 4 = 64 cubic centimeters.", "number", "64"),
        ("The third angle?", "180 - (9 + 48) = 123 degrees.", "number", "123"),
        ("What does it cost?", "$55 * 2 = $110.50", "number", "110.5"),
        ("What does it print?", "[0, 2, 4]", "json", None),
        ("Name and age as JSON: Ann, 7", '{"name": "Ann", "age": 7}', "json", None),
        ("Is it an opinion or a fact?", "Fact.", "text", "fact"),
        ("The sentiment?\n- Positive\n- Negative\nDetermine it.", "Negative", "text", "negative"),
        ("Does 3 divide 9?", "Yes.", "text", "yes"),
        ("Choose one: (A) iron (B) wood", "B", "text", "b"),
    ],
)
def test_what_is_checkable(question: str, response: str, kind: str, answer: str | None) -> None:
    check = find_check(row(question, response))
    assert check is not None
    assert check.kind == kind
    assert answer in (None, check.answer)
    assert is_correct(check, response)


@pytest.mark.parametrize(
    ("question", "response"),
    [
        # There may be other good answers.
        ("Generate a random number from 1 to 10.", "7"),
        ("Write a math problem with its solution.", "Ann has 3. 3 + 4 = 7. The answer is 7."),
        ("创建一个等于36的数学方程。", "9 x 4 = 36"),
        ("Generate a hypothetical phone number.", "(555) 123-4567"),
        ("Select a random noun or verb: dog, run", "dog"),
        ("Describe the color yellow in 3 words.", "Bright, cheerful, warm."),
        ("Identify a rhyming word for eyes.", "Prize."),
        ("Describe the user as JSON.", '{"name": "Ann Miller"}'),
        ("The sentence with a stronger verb: it grew.", "It soared."),
        # A number at the end that is no result.
        ("When?", "The first Super Bowl was on January 15, 1967."),
        ("Describe them.", "1. Scout\n2. Jem\n10."),
        ("Count to zero.", "15\n9\n8\n4\n0"),
        ("In quadratic form?", "It is already, which is 7x^2 + 2x + 7 = 0."),
        ("Search in Ruby.", "puts 'none' if result == -1\nputs 'found' if result != -1"),
        ("Set it.", "x = 4\nresult = 5"),
        ("Set it.", "```python\ny = 2 * 3 = 6\n```"),
        ("How many?", "The answer is 3 or 4."),
        ("How many?", "The answer is 17. But see chapter 2 of the book."),
        ("How many?", "The answer is 3/4."),
        # Nothing to compare.
        ("Say nothing.", " "),
        ("Say it.", "{}"),
        ("As JSON: a 1", '{"a": 1, "a": 1}'),
        ("Explain it.", "A long text that goes on and on, and says what nobody could check."),
    ],
)
def test_what_is_left_out(question: str, response: str) -> None:
    assert find_check(row(question, response)) is None


def test_only_an_assistants_text_is_checkable() -> None:
    question = {"role": "user", "content": "Is it so, yes or no?"}
    call = {"function": {"name": "f", "arguments": "{}"}}
    for last in (
        {"role": "user", "content": "Yes"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "assistant", "content": "Yes", "tool_calls": [call]},
        {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]},
    ):
        assert find_check(HeldOutRow("row1", [question, last], None)) is None
    assert find_check(HeldOutRow("row1", [{"role": "assistant", "content": "Yes"}], None)) is None
    assert find_check(HeldOutRow("row1", [], None)) is None


def test_json_may_use_words_of_tools_and_earlier_turns() -> None:
    messages = [
        {"role": "system", "content": "Answer as JSON with the key city."},
        {"role": "user", "content": "I live in Oslo. Which call?"},
        {"role": "assistant", "content": '{"name": "weather", "city": "Oslo"}'},
    ]
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert find_check(HeldOutRow("row1", messages, tools)) is not None
    assert find_check(HeldOutRow("row1", messages, None)) is None


@pytest.mark.parametrize(
    ("response", "right", "wrong"),
    [
        (
            "#### 72",
            ["#### 72", "72", "48 + 24 = 72", "The answer is 72.0.", "$72"],
            ["#### 73", ""],
        ),
        ("The answer is -5.", ["\\boxed{-5}", "It is -5"], ["5", "10-5", "minus five"]),
        ("#### 1000", ["1,000", "The answer is 1,000 apples.", "#### 1000.00"], ["1,001", "100"]),
        ("#### 7", ["#### 7\n\nIs that clear? See page 12."], ["It is 7, on page 12", "9" * 5000]),
        ('{"a": [1, 2.0]}', ['{"a":[1.0,2]}', '```json\n{"a": [1, 2]}\n```'], ['{"a": [2, 1]}']),
        ("[1, true]", ["[1, true]"], ["[1, 1]", "[1, true] and more", "[1, NaN]", "[" * 10_000]),
        ("Yes.", ["yes", ' "Yes" ', "YES!"], ["Yes, it is", "no", ""]),
    ],
)
def test_right_and_wrong(response: str, right: list[str], wrong: list[str]) -> None:
    check = find_check(row("Yes or no? As JSON with a: 1, 2", response))
    assert check is not None
    assert [text for text in right if not is_correct(check, text)] == []
    assert [text for text in wrong if is_correct(check, text)] == []


def test_the_choice_depends_on_the_rows_alone() -> None:
    rows = [row("How many?", f"#### {n}" if n % 2 else "Some.", f"row{n}") for n in range(40)]
    found = checkable_rows(rows)
    assert found == checkable_rows(rows[::-1])
    assert {part.row.row_id for part in found} == {f"row{n}" for n in range(1, 40, 2)}
    assert [p for p in found if int(p.row.row_id[3:]) < 20] == checkable_rows(rows[:20])


def test_real_instructions_are_graded_by_the_benchmarks_own_answers(real_data: Path) -> None:
    """Of GSM8K as instructions, most end in a calculation; its result is GSM8K's answer.

    13 of 5,611 differ, where the row itself is wrong or counts in cents: those are the row's answer.
    """
    lines = (real_data / "eval/reasoning/gsm8k/train.jsonl").read_text().splitlines()
    docs = [json.loads(line) for line in lines]
    truth = {_spaced(doc["question"]): doc["answer"].rpartition("####")[2] for doc in docs}
    rows = json.loads((real_data / "train/gsm8k_instruct/gsm_8k_train.json").read_text())
    found = checkable_rows(
        [row(r["instruction"], r["output"], f"row{n}") for n, r in enumerate(rows)]
    )
    assert len(found) >= 0.7 * len(rows)
    agree = told = 0
    for held_out, check in found:
        question, response = (message["content"] for message in held_out.messages)
        assert is_correct(check, response)
        if (answer := truth.get(_spaced(question))) is not None:
            told += 1
            agree += is_correct(check, f"#### {answer}")
    assert told > 5_000
    assert agree >= 0.997 * told


def test_of_open_conversation_next_to_nothing_is_taken(real_data: Path) -> None:
    for path, most in (
        ("gpteacher/roleplay-instruct.json", 0),
        ("gpteacher/toolformer-similarity-0.6.json", 0),
        ("llama_factory/alpaca_en_demo.json", 25),
    ):
        rows = json.loads((real_data / "train" / path).read_text())
        questions = [f"{r['instruction']}\n{r.get('input', '')}" for r in rows]
        responses = [r.get("response", r.get("output")) for r in rows]
        pairs = zip(questions, responses, strict=True)
        assert len(checkable_rows([row(*pair, f"{n}") for n, pair in enumerate(pairs)])) <= most


def _spaced(text: str) -> str:
    return " ".join(text.split())


def test_an_answer_is_never_compared_across_kinds() -> None:
    assert not is_correct(Check("text", "72"), "The answer is 72.")
    assert not is_correct(Check("json", "72"), "72")
