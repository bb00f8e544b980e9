"""What travels between the steps: frozen models, without I/O.

Times are UTC in ISO 8601, revisions are full commit shas, digests are sha256 in hex.
"""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Verdict = Literal["promote", "reject", "inconclusive"]
SliceState = Literal["PASS", "FAIL", "UNDECIDED", "NOT_EVALUATED"]
Side = Literal["champion", "challenger", "anchor"]
"""An adapter's part in a comparison; anchor: an earlier champion that slow loss is measured against."""
SIDES: tuple[Side, ...] = ("champion", "challenger", "anchor")
StepName = Literal["watch", "prepare", "train", "evaluate", "gate", "promote"]
STEPS: tuple[StepName, ...] = ("watch", "prepare", "train", "evaluate", "gate", "promote")


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# ---------------------------------------------------------------- lineage: what a champion has seen


class SeenDataset(Record):
    """One dataset as a champion, or an attempt, has used it: everything there at this revision."""

    name: str
    """As the config names it: by it, a dataset is known again in the next cycle."""
    repo: str
    """Hub id, or the path or URL of a folder."""
    revision: str
    """Commit sha; for a folder the digest of its listing."""
    num_rows: int
    as_of: str | None = None
    """When the newest of these rows came, as far as the source tells."""


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
    """The champion has been trained on this content."""
    attempted: bool = False
    """The last attempt has used this content, whatever came of it."""
    revision: str | None = None
    """Where the content is to be had when it is no longer at the snapshot's revision."""


class DatasetSnapshot(Record):
    name: str
    """As the config names it."""
    repo: str
    """Hub id, or the path or URL of a folder."""
    revision: str
    """Commit sha; for a folder the digest of its listing."""
    as_of: str | None = None
    """When `revision` came to be."""
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
    counted_by: Literal["files", "rows", "bounds"] = "files"
    """files: content that was added, exact unless rows repeat. rows: files were rewritten, so their
    rows were compared one by one. bounds: rewritten, but the largest number possible decides
    nothing, so it stands here and no row was read."""
    notes: tuple[str, ...] = ()
    """What happened to the repo since, in words: rewritten or removed files, lost history, ..."""


class DataSnapshot(Record):
    datasets: tuple[DatasetSnapshot, ...]
    num_unseen_rows: int
    num_new_rows: int


class DatasetState(Record):
    """A DatasetSnapshot without its files: what a tick needs where nothing has changed."""

    name: str
    repo: str
    revision: str
    as_of: str | None
    num_rows: int
    num_unseen_rows: int
    num_new_rows: int
    counted_by: Literal["files", "rows", "bounds"]
    notes: tuple[str, ...] = ()


class SampledRow(NamedTuple):
    """A row as drift is measured on it."""

    text: str
    """All messages, one after another."""
    source: str


class DriftedFeature(Record):
    """One property of the rows, in the new rows and in those that the champion was trained on."""

    feature: str
    """e.g. `length`, `language`, `script`, `source`."""
    statistic: str
    """e.g. `Kolmogorov-Smirnov`, `total variation`."""
    value: float
    p_value: float | None
    sentence: str


class DriftReport(Record):
    """New rows against the champion's training data, on seeded samples of both."""

    num_new: int
    num_reference: int
    auc: float
    """Of a classifier that tells new rows from the champion's (0.5: it cannot). A classifier
    two-sample test, Lopez-Paz and Oquab (2017)."""
    p_value: float
    """Of the AUC, by permutation of the labels."""
    drifted: bool
    features: tuple[DriftedFeature, ...] = ()
    """The largest differences first."""
    words: tuple[str, ...] = ()
    """What the classifier knew new rows by, the strongest first."""


class TriggerReason(Record):
    rule: str
    """volume, freshness, holdout_age, drift, schedule, forced; debounce, cooldown, budget, failed."""
    kind: Literal["reason", "brake"] = "reason"
    """A reason speaks for training when met; a brake stops it when met."""
    value: float | None
    threshold: float | None
    unit: str = ""
    """rows, seconds, cycles, ..."""
    met: bool
    sentence: str


class TriggerDecision(Record):
    should_train: bool
    sentence: str
    reasons: tuple[TriggerReason, ...]
    """Every rule, for and against."""
    checked_at: str
    datasets: tuple[DatasetState, ...] = ()
    """What was counted."""
    data_age_seconds: float | None = None
    """Now minus `as_of` of the champion's newest data; none where there is no champion, or its
    sources do not say."""
    drift: DriftReport | None = None

    def __bool__(self) -> bool:
        """`if check_for_retraining_trigger(): ...` means what it says."""
        return self.should_train


# ---------------------------------------------------------------- prepare


class ContaminatedRow(Record):
    """A row that repeats an item of the evaluation."""

    repo: str
    path: str
    row_index: int
    slice: str
    item_id: str
    kind: Literal["exact", "question", "ngrams"]
    """exact: an item's text is the row's; question: a message is an item's question, whatever the
    answer; ngrams: so much of the item's wording is in the row."""
    containment: float
    """Share of the item's distinctive n-grams that the row holds; 1 for the other kinds."""


class Lengths(Record):
    """Lengths of rows: five quantiles and the mean."""

    unit: Literal["tokens", "characters"]
    num_rows: int
    """How many were measured: all, or a seeded sample."""
    minimum: int
    median: int
    p90: int
    p99: int
    maximum: int
    mean: float


class QuarantineSample(Record):
    reason: str
    repo: str
    path: str
    row_index: int
    original: str
    """Shortened."""


class DataReport(Record):
    """What became of the rows, for people: beside it lies the same as text, `data/report.txt`."""

    counts: dict[str, int]
    """Rows by fate, as in PreparedData."""
    counts_by_source: dict[str, dict[str, int]]
    """Source to fate to rows."""
    lengths: dict[str, Lengths]
    """`train` and `holdout`."""
    quarantine_samples: tuple[QuarantineSample, ...]
    """A few of each reason."""
    contaminated: tuple[ContaminatedRow, ...]
    """The first 1,000; all of them are in `data/contaminated.parquet`."""
    drift: DriftReport | None = None
    notes: tuple[str, ...] = ()


class PreparedData(Record):
    """Parquet files in the cycle's folder; paths are relative to it.

    train and holdout: `row_id` (sha256 of the normalised messages), `messages` (JSON), `tools` (JSON
    or none), `source`, `repo`, `path`, `row_index`, and `replay` (bool) in train. quarantine: `repo`,
    `path`, `row_index`, `reason`, `original` (JSON or text).
    """

    train_path: str
    holdout_path: str
    historic_holdout_path: str
    """Rows held out in earlier cycles, with the columns of the holdout."""
    quarantine_path: str
    report_path: str
    """DataReport as JSON."""
    num_train: int
    num_replay: int
    """Of num_train, rows that the champion has already seen."""
    num_holdout: int
    num_historic_holdout: int
    num_quarantined: int
    num_contaminated: int
    """Of num_quarantined, rows that repeat an item of the evaluation."""
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


class OrderedItem(NamedTuple):
    """A row of the items file: all items of all slices in their one random order."""

    slice: str
    item_id: str
    """`<task>/<doc_id>/<first 16 hex of the doc's hash>`: unique within a slice."""
    task: str
    cluster: str | None = None
    """Items of one cluster share a passage; none: the item is its own cluster."""


class KnownScore(NamedTuple):
    """What an earlier evaluation has found for one item and adapter."""

    score: float
    output: str


class ItemScore(Record):
    slice: str
    task: str
    item_id: str
    adapter: Side
    score: float
    prompt: str
    output: str


class SliceScores(Record):
    """What the gate must know of one slice, beside its item scores."""

    slice: str
    tasks: tuple[str, ...]
    num_items: int
    """N: all items, whether scored or not."""
    num_scored: int
    """n <= N: the first n items of the slice's order have a score for every side."""
    tolerance: float
    weight: float = 1.0
    floor: float | None = None
    alpha: float | None = None
    """The slice's own risk of a wrong PASS; none: the gate's."""
    score_step: float | None = None
    score_low: float = 0.0
    score_high: float = 1.0
    against_anchor: bool = False
    """The anchor was scored on this slice too."""
    not_evaluated: str | None = None
    """Why the slice has no scores; a gate never promotes then."""


class SlicePrefix(NamedTuple):
    """What is scored of one slice so far: what a stopping rule looks at."""

    scores: SliceScores
    champion: tuple[float, ...]
    """Shape [n]; likewise the challenger's and the anchor's."""
    challenger: tuple[float, ...]
    anchor: tuple[float, ...] | None = None
    champion_rest: tuple[float, ...] | None = None
    """Shape [N - n]: the champion's cached scores of what is left; none unless all are known."""
    anchor_rest: tuple[float, ...] | None = None
    clusters: tuple[str | None, ...] | None = None
    """Shape [N], of all items in the slice's order, where any has a cluster: known before any score."""


class EvalResult(Record):
    slices: tuple[SliceScores, ...]
    items_path: str
    """Parquet of OrderedItem, relative to the cycle's folder, written before the first score: all
    items in one random order, drawn from `order_seed`. A slice's order is the one induced by it."""
    items_digest: str
    order_seed: int
    gate_digest: str | None = None
    """Of the gate's configuration whose rule said when to stop; none: no rule did."""
    scores_path: str
    """Parquet of ItemScore, relative to the cycle's folder; slices one after another, in item order.
    The champion's and the anchor's may go on beyond the first `num_scored` items, from the cache."""
    scores_digest: str
    schedule: Literal["slices", "pooled"] = "slices"
    """slices: a batch of each undecided slice in turn. pooled: batches of the one order."""
    batch_items: int
    """Items between two looks of the stopping rule."""
    stopped: Literal["all", "decided", "budget"] = "all"
    """all: every item was scored. decided: the rest could not matter. budget: it ran out."""
    challenger_digest: str
    champion_digest: str | None
    """None: the base model itself was the champion."""
    champion_revision: str | None
    anchor_digest: str | None = None
    anchor_revision: str | None = None
    base_model: str
    base_revision: str
    seconds: float
    num_from_cache: int = 0
    """Of the scored items' scores, those that were known from an earlier evaluation."""
    engine: dict[str, str] = {}
    """What made the scores: engine, dtype, device, and versions of the libraries."""


# ---------------------------------------------------------------- gate


class SliceVerdict(Record):
    slice: str
    role: Literal["guard", "target", "anchor"]
    """anchor: a guard against the frozen anchor instead of the champion."""
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
    anchor_revision: str | None = None
    anchor_digest: str | None = None
    mode: Literal["sequential", "full", "population"] = "sequential"
    budget_reached: bool = False
    """Undecided because the evaluation's budget ran out."""
    items_digest: str = ""
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
    data_of: str | None = None
    """Set by a rollback: the cycle whose table (`data/<cycle_id>.parquet`) lists what was used."""
    slices: tuple[SliceVerdict, ...] = ()
    num_train: int | None = None
    seconds_by_step: dict[str, float] = {}
    finished_at: str


class PastCycle(Record):
    """What budgets and cool-downs must know of a cycle."""

    cycle_id: str
    outcome: Literal["promoted", "rejected", "inconclusive", "rolled_back"]
    finished_at: str


class WatchState(Record):
    """What the last look found, so that the next one need not look again where nothing changed."""

    inputs: str
    """Fingerprint of the config's datasets, of the champion and of the last attempt: with other ones
    what stands below says nothing."""
    datasets: tuple[DatasetState, ...]
    drift: DriftReport | None = None
    """Of the rows at these revisions, where it was measured."""


class LedgerHead(Record):
    """`latest.json` on the ledger: all that a tick must know of the past, in one request."""

    last_attempt: CycleSummary | None = None
    """The newest entry, whatever came of it."""
    recent: tuple[PastCycle, ...] = ()
    """The newest 100, newest first."""
    watch: WatchState | None = None
    decision: TriggerDecision | None = None
    """The newest in the history of decisions (`decisions/<YYYY-MM>.jsonl`)."""


class UsedFile(Record):
    """Content that a cycle has used; `data/<cycle_id>.parquet` on the ledger holds all of them."""

    name: str
    """Of the dataset."""
    path: str
    content_id: str
    num_bytes: int
    num_rows: int | None
    revision: str
    """The newest revision that held it."""


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
