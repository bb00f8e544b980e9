"""`ct-llm recheck`: compute a cycle's verdict again from its evidence, as a stranger would."""

from pathlib import Path

import typer

from ct_llm import errors
from ct_llm.cli import show
from ct_llm.config import load_config
from ct_llm.cycle_dir import CycleDir
from ct_llm.errors import HubNotFoundError, InputError
from ct_llm.evaluation import EVIDENCE, same_verdict
from ct_llm.gate.evidence import read_evidence, recompute
from ct_llm.hub.client import hub_api, read_file
from ct_llm.hub.ledger import BRANCH, evidence_path, read_entry
from ct_llm.records import GateDecision


def recheck(cycle: str, config: Path, sets: list[str], as_json: bool) -> int:
    """Exit 0 where the evidence gives the recorded verdict, 40 where it does not.

    cycle: a cycle's folder, or the id of one on the ledger of the config's adapter repo. Raises
    InputError where there is no evidence, or it is none.
    """
    folder = CycleDir(Path(cycle))
    if (folder.path / "cycle.json").is_file():
        where = str(folder.path / EVIDENCE)
        evidence, problem = read_evidence(folder.path / EVIDENCE), None
        recorded = folder.output("gate", GateDecision)
        if not same_verdict(evidence.decision, recorded):
            problem = (
                f"The decision in {where} is not the one in {folder.path / 'gate.json'}: one of "
                "them was changed, so rely on neither."
            )
    else:
        loaded = load_config(config, sets)
        repo, path = loaded.adapter_repo, evidence_path(cycle)
        where = f"{repo}, branch {BRANCH}: {path}"
        api = hub_api(loaded.hub)
        content = read_file(api, repo, path, BRANCH, "model")
        if content is None:
            raise HubNotFoundError(
                f"{cycle}: neither a cycle's folder here nor a cycle with evidence on the ledger of "
                f"{repo}. `ct-llm history` lists the cycles."
            )
        evidence, problem = read_evidence(content), None
        entry = read_entry(api, repo, cycle)
        # The outcome may be another: a person may have merged the review.
        if entry is None or entry.slices != evidence.decision.slices:
            problem = (
                f"The decision in {where} is not the one in the ledger's entry: one of them was "
                "changed, so rely on neither."
            )
    decision = evidence.decision
    if problem is None:
        try:
            # Its words, not the recorded ones: those are not compared.
            decision = recompute(evidence)
        except InputError as error:
            problem = f"{where}: {error}"
    _say(cycle, where, decision, problem, as_json)
    return 0 if problem is None else errors.EXIT_SECURITY


def _say(
    cycle: str, where: str, decision: GateDecision, problem: str | None, as_json: bool
) -> None:
    if as_json:
        show.as_json(
            {
                "cycle": cycle,
                "same": problem is None,
                "problem": problem,
                "recorded_verdict": decision.verdict,
                "challenger_digest": decision.challenger_digest,
            }
        )
    elif problem is None:
        typer.echo(f"{where}: the scores give the recorded verdict, {decision.verdict}.")
        typer.echo(decision.sentence)
    else:
        typer.echo(problem)
