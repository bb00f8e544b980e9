"""Score until the gate is sure: the step `evaluate` with the gate's rule and what is known already.

`evaluate` decides nothing and `gate` scores nothing; here the rule of the one is handed to the
other. Over several processes each of them runs this module (`python -m ct_llm.evaluation
REQUEST.json`) under `accelerate launch`, and they talk to the step through files:

    <folder>/evaluation/request.json    EvaluationRequest, written before they start
    <folder>/evaluation/progress.json   the newest EvaluateProgress
    <folder>/evaluation/log.txt         everything they printed
    <folder>/evaluation/error.json      ProcessFailure, when they know what was wrong
    <folder>/evaluation/result.json     EvalResult, written last
"""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from ct_llm.config import (
    BaseModelConfig,
    EvaluateConfig,
    GateConfig,
    HubConfig,
    Suite,
    resolve_target,
    shipped,
)
from ct_llm.cycle_dir import read_record, write_atomically, write_record
from ct_llm.digests import fingerprint
from ct_llm.errors import ConfigError, CtError, InputError
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluate.score_store import LocalScores, ScoreStore, adapter_key
from ct_llm.hub.client import BaseModelFolder, hub_api, use_endpoint
from ct_llm.hub.ledger import evidence_path
from ct_llm.hub.ledger_scores import Key, LedgerScores, changed_files
from ct_llm.launch.local import accelerate_command, environment, note_failure, run_step
from ct_llm.launch.process import stop_with_parent
from ct_llm.records import (
    EvalResult,
    GateDecision,
    ItemScore,
    KnownScore,
    OrderedItem,
    Record,
    Side,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OnProgress = Callable[[EvaluateProgress], None]
EVIDENCE = "evidence.parquet"
"""In the cycle's folder: what the decision rests on, without a text of any item."""
COMPARED_WITH: tuple[Side, ...] = ("champion", "anchor")
"""Whose known scores count in a cycle: the challenger is new, and is asked everything."""


class ScoresAt(Record):
    """Where scores are kept, so that no adapter answers the same question twice."""

    cache: Path
    """Folder on this disk."""
    repo: str | None = None
    """Adapter repo whose ledger is read too; none: this disk alone."""
    hub: HubConfig = HubConfig()


class EvaluationRequest(Record):
    """All that a process of an evaluation must know; paths are absolute."""

    config: EvaluateConfig
    gate: GateConfig
    suites: tuple[Suite, ...]
    base_folder: Path
    base_repo: str
    base_revision: str
    base_config: BaseModelConfig
    adapters: dict[Side, Path | None]
    revisions: dict[Side, str | None]
    holdout: Path | None
    folder: Path
    scores: ScoresAt | None
    cached_sides: tuple[Side, ...]


def evaluate_until_decided(
    config: EvaluateConfig,
    gate: GateConfig,
    suites: Sequence[Suite],
    *,
    base: BaseModelFolder,
    base_config: BaseModelConfig,
    adapters: Mapping[Side, Path | None],
    revisions: Mapping[Side, str | None],
    holdout: Path | None,
    folder: Path,
    scores: ScoresAt | None = None,
    cached_sides: Collection[Side] = COMPARED_WITH,
    on_progress: OnProgress | None = None,
) -> EvalResult:
    """Score the adapters on every suite and the held-out newest rows until the verdict is certain.

    gate: the one that decides afterwards. adapters: folders; None for the base model itself. scores:
    where new scores are kept and known ones looked up; none: nothing is. cached_sides: the sides
    whose known scores are used. With `config.num_processes` above 1, that many processes share each
    batch. Raises what `evaluate` raises, and StepFailedError where a process died.
    """
    request = EvaluationRequest(
        config=config,
        gate=resolved_gate(gate, config, suites),
        suites=tuple(suites),
        base_folder=base.folder.resolve(),
        base_repo=base.repo,
        base_revision=base.revision,
        base_config=base_config,
        adapters={side: path and path.resolve() for side, path in adapters.items()},
        revisions=dict(revisions),
        holdout=holdout and holdout.resolve(),
        folder=folder.resolve(),
        scores=scores,
        cached_sides=tuple(side for side in adapters if side in cached_sides),
    )
    if config.num_processes > 1:
        return _over_processes(request, on_progress)
    return _here(request, on_progress)


def resolved_gate(
    gate: GateConfig, evaluation: EvaluateConfig, suites: Sequence[Suite]
) -> GateConfig:
    """The gate with its target named, for the rule and the decision alike.

    Raises ConfigError for a target that is none of the slices, and for two suites that say they are
    it while the config names none.
    """
    newest = evaluation.newest
    others = ["newest"] * newest.enabled
    others += ["newest_generated"] * (newest.enabled and newest.generated.enabled)
    return resolve_target(gate, suites, others)


def gate_digest(gate: GateConfig) -> str:
    """Of everything in it that says when an evaluation may stop; with its target named."""
    return fingerprint(gate.model_dump(mode="json", exclude={"num_damaged_items"}))


def gate_cycle_files(gate_config: GateConfig, result: EvalResult, folder: Path) -> GateDecision:
    """The gate's decision on an evaluation whose files lie in `folder`; written nowhere.

    gate_config: with its target named. Raises InputError when the files are not those that the
    evaluation wrote.
    """
    from ct_llm.gate.gate import gate

    return gate(gate_config, result, *_files(result, folder))


def decide(gate_config: GateConfig, result: EvalResult, folder: Path) -> GateDecision:
    """As above, with the evidence beside it: `EVIDENCE`, from which anybody can decide again.

    Raises InputError too for another gate than the one that stopped the evaluation: whoever chooses
    alpha or target after a look at the scores has chosen the verdict.
    """
    if result.gate_digest != gate_digest(gate_config):
        raise InputError(
            f"{folder}: the items were scored until another gate was sure (alpha, target, min_gain, "
            "mode or anchor differ). Run `ct-llm evaluate` with this configuration, which draws a new "
            "order; `ct-llm gate --dry-run` only says what it would decide."
        )
    from ct_llm.gate.evidence import evidence_of, write_evidence
    from ct_llm.gate.gate import gate

    items, scores = _files(result, folder)
    decision = gate(gate_config, result, items, scores)
    write_evidence(folder / EVIDENCE, evidence_of(gate_config, result, items, scores, decision))
    return decision


def same_verdict(one: GateDecision, other: GateDecision) -> bool:
    """The same decision on the same adapters; the texts of items may be left out of one."""
    without = {"damaged_items"}
    return one.model_dump(exclude=without) == other.model_dump(exclude=without)


def _files(result: EvalResult, folder: Path) -> tuple[list[OrderedItem], list[ItemScore]]:
    from ct_llm.evaluate.scores import read_items, read_scores

    return (
        read_items(folder / result.items_path, result.items_digest),
        read_scores(folder / result.scores_path, result.scores_digest),
    )


def _here(request: EvaluationRequest, on_progress: OnProgress | None) -> EvalResult:
    from ct_llm.evaluate.evaluate import evaluate
    from ct_llm.gate.stopping import stopping_rule

    at = request.scores
    digest = gate_digest(request.gate)
    # A fresh order for another gate, as for another challenger.
    seed = int(fingerprint([request.config.order_seed, digest])[:8], 16)
    result = evaluate(
        request.config.model_copy(update={"order_seed": seed}),
        request.suites,
        base=BaseModelFolder(request.base_folder, request.base_repo, request.base_revision),
        base_config=request.base_config,
        adapters=request.adapters,
        revisions=request.revisions,
        holdout=request.holdout,
        folder=request.folder,
        # Where all items together are the target, they are drawn from all slices together.
        schedule="pooled" if request.gate.target in ("pooled", "weighted") else "slices",
        stopping=stopping_rule(request.gate),
        store=None if at is None else open_scores(at.cache, at.repo, at.hub),
        cached_sides=request.cached_sides,
        on_progress=on_progress,
    )
    return result.model_copy(update={"gate_digest": digest})


# ---------------------------------------------------------------- what is known already


class LedgerBackedScores:
    """The scores on this disk, and those of the ledger; new ones go to the disk.

    They come to the ledger with the cycle's entry: see `kept_with_entry`.
    """

    def __init__(self, local: LocalScores, ledger: LedgerScores) -> None:
        self._local = local
        self._ledger = ledger
        self._fetched: set[Key] = set()

    def read(self, adapter: str, context: str) -> Mapping[str, KnownScore]:
        """Raises HubAccessError, HubUnavailableError, StorageError."""
        if (adapter, context) not in self._fetched:
            known = self._local.read(adapter, context)
            # What was scored here has its whole output; the ledger's may be cut short.
            self._local.write(adapter, context, {**self._ledger.read(adapter, context), **known})
            self._fetched.add((adapter, context))
        return self._local.read(adapter, context)

    def write(self, adapter: str, context: str, scores: Mapping[str, KnownScore]) -> None:
        self._local.write(adapter, context, scores)


def open_scores(cache: Path, repo: str | None = None, hub: HubConfig | None = None) -> ScoreStore:
    """The scores below `cache`, and those on the ledger of `repo`. Makes no request yet."""
    local = LocalScores(cache)
    if repo is None:
        return local
    return LedgerBackedScores(local, LedgerScores(hub_api(hub or HubConfig()), repo))


def kept_with_entry(
    folder: Path,
    result: EvalResult,
    decision: GateDecision,
    scores: ScoresAt,
    api: "HfApi",
    *,
    texts: bool,
) -> Callable[[str], dict[str, bytes]]:
    """What the ledger keeps beside the entry of the cycle in `folder`, by the commit that it goes on.

    That is the verdict's evidence, and what is known of every adapter of the cycle, so that none of
    them is asked the same again; without a repo in `scores`, the evidence alone. texts: the models'
    answers may leave this machine. Raises InputError where the evidence is of another decision; the
    function it gives raises HubAccessError and HubUnavailableError.
    """
    from ct_llm.gate.evidence import read_evidence

    path, repo = folder / EVIDENCE, scores.repo
    if not same_verdict(read_evidence(path).decision, decision):
        raise InputError(
            f"{path} is not the evidence of this cycle's decision: it was changed by hand. Remove "
            f"{folder / 'gate.json'}, then run `ct-llm gate` and `promote` again."
        )
    # A cycle's folder has the name of the cycle.
    files = {evidence_path(folder.name): path.read_bytes()}
    if repo is None:
        return lambda _: files
    digests = {result.champion_digest, result.challenger_digest}
    digests |= {result.anchor_digest} if result.anchor_digest else set()
    local = LocalScores(scores.cache)
    known = {
        (adapter, context): found
        for adapter in {adapter_key(digest, result.base_revision) for digest in digests}
        for context, found in local.read_all(adapter).items()
    }
    return lambda head: files | changed_files(api, repo, head, known, texts=texts)


# ---------------------------------------------------------------- several processes


def _over_processes(request: EvaluationRequest, on_progress: OnProgress | None) -> EvalResult:
    folder, num_processes = _files_of(request.folder), request.config.num_processes
    (folder / "progress.json").unlink(missing_ok=True)
    write_record(folder / "request.json", request)
    run_step(
        accelerate_command(
            shipped("accelerate_config.yaml"),
            "ct_llm.evaluation",
            str(folder / "request.json"),
            options=(
                "--multi_gpu",
                *("--num_processes", str(num_processes)),
                "--main_process_port=0",
            ),
        ),
        what="evaluation",
        log=folder / "log.txt",
        error=folder / "error.json",
        result=folder / "result.json",
        env=environment(num_processes, offline=False),
        on_poll=ProgressReader(folder / "progress.json", on_progress).poll,
    )
    return read_record(folder / "result.json", EvalResult)


def _files_of(folder: Path) -> Path:
    return folder / "evaluation"


PROGRESS: TypeAdapter[EvaluateProgress] = TypeAdapter(EvaluateProgress)


class ProgressReader:
    """Reads the progress file when it has changed; only the newest state is in it."""

    def __init__(self, path: Path, on_progress: OnProgress | None) -> None:
        self._path = path
        self._on_progress = on_progress
        self._seen: bytes | None = None

    def poll(self) -> None:
        if self._on_progress is None or not self._path.exists():
            return
        content = self._path.read_bytes()
        if content != self._seen:
            self._seen = content
            self._on_progress(PROGRESS.validate_json(content))


def main(arguments: Sequence[str] | None = None) -> int:
    """One process of an evaluation, as `accelerate launch` starts it."""
    path = Path((arguments or sys.argv[1:])[0])
    stop_with_parent()
    folder = path.parent
    try:
        request = read_record(path, EvaluationRequest)
        if request.scores is not None:
            use_endpoint(request.scores.hub.endpoint)
        is_first = _join(request.config) == 0

        def tell(progress: EvaluateProgress) -> None:
            write_atomically(folder / "progress.json", PROGRESS.dump_json(progress))

        result = _here(request, tell if is_first else None)
    except CtError as error:
        note_failure(folder / "error.json", error)
        return error.exit_code
    if is_first:
        write_record(folder / "result.json", result)
    return 0


def _join(config: EvaluateConfig) -> int:
    """This process's number. Raises ConfigError when another number than asked for was started."""
    import torch
    from accelerate import PartialState

    # Without cpu=True it would not join the other processes of a machine without GPUs. Whoever asks
    # for the state afterwards gets this one.
    state = PartialState(cpu=config.device == "cpu" or not torch.cuda.is_available())
    if state.num_processes != config.num_processes:
        raise ConfigError(
            f"evaluate.num_processes is {config.num_processes}, but {state.num_processes} were "
            "started. Set it to the number of GPUs of this machine."
        )
    return state.process_index


if __name__ == "__main__":
    sys.exit(main())
