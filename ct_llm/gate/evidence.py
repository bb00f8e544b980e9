"""A verdict's evidence in one small file, and the same verdict computed from it by a stranger.

The file is Parquet with a row for every item of the evaluation, scored or not, in the one random
order: `slice`, `item_id`, `task`, `cluster`, and the scores of `champion`, `challenger` and
`anchor` (none: not scored). Its metadata holds, as JSON, the gate's config, what was declared of the
slices, and the decision. There are no prompts, no answers and no paths in it, so it can be shown.

Whoever has it can check that the order is the one drawn from the seed, that the scores are a
contiguous prefix of it, and that thresholds, evidence and verdict follow from them. That the scores
themselves are right, only an evaluation of the same items can show.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from ct_llm.config import GateConfig
from ct_llm.cycle_dir import write_atomically
from ct_llm.errors import CtError, InputError
from ct_llm.gate.gate import gate
from ct_llm.records import SIDES, EvalResult, GateDecision, ItemScore, OrderedItem

FORMAT = "1"
DOES_NOT_FOLLOW = "The verdict does not follow from its evidence, so do not rely on it:"
EXACT = 1e-9
"""Sums and means that are computed again may differ by this: rounding."""
CLOSE = 1e-6
"""Bounds and log e-values may: they come from a search and from another machine's logarithm."""
SEARCHED = ("lower", "upper", "log_e_pass", "log_e_fail")

# What decides, and nothing else: sentences, overall means, damaged items and descriptive figures may
# be computed otherwise by another version of ct_llm, and an honest old record is no forgery then.
# In this order the first difference is named: what was asked, then what was found.
OF_TEST = (
    *("threshold", "strict", "floor", "num_items", "num_used", "state"),
    *("champion_mean", "challenger_mean", "delta", "wins", "losses", "ties"),
    *("floor_met", "lower", "upper"),
)
OF_EVIDENCE = ("order_digest", "alpha_pass", "alpha_fail", "log_e_pass", "log_e_fail")
OF_DECISION = (
    *("mode", "alpha", "challenger_digest", "champion_revision", "champion_digest"),
    *("anchor_revision", "anchor_digest", "items_digest", "scores_digest"),
    *("verdict", "budget_reached"),
)

SCHEMA = pa.schema(
    [
        pa.field("slice", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("cluster", pa.string()),
        *[pa.field(side, pa.float64()) for side in SIDES],
    ]
)


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict follows from."""

    config: GateConfig
    result: EvalResult
    items: tuple[OrderedItem, ...]
    """All of them, in the one random order."""
    scores: tuple[ItemScore, ...]
    """Without prompts and outputs."""
    decision: GateDecision


def evidence_of(
    config: GateConfig,
    result: EvalResult,
    items: Sequence[OrderedItem],
    scores: Sequence[ItemScore],
    decision: GateDecision,
) -> Evidence:
    """The evidence of a decision of `gate`, without texts and paths."""
    no_text = {"prompt": "", "output": ""}
    no_texts = {"prompt": "", "champion_output": "", "challenger_output": ""}
    damaged = tuple(item.model_copy(update=no_texts) for item in decision.damaged_items)
    return Evidence(
        config=config,
        result=result.model_copy(update={"items_path": "", "scores_path": ""}),
        items=tuple(items),
        scores=tuple(score.model_copy(update=no_text) for score in scores),
        decision=decision.model_copy(update={"damaged_items": damaged}),
    )


def evidence_bytes(evidence: Evidence) -> bytes:
    """The file's content."""
    score_of = {(s.slice, s.item_id, s.adapter): s.score for s in evidence.scores}
    columns: dict[str, list[Any]] = {
        name: [getattr(item, name) for item in evidence.items]
        for name in ("slice", "item_id", "task", "cluster")
    }
    for side in SIDES:
        columns[side] = [score_of.get((i.slice, i.item_id, side)) for i in evidence.items]
    metadata = {
        "ct_llm.evidence": FORMAT,
        "ct_llm.config": evidence.config.model_dump_json(),
        "ct_llm.result": evidence.result.model_dump_json(),
        "ct_llm.decision": evidence.decision.model_dump_json(),
    }
    table = pa.Table.from_pydict(columns, SCHEMA.with_metadata(metadata))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def write_evidence(path: Path, evidence: Evidence) -> None:
    """All of it or nothing. Raises StorageError."""
    write_atomically(path, evidence_bytes(evidence))


def read_evidence(source: Path | bytes) -> Evidence:
    """From a file, or from its content. Raises InputError for anything else."""
    where = "the evidence" if isinstance(source, bytes) else str(source)
    try:
        table = pq.read_table(io.BytesIO(source) if isinstance(source, bytes) else source)
        metadata = {k.decode(): v for k, v in (table.schema.metadata or {}).items()}
    except FileNotFoundError:
        raise InputError(f"{where}: no such file.") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{where} is not a readable Parquet file: {error}") from None
    if metadata.get("ct_llm.evidence", b"").decode() != FORMAT or not table.schema.equals(SCHEMA):
        raise InputError(
            f"{where} is not a verdict's evidence in format {FORMAT}: columns "
            f"{', '.join(table.schema.names)}. `ct-llm gate` writes such a file."
        )
    try:
        config = GateConfig.model_validate_json(metadata["ct_llm.config"])
        result = EvalResult.model_validate_json(metadata["ct_llm.result"])
        decision = GateDecision.model_validate_json(metadata["ct_llm.decision"])
    except (KeyError, ValidationError) as error:
        raise InputError(
            f"{where}: its metadata cannot be read by this version of ct_llm: {error}"
        ) from None
    rows = table.to_pylist()
    items = [OrderedItem(r["slice"], r["item_id"], r["task"], r["cluster"]) for r in rows]
    scores = [
        ItemScore.model_construct(
            slice=row["slice"],
            task=row["task"],
            item_id=row["item_id"],
            adapter=side,
            score=row[side],
            prompt="",
            output="",
        )
        for row in rows
        for side in SIDES
        if row[side] is not None
    ]
    return Evidence(config, result, tuple(items), tuple(scores), decision)


def recompute(evidence: Evidence) -> GateDecision:
    """The decision that follows from items and scores, in the words of this version.

    Raises InputError naming the first difference from the decision that was published in anything
    that decides, or what is wrong with the order or the scores.
    """
    try:
        found = gate(evidence.config, evidence.result, evidence.items, evidence.scores)
    except CtError as error:
        raise InputError(f"{DOES_NOT_FOLLOW} {error}") from None
    for where, said, follows in _differences(evidence.decision, found):
        raise InputError(
            f"{DOES_NOT_FOLLOW} {where} is {said!r} in the decision, but {follows!r} by the scores."
        )
    return found


def _differences(said: GateDecision, follows: GateDecision) -> Iterator[tuple[str, Any, Any]]:
    """What decides and differs, with its name."""
    tests, found_tests = _tests(said), _tests(follows)
    if sorted(tests) != sorted(found_tests):
        yield "the list of tests", ", ".join(sorted(tests)), ", ".join(sorted(found_tests))
        return
    recorded = dict(zip(tests, said.slices, strict=True))
    for test, found in zip(found_tests, follows.slices, strict=True):
        one = recorded[test]
        yield from _fields(f"{test}: ", OF_TEST, vars(one), vars(found))
        yield from _fields(f"{test}: ", OF_EVIDENCE, one.evidence, found.evidence)
    yield from _fields("", OF_DECISION, vars(said), vars(follows))


def _tests(decision: GateDecision) -> list[str]:
    return [f"{s.slice} ({s.role})" for s in decision.slices]


def _fields(
    place: str, names: Sequence[str], said: Mapping[str, Any], follows: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    for name in names:
        a, b = said.get(name), follows.get(name)
        if not _same(a, b, CLOSE if name in SEARCHED else EXACT):
            yield f"{place}{name}", a, b


def _same(said: Any, follows: Any, tolerance: float) -> bool:
    numbers = all(isinstance(x, float | int) and not isinstance(x, bool) for x in (said, follows))
    if numbers:
        return math.isclose(said, follows, rel_tol=tolerance, abs_tol=tolerance)
    return type(said) is type(follows) and said == follows
