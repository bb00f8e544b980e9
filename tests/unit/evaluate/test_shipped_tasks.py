"""The graders beside the shipped tasks: they are no package, so they are loaded by path."""

import importlib.util
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
