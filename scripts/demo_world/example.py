"""What a family makes: a prompt, its true response, and what a grader needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """One instruction of a family."""

    prompt: str
    response: str
    grading: Mapping[str, str]
    """Columns of the evaluation item: ``answer``, ``expected`` or ``checks``."""
