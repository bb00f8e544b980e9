"""Grade generated Python by the benchmark's own tests, in the sandbox and nowhere else."""

import re
from collections.abc import Sequence
from typing import Any

from ct_llm.evaluate.sandbox import run_checks

TIMEOUT_SECONDS = 10.0
ANSWER = "answer_of_the_model"
"""The answer's function for the tests; no benchmark has such a name."""

Doc = dict[str, Any]


def grade_humaneval(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """The answer may be the whole function or what follows the prompt.

    The prompt always comes first: it holds imports and functions that the answer may use, and its
    own function, whose body is the docstring, is replaced by the answer's. The tests get the
    prompt's functions too, their own copy: an answer that rewrites `encode` or `poly` fools nobody.
    """
    answer, entry_point = extract_code(results[0]), doc["entry_point"]
    whole = re.search(rf"^\s*(async\s+)?def\s+{re.escape(entry_point)}\b", answer, re.MULTILINE)
    code = f"{doc['prompt']}\n\n{answer}" if whole else doc["prompt"] + answer
    checks = f"{doc['prompt']}\n\n{entry_point} = {ANSWER}\n{doc['test']}\ncheck({entry_point})"
    return _passed(f"{code}\n{ANSWER} = {entry_point}", checks)


def grade_mbpp(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    checks = "\n".join([doc.get("test_setup_code") or "", *doc["test_list"]])
    # Some functions asked for are called like a builtin (sum, max).
    tested = re.findall(r"^def\s+(\w+)", doc["code"], re.MULTILINE)
    return _passed(extract_code(results[0]), checks, tested)


def extract_code(text: str) -> str:
    """The first fenced block, to the end where it is not closed; without a fence the whole text."""
    fence = re.search(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", text, re.DOTALL)
    return fence.group(1) if fence else text


def _passed(code: str, checks: str, tested: Sequence[str] = ()) -> dict[str, float]:
    passed = run_checks(code, checks, timeout_seconds=TIMEOUT_SECONDS, tested=tested)
    return {"passed": float(passed)}
