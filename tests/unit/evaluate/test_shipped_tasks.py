"""The graders beside the shipped tasks: they are no package, so they are loaded by path."""

import importlib.util
import json
import re
from types import ModuleType
from typing import Any

import pytest

from ct_llm.config import shipped


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, shipped(f"eval_suites/tasks/{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CODE = _module("code_grading")
IFEVAL = _module("ifeval_checks")
FORMATS = _module("format_checks")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("def f():\n    return 1", "def f():\n    return 1"),
        ("Sure:\n```python\ndef f():\n    return 1\n```\nDone.", "def f():\n    return 1"),
        ("```\nx = 1\n```\n```\nx = 2\n```", "x = 1"),
        ("```py\nx = 1", "x = 1"),
        ("``` python\n    x = 1\n```", "    x = 1"),
    ],
)
def test_code_is_taken_from_its_fence(answer: str, code: str) -> None:
    assert CODE.extract_code(answer) == code


@pytest.mark.parametrize(
    ("instruction", "arguments", "good", "bad"),
    [
        ("keywords:existence", {"keywords": ["c++"]}, "I like C++.", "I like C."),
        (
            "keywords:frequency",
            {"keyword": "tea", "relation": "at least", "frequency": 2},
            "Tea, steam",
            "tea",
        ),
        ("keywords:forbidden_words", {"forbidden_words": ["art"]}, "start", "Art!"),
        (
            "keywords:letter_frequency",
            {"letter": "!", "let_relation": "less than", "let_frequency": 2},
            "Oh!",
            "Oh!!",
        ),
        (
            "length_constraints:number_words",
            {"relation": "at least", "num_words": 3},
            "one, two, three",
            "one two",
        ),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n\nb"),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***a***b***", "a*** ***b"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
            'a\n\n"Weekend," b',
            "weekend a\n\nb",
        ),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a]"),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "a\nP. S. b", "a PS b"),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "P.P.S. b", "P.S. b"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a\n**b**"),
        ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*a* b", "a ** b"),
        (
            "detectable_format:multiple_sections",
            {"section_spliter": "PART", "num_sections": 2},
            "PART 1 a PART 2 b",
            "PART 1 a",
        ),
        ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": 1'),
        ("detectable_format:title", {}, "<<A poem>> a", "<< >> a"),
        ("combination:two_responses", {}, "a ****** b", "a ****** a"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say a."}, "say a. b", "b say a."),
        ("startend:end_checker", {"end_phrase": "Bye."}, 'a "bye."', "bye. a"),
        ("startend:quotation", {}, ' "a" ', '"a'),
        ("change_case:english_capital", {}, "A1", "Aa"),
        ("change_case:english_lowercase", {}, "a1", "Aa"),
        ("punctuation:no_comma", {}, "a", "a, b"),
    ],
)
def test_each_instruction_tells_good_from_bad(
    instruction: str, arguments: dict[str, Any], good: str, bad: str
) -> None:
    doc = {"instruction_id_list": [instruction], "kwargs": [{**arguments, "other": None}]}
    assert IFEVAL.grade(doc, [good]) == {"followed": 1.0}
    assert IFEVAL.grade(doc, [bad]) == {"followed": 0.0}
    assert IFEVAL.grade(doc, [" \n"]) == {"followed": 0.0}


def _items() -> list[dict[str, str]]:
    path = shipped("eval_suites/tasks/format_items.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _right_answer(item: dict[str, str]) -> str:
    expected = json.loads(re.sub(r"\|[^\"]*", "", item["expected"]))
    if item["kind"] == "word":
        return str(expected)
    if item["kind"] == "lines":
        return "\n".join(f"- {word}" for word in expected)
    return json.dumps(expected)


def test_format_items_are_distinct_and_each_has_a_right_answer() -> None:
    items = _items()
    assert len({item["prompt"] for item in items}) == len(items) == 50
    for number, item in enumerate(items):
        assert FORMATS.grade(item, [_right_answer(item)]) == {"followed": 1.0}, item["prompt"]
        other = items[number - 1]
        assert FORMATS.grade(item, [""]) == {"followed": 0.0}
        if other["expected"] != item["expected"]:
            assert FORMATS.grade(item, [_right_answer(other)]) == {"followed": 0.0}, item["prompt"]


@pytest.mark.parametrize(
    ("kind", "expected", "good", "bad"),
    [
        ("json", {"a": 1}, '```json\n{"a": 1.0}\n```', 'Here it is: {"a": 1}'),
        ("json", {"a": 1, "b": "x"}, '{"b": " X", "a": 1}', '{"a": 1}'),
        ("json", {"a": 1}, ' {"a":1}\n', '{"a": "1"}'),
        ("json", {"a": True}, '{"a": true}', '{"a": 1}'),
        ("json", {"a": 1}, '{"a": 1}', '{"a": true}'),
        ("json", {"a": None}, '{"a": null}', '{"a": ""}'),
        ("json", {"a": ["x", "y"]}, '{"a": ["x", "y"]}', '{"a": ["y", "x"]}'),
        ("json", {"a": ["x", "y"]}, '{"a": ["X", "y"]}', '{"a": "x"}'),
        ("json", {"a": "euro|EUR"}, '{"a": "eur"}', '{"a": "euro|EUR"}'),
        ("json", ["a"], '["A"]', '"a"'),
        ("json", ["a"], '["a"]', "[" * 100_000),
        ("capitals", ["RED"], '["RED"]', '["red"]'),
        ("word", "yes", "Yes.", "Yes, it does."),
        ("lines", ["a", "b|c"], "- a\n- C", "- a\n\n- b"),
        ("lines", ["a", "b"], "- A.\n- b", "* a\n* b"),
        ("lines", ["a"], "- a", "- a\n- b"),
    ],
)
def test_each_format_tells_good_from_bad(kind: str, expected: Any, good: str, bad: str) -> None:
    doc = {"kind": kind, "expected": json.dumps(expected)}
    assert FORMATS.grade(doc, [good]) == {"followed": 1.0}
    assert FORMATS.grade(doc, [bad]) == {"followed": 0.0}
