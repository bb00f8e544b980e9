"""One verdict, as the loop makes it, in a process of its own: scores until certain, then the gate.

    python -m scripts.bench.verdict_once REQUEST.json

REQUEST.json is an `EvaluationRequest`; the decision is written beside it, as decision.json, last. With
one adapter alone every item is scored, and there is nothing to decide.
"""

import sys
from pathlib import Path

from ct_llm.cycle_dir import read_record, write_record
from ct_llm.evaluate.journal import remove_journal
from ct_llm.evaluation import (
    EvaluationRequest,
    decide,
    evaluate_until_decided,
    open_scores,
    resolved_gate,
)
from ct_llm.hub.client import BaseModelFolder

DECISION, RESULT = "decision.json", "result.json"


def main() -> None:
    path = Path(sys.argv[1])
    request = read_record(path, EvaluationRequest)
    if "champion" not in request.adapters:
        score_all(request)
    else:
        decide_between(request, path)


def score_all(request: EvaluationRequest) -> None:
    from ct_llm.evaluate.evaluate import evaluate

    evaluate(
        request.config,
        request.suites,
        base=BaseModelFolder(request.base_folder, request.base_repo, request.base_revision),
        base_config=request.base_config,
        adapters=request.adapters,
        holdout=request.holdout,
        folder=request.folder,
        store=None if request.scores is None else open_scores(request.scores.cache),
    )


def decide_between(request: EvaluationRequest, path: Path) -> None:
    if path.with_name(DECISION).exists():  # as a cycle's step, which is not run again either
        return
    result = evaluate_until_decided(
        request.config,
        request.gate,
        request.suites,
        base=BaseModelFolder(request.base_folder, request.base_repo, request.base_revision),
        base_config=request.base_config,
        adapters=request.adapters,
        revisions=request.revisions,
        holdout=request.holdout,
        folder=request.folder,
        scores=request.scores,
        cached_sides=request.cached_sides,
    )
    gate = resolved_gate(request.gate, request.config, request.suites)
    write_record(path.with_name(RESULT), result)
    write_record(path.with_name(DECISION), decide(gate, result, request.folder))
    remove_journal(request.folder)


if __name__ == "__main__":
    main()
