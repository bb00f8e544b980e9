"""A cycle's records, as the steps before would have left them, around a small adapter."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ct_llm.digests import adapter_digest
from ct_llm.hub.adapter_repo import AdapterHead
from ct_llm.records import (
    CycleRequest,
    DamagedItem,
    DataFile,
    DatasetSnapshot,
    DataSnapshot,
    GateDecision,
    Lineage,
    PreparedData,
    SeenDataset,
    SliceState,
    SliceVerdict,
    TrainedAdapter,
    TriggerDecision,
    Verdict,
)

REVISION = "d" * 40


def write_adapter(folder: Path, seed: int, *, extra: dict[str, str] | None = None) -> Path:
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).standard_normal((8, 16)).astype(np.float32)
    save_file(
        {"base_model.model.q_proj.lora_A.weight": values}, folder / "adapter_model.safetensors"
    )
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "acme/base", "seed": seed}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, text in (extra or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def trained(folder: Path, **changes: Any) -> TrainedAdapter:
    record = TrainedAdapter(
        path="adapter",
        digest=adapter_digest(folder),
        base_model="acme/base",
        base_revision="b" * 40,
        started_from=None,
        num_rows=100,
        num_steps=7,
        seconds=1.0,
        metrics={},
    )
    return record.model_copy(update=changes)


def snapshot(num_rows: int = 120, revision: str = REVISION) -> DataSnapshot:
    file = DataFile(
        path="rows.parquet",
        content_id=revision,
        num_bytes=1_000,
        num_rows=num_rows,
        seen=False,
    )
    dataset = DatasetSnapshot(
        name="rows",
        repo="acme/rows",
        revision=revision,
        as_of="2026-11-23T16:00:00Z",
        seen_revision=None,
        files=(file,),
        num_rows=num_rows,
        num_unseen_rows=num_rows,
        num_new_rows=num_rows,
    )
    return DataSnapshot(datasets=(dataset,), num_unseen_rows=num_rows, num_new_rows=num_rows)


def prepared() -> PreparedData:
    return PreparedData(
        train_path="data/train.parquet",
        holdout_path="data/holdout.parquet",
        historic_holdout_path="data/holdout_historic.parquet",
        quarantine_path="data/quarantine.parquet",
        report_path="data/report.json",
        num_train=1100,
        num_replay=100,
        num_holdout=10,
        num_historic_holdout=0,
        num_quarantined=3,
        num_contaminated=0,
        rows_read=1213,
        counts={},
        counts_by_source={},
        digest="e" * 64,
    )


def request(
    head: AdapterHead, cycle_id: str = "c1", data: DataSnapshot | None = None
) -> CycleRequest:
    return CycleRequest(
        cycle_id=cycle_id,
        created_at="2026-11-24T16:00:00Z",
        adapter_repo=head.repo,
        head_revision=head.revision,
        champion=head.champion,
        data=data or snapshot(),
        decision=TriggerDecision(
            should_train=True,
            sentence="120 new rows.",
            reasons=(),
            checked_at="2026-11-24T16:00:00Z",
        ),
        ct_llm_version="0.1.0",
    )


def slice_verdict(name: str = "coding", state: SliceState = "PASS", **changes: Any) -> SliceVerdict:
    verdict = SliceVerdict(
        slice=name,
        role="guard",
        state=state,
        num_items=400,
        num_used=400,
        champion_mean=0.5,
        challenger_mean=0.525,
        delta=0.025,
        lower=0.01,
        upper=0.04,
        threshold=-0.02,
        strict=False,
        sentence=f"{name} rose.",
    )
    return verdict.model_copy(update=changes)


def decide(digest: str, verdict: Verdict = "promote", **changes: Any) -> GateDecision:
    decision = GateDecision(
        verdict=verdict,
        sentence="newest rose by 2.5 points and no other slice lost more than its tolerance.",
        slices=(
            slice_verdict(state="FAIL" if verdict == "reject" else "PASS"),
            slice_verdict("newest", role="target", strict=True, threshold=0.0),
        ),
        overall_champion_mean=0.5,
        overall_challenger_mean=0.525,
        alpha=0.05,
        challenger_digest=digest,
        champion_revision=None,
        champion_digest=None,
        scores_digest="f" * 64,
    )
    return decision.model_copy(update=changes)


def damaged_item(**changes: Any) -> DamagedItem:
    item = DamagedItem(
        slice="coding",
        item_id="sums/3/0123456789abcdef",
        delta=-1.0,
        prompt="SECRET-PROMPT: add 2 and 2",
        champion_output="4",
        challenger_output="SECRET-OUTPUT: 22",
    )
    return item.model_copy(update=changes)


def lineage(version: int = 3, **changes: Any) -> Lineage:
    record = Lineage(
        version=version,
        cycle_id="c1",
        adapter_digest="a" * 64,
        base_model="acme/base",
        base_revision="b" * 40,
        parent_revision=None,
        datasets=(SeenDataset(name="rows", repo="acme/rows", revision=REVISION, num_rows=120),),
        created_at="2026-11-24T16:00:00Z",
        ct_llm_version="0.1.0",
    )
    return record.model_copy(update=changes)
