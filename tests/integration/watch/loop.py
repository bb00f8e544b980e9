"""Cycles that end on the Hub as real ones do, without their training; and looks at what they leave."""

from ct_llm.config import CTConfig, GateConfig, load_config
from ct_llm.cycle import Cycle
from ct_llm.cycle_dir import CycleDir, WorkDir
from ct_llm.digests import adapter_digest
from ct_llm.evaluation import EVIDENCE
from ct_llm.gate.evidence import evidence_of, write_evidence
from ct_llm.hub.adapter_repo import ensure_writable, read_head
from ct_llm.pipeline import find_cycle, keep_state, look
from ct_llm.records import (
    EvalResult,
    GateDecision,
    PreparedData,
    StepName,
    TrainedAdapter,
    Verdict,
)
from ct_llm.watch.watch import Watched
from tests.loop_world import LoopWorld
from tests.unit.gate.evaluations import evaluation, right_wrong
from tests.unit.promote.cycle_records import decide, prepared, trained, write_adapter


def config_of(world: LoopWorld) -> CTConfig:
    world.write_config()
    return load_config(world.config_path)


def end_cycle(world: LoopWorld, verdict: Verdict = "promote") -> str:
    """A forced cycle, from its beginning to its entry in the ledger; its id."""
    config = config_of(world)
    head = read_head(world.api, world.adapter)
    request = find_cycle(config, world.api, head, force=True).request
    assert request is not None
    parent = ensure_writable(world.api, head, private=False)
    folder = WorkDir(config.work_dir).cycle(request.cycle_id)
    folder.begin(request.model_copy(update={"head_revision": parent}))
    folder.write_config(config)
    adapter = write_adapter(folder.path / "adapter", seed=int(request.cycle_id[1:], 16) % 2**32)
    _finished(folder, "prepare", prepared())
    _finished(folder, "train", trained(adapter))
    champion = request.champion.revision if request.champion else None
    decision = decide(adapter_digest(adapter), verdict, champion_revision=champion)
    result, items, scores = evaluation({"newest": right_wrong(20, 50)})
    _finished(folder, "evaluate", result)
    _finished(folder, "gate", decision)
    evidence = evidence_of(GateConfig(target="newest"), result, items, scores, decision)
    write_evidence(folder.path / EVIDENCE, evidence)
    cycle = Cycle(config, folder, world.api, lambda _: None)
    cycle.promote()
    cycle.finish()
    return request.cycle_id


def _finished(
    folder: CycleDir,
    step: StepName,
    output: PreparedData | TrainedAdapter | EvalResult | GateDecision,
) -> None:
    config = folder.config().watch
    folder.step(step, config=config, inputs=[], output=type(output), run=lambda: output)


def tick(world: LoopWorld) -> Watched:
    """What a bare `ct-llm watch` does."""
    config = config_of(world)
    watched = look(config, world.api, read_head(world.api, world.adapter))
    keep_state(config, watched.state, watched.decision)
    return watched
