"""Grade generated Python by the benchmark's own tests, in the sandbox and nowhere else."""

import re
from collections.abc import Sequence
from typing import Any

from ct_llm.evaluate.sandbox import run_checks

TIMEOUT_SECONDS = 10.0

Doc = dict[str, Any]


def grade_humaneval(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """The answer may be the whole function or what follows the prompt.

    The prompt always comes first: it holds imports and functions that the tests use, and its own
    function, whose body is the docstring, is replaced by the answer's.
    """
    answer, entry_point = extract_code(results[0]), doc["entry_point"]
    whole = re.search(rf"^\s*(async\s+)?def\s+{re.escape(entry_point)}\b", answer, re.MULTILINE)
    code = f"{doc['prompt']}\n\n{answer}" if whole else doc["prompt"] + answer
    return _passed(code, f"{doc['test']}\ncheck({entry_point})")


def grade_mbpp(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    checks = "\n".join([doc.get("test_setup_code") or "", *doc["test_list"]])
    return _passed(extract_code(results[0]), checks)


def extract_code(text: str) -> str:
    """The first fenced block, to the end where it is not closed; without a fence the whole text."""
    fence = re.search(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", text, re.DOTALL)
    return fence.group(1) if fence else text


def _passed(code: str, checks: str) -> dict[str, float]:
    return {"passed": float(run_checks(code, checks, timeout_seconds=TIMEOUT_SECONDS))}
