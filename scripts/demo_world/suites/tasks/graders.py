"""What lm-eval calls on each output of the demo's tasks: 1 for right, 0 for wrong."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence

from ct_llm.evaluate.sandbox import run_checks

_ANSWER = re.compile(r"The answer is (-?\d+)\.")


def grade_reasoning(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """The number after "The answer is", whatever was written before it."""
    found = _ANSWER.search(results[0])
    return {"correct": float(found is not None and int(found[1]) == int(doc["answer"]))}


def grade_chat(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """The expected text, exactly, but for white space at the ends."""
    return {"exact": float(results[0].strip() == doc["expected"])}


def grade_coding(doc: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Whether the function gives the true values on the test inputs, run in the sandbox."""
    code = results[0].strip()
    # Text without the function cannot pass; not starting two processes for it changes no score.
    if f"def {doc['function']}(" not in code:
        return {"pass": 0.0}
    return {"pass": float(_passes(code, doc["checks"]))}


@functools.lru_cache(maxsize=4096)
def _passes(code: str, checks: str) -> bool:
    # Champion and challenger write the same function for most items.
    return run_checks(code, checks)
