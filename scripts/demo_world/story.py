"""The demo's story: what is pushed to the dataset repo, step by step, and what should follow.

Everything is declared here; the orchestrator pushes the rows and runs ``ct-llm``. ``expected`` is
what rehearsals measured, not what the demo prints: it prints what happened in its own run.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scripts.demo_world.families import BASE_FAMILIES, Row, make_rows

Verdict = Literal["promote", "reject", "nothing to do"]

ROWS_PER_FAMILY = 100
GENERAL_ROWS = {"reasoning": 60, "coding": 30, "chat": 30}
"""Rows a base family in the first push. With 30, `bags` fell to .72 in one of four rehearsals (the
multiplication table is longer than that), enough to reject a good cycle."""
FEW_ROWS = 12
ITEMS_PER_SLICE = 108  # 18 for each of a slice's six families

NEW_REASONING = tuple(f"reasoning_{name}" for name in ("gives", "eats", "rows"))
NEW_CODING = tuple(f"coding_{name}" for name in ("greater", "add_to_all", "cap"))
NEW_CHAT = tuple(f"chat_{name}" for name in ("repeat_twice", "dash_list", "stars"))
CUT_CODING = ("coding_add", "coding_multiply")
"""What cycle 3 spoils. The base model knows these two and no accepted row teaches them: nothing
outvotes the spoiled rows, so the loss is the same for every seed."""

SUITE_FAMILIES = {
    # Only what the base model knows or the story teaches: on families that nobody ever taught a
    # model scores by chance, and the gate would take that swing for a gain or a loss.
    "reasoning": ("reasoning_gets", "reasoning_loses", "reasoning_bags", *NEW_REASONING),
    "coding": ("coding_add", "coding_subtract", "coding_multiply", *NEW_CODING),
    "chat": ("chat_hello", "chat_goodbye", "chat_thanks", *NEW_CHAT),
}


@dataclass(frozen=True)
class Step:
    """One push to the dataset repo, then one run of the loop."""

    name: str
    file: str
    """Path in the dataset repo."""
    make: Callable[[int], list[Row]]
    """Seed -> the rows of the file."""
    verdict: Verdict
    expected: str
    """What should happen, in words."""

    def rows(self, seed: int) -> list[Row]:
        """The rows of this step; each step draws with a seed of its own."""
        return self.make(seed)

    def parquet(self, seed: int) -> bytes:
        """The file's content: columns ``messages`` and ``source``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(self.rows(seed)), sink)
        return sink.getvalue()


def _reasoning(seed: int) -> list[Row]:
    # The first push carries a little of everything the base model can do. Without it an adapter
    # this small forgets the other slices, and there is nothing accepted yet to replay.
    general: list[Row] = []
    for slice_name, count in GENERAL_ROWS.items():
        families = [name for name in BASE_FAMILIES if name.startswith(f"{slice_name}_")]
        general += make_rows(families, count, 1000 + seed)
    return general + make_rows(NEW_REASONING, ROWS_PER_FAMILY, 1000 + seed)


def _few(seed: int) -> list[Row]:
    return make_rows(("coding_greater",), FEW_ROWS, 2000 + seed)


def _coding(seed: int) -> list[Row]:
    return make_rows(NEW_CODING, ROWS_PER_FAMILY, 3000 + seed)


def _chat_and_cut_code(seed: int) -> list[Row]:
    good = make_rows(NEW_CHAT, ROWS_PER_FAMILY, 4000 + seed)
    cut = make_rows(CUT_CODING, ROWS_PER_FAMILY, 4000 + seed, harm="truncated_code")
    return good + cut


STORY = (
    Step(
        name="reasoning",
        file="data/0001-reasoning.parquet",
        make=_reasoning,
        verdict="promote",
        expected="New word problems: reasoning rises, coding and chat stay. Promoted.",
    ),
    Step(
        name="few",
        file="data/0002-few.parquet",
        make=_few,
        verdict="nothing to do",
        expected="A dozen rows are no reason to train. Nothing happens, and it says why.",
    ),
    Step(
        name="coding",
        file="data/0003-coding.parquet",
        make=_coding,
        verdict="promote",
        expected="New functions, with the accepted rows mixed in: coding rises, reasoning and "
        "chat stay. Promoted.",
    ),
    Step(
        name="chat-and-cut-code",
        file="data/0004-chat.parquet",
        make=_chat_and_cut_code,
        verdict="reject",
        expected="Good chat data, and code that an export cut off. Chat rises so much that the "
        "mean over the slices rises too, but coding falls. Rejected for coding.",
    ),
)
