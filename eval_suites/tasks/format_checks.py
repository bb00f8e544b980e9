"""Answers in a form that was asked for: a JSON object or list, one word, lines with a dash.

An answer counts when form and content are right. What says the same thing counts too: a code fence
around JSON, capital or small letters, a full stop after a word, 5 for 5.0, keys in another order.
`autumn|fall` in what is expected means: either of them.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

Doc = dict[str, Any]


def grade(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    expected = json.loads(doc["expected"])
    return {"followed": float(CHECKS[doc["kind"]](results[0].strip(), expected))}


def _is_json(answer: str, expected: Any) -> bool:
    fence = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", answer, re.DOTALL | re.IGNORECASE)
    try:
        given = json.loads(fence[1] if fence else answer)
    except (ValueError, RecursionError):
        return False
    return _same(given, expected)


def _same(given: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return (
            isinstance(given, dict)
            and given.keys() == expected.keys()
            and all(_same(given[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(given, list)
            and len(given) == len(expected)
            and all(map(_same, given, expected))
        )
    if isinstance(expected, str):
        return isinstance(given, str) and _plain(given) in map(_plain, expected.split("|"))
    if isinstance(expected, bool) or expected is None:
        return given is expected
    return isinstance(given, (int, float)) and not isinstance(given, bool) and given == expected


def _is_json_in_capitals(answer: str, expected: list[str]) -> bool:
    return _is_json(answer, expected) and all(word in answer for word in expected)


def _is_word(answer: str, expected: str) -> bool:
    return _same(answer.removesuffix("."), expected)


def _are_lines(answer: str, expected: list[str]) -> bool:
    lines = answer.splitlines()
    return (
        len(lines) == len(expected)
        and all(line.startswith("- ") for line in lines)
        and all(
            _same(line.removeprefix("- ").removesuffix("."), word)
            for line, word in zip(lines, expected, strict=True)
        )
    )


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


CHECKS = {
    "json": _is_json,
    "capitals": _is_json_in_capitals,
    "word": _is_word,
    "lines": _are_lines,
}
