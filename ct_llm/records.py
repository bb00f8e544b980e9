"""What travels between the steps: frozen models, without I/O.

Times are UTC in ISO 8601, revisions are full commit shas, digests are sha256 in hex.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["promote", "reject", "inconclusive"]
SliceState = Literal["PASS", "FAIL", "UNDECIDED", "NOT_EVALUATED"]
StepName = Literal["watch", "prepare", "train", "evaluate", "gate", "promote"]
STEPS: tuple[StepName, ...] = ("watch", "prepare", "train", "evaluate", "gate", "promote")


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# ---------------------------------------------------------------- lineage: what a champion has seen


class SeenDataset(Record):
    repo: str
    revision: str
    """Everything in the dataset repo at this revision counts as seen."""
    num_rows: int


class Lineage(Record):
    """Where an adapter comes from; `ct/lineage.json` in the champion's commit."""

    version: int
    """1, 2, 3, ...: the number in the tag `vN`."""
    cycle_id: str
    adapter_digest: str
    base_model: str
    base_revision: str
    parent_revision: str | None
    """The champion that it was compared with; none for the first."""
    datasets: tuple[SeenDataset, ...]
    created_at: str
    ct_llm_version: str
    library_versions: dict[str, str] = {}
    rolled_back_from: str | None = None
    """Set by a rollback: the revision that was the head before."""
    rolled_back_to: int | None = None
    """Set by a rollback: the version that first held this adapter."""
    reason: str | None = None
    """Set by a rollback: why."""


class ChampionRef(Record):
    """The promoted adapter: `main` of the adapter repo, at one revision."""

    repo: str
    revision: str
    version: int
    """0 for an adapter that somebody put there without ct_llm."""
    lineage: Lineage | None
    """None for such an adapter: nothing is known of the data it has seen."""


# ---------------------------------------------------------------- watch


class DataFile(Record):
    path: str
    content_id: str
    """sha256 of the content (LFS) or git blob sha: the same content has the same id under any name."""
    num_bytes: int
    num_rows: int | None
    """None where counting was not needed: the champion or the last attempt has used the file."""
    seen: bool
    """The champion's lineage holds this content."""


class DatasetSnapshot(Record):
    repo: str
    revision: str
    seen_revision: str | None
    """The revision that the champion was trained on; none: it has seen nothing of this repo."""
    files: tuple[DataFile, ...]
    removed_files: tuple[DataFile, ...] = ()
    """Content the champion has seen that is no longer in the repo (deleted or rewritten)."""
    num_rows: int
    """All rows at `revision`."""
    num_unseen_rows: int
    """Rows that the champion has not been trained on: what a cycle trains on."""
    num_new_rows: int
    """Of those, rows that the last attempt has not used either: what the trigger counts."""
    notes: tuple[str, ...] = ()
    """What happened to the repo since, in words: rewritten or removed files, lost history, ..."""


class DataSnapshot(Record):
    datasets: tuple[DatasetSnapshot, ...]
    num_unseen_rows: int
    num_new_rows: int


class TriggerReason(Record):
    rule: str
    value: float
    threshold: float
    met: bool
    sentence: str


class TriggerDecision(Record):
    should_train: bool
    sentence: str
    reasons: tuple[TriggerReason, ...]
    """Every rule, for and against."""
    checked_at: str

    def __bool__(self) -> bool:
        """`if check_for_retraining_trigger(): ...` means what it says."""
        return self.should_train


# ---------------------------------------------------------------- prepare


class PreparedData(Record):
    """Parquet files in the cycle's folder; paths are relative to it.

    train and holdout: `row_id` (sha256 of the normalised messages), `messages` (JSON), `source`,
    `repo`, `path`, `row_index`, and `replay` (bool) in train. quarantine: `repo`, `path`,
    `row_index`, `reason`, `original` (JSON or text).
    """

    train_path: str
    holdout_path: str
    quarantine_path: str
    num_train: int
    num_replay: int
    """Of num_train, rows that the champion has already seen."""
    num_holdout: int
    num_quarantined: int
    rows_read: int
    counts: dict[str, int]
    """Rows by fate: `quarantined:<reason>`, `duplicate`, `seen_before`, `train`, `holdout`, ..."""
    counts_by_source: dict[str, int]
    digest: str
    """Of train and holdout rows, in order."""
    notes: tuple[str, ...] = ()
    """What could not be had, in words: removed files that history no longer holds, ..."""


# ---------------------------------------------------------------- train


class TrainedAdapter(Record):
    path: str
    """Folder relative to the cycle's folder: adapter_model.safetensors, adapter_config.json, tokenizer."""
    digest: str
    base_model: str
    base_revision: str
    started_from: str | None
    """Revision of the champion whose adapter was continued; none: a fresh adapter."""
    num_rows: int
    num_steps: int
    seconds: float
    metrics: dict[str, float]
    """train_loss_first, train_loss_last, grad_norm_max, tokens, tokens_per_second, ..."""
    loss_curve: tuple[tuple[int, float], ...] = ()
    library_versions: dict[str, str] = {}


# ---------------------------------------------------------------- evaluate


class ItemScore(Record):
    slice: str
    task: str
    item_id: str
    """`<task>/<doc_id>/<first 16 hex of the doc's hash>`: unique within a slice."""
    adapter: Literal["champion", "challenger"]
    score: float
    prompt: str
    output: str


class SliceScores(Record):
    """What the gate must know of one slice, beside its item scores."""

    slice: str
    tasks: tuple[str, ...]
    num_items: int
    tolerance: float
    floor: float | None = None
    score_step: float | None = None
    score_low: float = 0.0
    score_high: float = 1.0
    order_seed: int
    """The items' order in the scores file is a random permutation drawn from it before any score."""
    order_digest: str
    not_evaluated: str | None = None
    """Why the slice has no scores; a gate never promotes then."""


class EvalResult(Record):
    slices: tuple[SliceScores, ...]
    scores_path: str
    """Parquet of ItemScore, relative to the cycle's folder; slices one after another, in item order."""
    scores_digest: str
    challenger_digest: str
    champion_digest: str | None
    """None: the base model itself was the champion."""
    champion_revision: str | None
    base_model: str
    base_revision: str
    seconds: float
    library_versions: dict[str, str] = {}


# ---------------------------------------------------------------- gate


class SliceVerdict(Record):
    slice: str
    role: Literal["guard", "target"]
    state: SliceState
    num_items: int
    num_used: int
    champion_mean: float | None
    challenger_mean: float | None
    delta: float | None
    lower: float | None
    """One-sided lower bound of delta at alpha_pass (of the full evaluation)."""
    upper: float | None
    threshold: float
    """The delta needed: -tolerance for a guard, +min_gain for the target."""
    strict: bool
    floor: float | None = None
    floor_met: bool | None = None
    in_percent: bool = True
    """Scores lie in [0, 1], so people read them in percent and points."""
    wins: int = 0
    losses: int = 0
    ties: int = 0
    evidence: dict[str, float | int | str | bool | None] = {}
    """The rest of the report: seed, order digest, log e-values, p-values, descriptive figures."""
    sentence: str


class DamagedItem(Record):
    """An item on which the challenger did worse."""

    slice: str
    item_id: str
    delta: float
    prompt: str
    champion_output: str
    challenger_output: str


class GateDecision(Record):
    verdict: Verdict
    sentence: str
    slices: tuple[SliceVerdict, ...]
    overall_champion_mean: float | None
    """Mean over guard slices, each of the same weight; printed, never decided on."""
    overall_challenger_mean: float | None
    alpha: float
    challenger_digest: str
    champion_revision: str | None
    champion_digest: str | None
    scores_digest: str
    damaged_items: tuple[DamagedItem, ...] = ()

    def __bool__(self) -> bool:
        """`if validate_new_model(...): deploy()` means what it says: only a promotion is true."""
        return self.verdict == "promote"


# ---------------------------------------------------------------- promote, ledger


class PromotionRecord(Record):
    outcome: Literal["promoted", "review"]
    repo: str
    revision: str | None
    """The champion's new revision, when promoted."""
    version: int | None
    tag: str | None
    parent_revision: str | None
    review_number: int | None = None
    """The Hub pull request that holds a challenger that was not promoted."""
    url: str


class CycleSummary(Record):
    """One entry of the ledger (branch `ledger` of the adapter repo, `cycles/<cycle_id>.json`)."""

    cycle_id: str
    kind: Literal["cycle", "rollback"] = "cycle"
    outcome: Literal["promoted", "rejected", "inconclusive", "rolled_back"]
    sentence: str
    version: int | None
    revision: str | None
    parent_revision: str | None
    challenger_digest: str | None
    review_number: int | None = None
    datasets: tuple[SeenDataset, ...] = ()
    """The data revisions that the attempt used, whatever came of it."""
    slices: tuple[SliceVerdict, ...] = ()
    num_train: int | None = None
    seconds_by_step: dict[str, float] = {}
    finished_at: str


class CycleRequest(Record):
    """`cycle.json`: what one cycle was asked to do, written before its first step."""

    cycle_id: str
    created_at: str
    adapter_repo: str
    head_revision: str | None
    """`main` of the adapter repo when the cycle began, the parent of a promotion; none: no repo yet."""
    champion: ChampionRef | None
    """None where `main` holds no adapter."""
    data: DataSnapshot
    decision: TriggerDecision
    ct_llm_version: str
