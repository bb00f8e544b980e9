"""The graders of the coding slice, on the benchmarks' own items."""

import gzip
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ct_llm.config import shipped
from ct_llm.evaluate.sandbox import sandbox_problem

PROBLEM = sandbox_problem()
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=f"no sandbox: {PROBLEM}")


@pytest.fixture(scope="module")
def grading() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "code_grading", shipped("eval_suites/tasks/code_grading.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def human_eval(real_data: Path) -> dict[str, dict[str, Any]]:
    with gzip.open(real_data / "eval/coding/HumanEval.jsonl.gz", "rt") as lines:
        return {doc["task_id"]: doc for doc in map(json.loads, lines)}


@pytest.mark.parametrize(
    ("number", "cheat"),
    [
        # The tests use a function of the prompt, and believe what it says.
        (32, "def poly(xs, x):\n    return 0.0\ndef find_zero(xs):\n    return 0.0"),
        (38, "def encode_cyclic(s):\n    return s\ndef decode_cyclic(s):\n    return s"),
        (50, "def encode_shift(s):\n    return s\ndef decode_shift(s):\n    return s"),
        # The tests call it by its name, beside the one that they were given.
        (33, "def sort_third(xs):\n    return [1, 2, 3]"),
    ],
)
def test_the_tests_do_not_use_the_answers_helpers(
    grading: ModuleType, human_eval: dict[str, dict[str, Any]], number: int, cheat: str
) -> None:
    doc = human_eval[f"HumanEval/{number}"]
    assert grading.grade_humaneval(doc, [doc["canonical_solution"]]) == {"passed": 1.0}
    assert grading.grade_humaneval(doc, [cheat]) == {"passed": 0.0}


def test_a_function_asked_for_may_be_called_like_a_builtin(grading: ModuleType) -> None:
    doc = {
        "code": "def sum(a, b):\n    return 6",
        "test_list": ["assert sum(10, 15) == 6"],
        "test_setup_code": "",
    }
    assert grading.grade_mbpp(doc, ["def sum(a, b):\n    return 6"]) == {"passed": 1.0}
    assert grading.grade_mbpp(doc, ["def sum(a, b):\n    return 5"]) == {"passed": 0.0}
    assert grading.grade_mbpp(doc, ["def total(a, b):\n    return 6"]) == {"passed": 0.0}
