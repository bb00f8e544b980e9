"""What a researcher reads off the scores: means, differences and their bounds, and the items themselves.

Bounds hold at any time: with probability 1 - alpha the mean over all N items of the slice lies within
them at every look, however often one looks and whenever one stops (see `gate.sequential`). At n = N
they are the mean itself. Each line's bounds hold by themselves, not all lines' at once.

The standard error is another matter: how far the mean would move with other items of the same kind
(Miller, "Adding error bars to evals", 2024). It supposes that nobody stopped because of the scores.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ct_llm.cycle_dir import write_atomically
from ct_llm.errors import InputError
from ct_llm.gate.sequential import SLACK, ItemBounds, SequentialTest, decide
from ct_llm.gate.summaries import cluster_standard_error, standard_error, wins_losses_ties
from ct_llm.records import ItemScore, OrderedItem, Record, Side, SlicePrefix, SliceScores

State = Literal["better", "worse", "equal", "undecided"]
"""Of the challenger: delta's bounds lie above zero, below it, or (at n = N) on it."""


class AdapterMean(Record):
    """One adapter on a slice, or on one task of it."""

    slice: str
    task: str | None = None
    """None: the slice as a whole."""
    num_items: int
    """N."""
    num_used: int
    """n: the first n items of the random order are scored."""
    mean: float | None
    """Of the n items; none at n = 0."""
    lower: float
    upper: float
    """Of the mean over all N items, alpha / 2 a side."""
    standard_error: float | None
    """None where all scores are the same: that says nothing of other items."""
    in_percent: bool = True
    """Scores lie in [0, 1], so people read them in percent and points."""


class Difference(Record):
    """Champion and challenger on a slice, or on one task of it; delta is challenger minus champion."""

    slice: str
    task: str | None = None
    num_items: int
    num_used: int
    champion_mean: float | None
    challenger_mean: float | None
    delta: float | None
    lower: float
    upper: float
    """Of delta over all N items, alpha / 2 a side."""
    state: State
    wins: int
    losses: int
    ties: int
    """Items on which the challenger scored higher, lower, the same."""
    standard_error: float | None
    """Of delta, from the paired differences; by clusters where the suite names them. None where all
    differences are the same: that says nothing of other items."""
    champion_rest_known: bool = False
    """The champion's scores of the items not yet scored were known and have narrowed the bounds,
    which are of delta over all items: that over the n items so far may lie outside them."""
    in_percent: bool = True


class Evaluation(Record):
    """One adapter, or the base model itself, scored on slices."""

    adapter: str
    """As it was named; `base`: the base model itself."""
    digest: str | None
    revision: str | None
    """Commit of an adapter on the Hub."""
    base_model: str
    base_revision: str
    alpha: float
    slices: tuple[AdapterMean, ...]
    tasks: tuple[AdapterMean, ...]
    items_path: Path
    """Parquet, a row an item: slice, task, item_id, score, prompt, output."""
    interrupted: bool = False
    """Ended before every item was scored, because it was asked to."""
    budget_spent: bool = False
    """Ended before every item was scored, by `evaluate.max_items` or `evaluate.max_seconds`."""
    num_from_cache: int = 0
    engine: dict[str, str]
    seconds: float


class ComparedItem(NamedTuple):
    """A row of a comparison's Parquet file."""

    slice: str
    task: str
    item_id: str
    champion_score: float
    challenger_score: float
    delta: float
    prompt: str
    champion_output: str
    challenger_output: str


class Comparison(Record):
    """Two adapters of one base, or one and the base itself, item by item."""

    champion: str
    challenger: str
    """As they were named; `base`: the base model itself."""
    champion_digest: str | None
    challenger_digest: str | None
    champion_revision: str | None
    challenger_revision: str | None
    base_model: str
    base_revision: str
    alpha: float
    slices: tuple[Difference, ...]
    tasks: tuple[Difference, ...]
    items_path: Path
    """Parquet of ComparedItem; slices one after another, each in its random order."""
    interrupted: bool = False
    """Ended before it was done, because it was asked to: the bounds hold nevertheless."""
    budget_spent: bool = False
    """Ended before it was done, by `evaluate.max_items` or `evaluate.max_seconds`."""
    num_from_cache: int = 0
    engine: dict[str, str]
    seconds: float

    def most_different(self, k: int) -> list[ComparedItem]:
        """The k items with the largest |delta|; of equal ones, those whose outputs differ first.

        What is still equal stays in its random order, so that among right/wrong scores the k items
        are a random sample of all that changed. Items that both adapters answered alike are left
        out. Reads the Parquet file; raises InputError when it is gone.
        """
        items = [
            item
            for item in read_compared(self.items_path)
            if item.delta != 0 or item.champion_output != item.challenger_output
        ]
        alike = [item.champion_output == item.challenger_output for item in items]
        order = sorted(range(len(items)), key=lambda i: (-abs(items[i].delta), alike[i]))
        return [items[i] for i in order[: max(0, k)]]


# ---------------------------------------------------------------- from scores to lines


def difference(prefix: SlicePrefix, alpha: float, task: str | None = None) -> Difference:
    """Both adapters on the first n items of a slice; n may be 0."""
    scores = prefix.scores
    champion, challenger = np.array(prefix.champion), np.array(prefix.challenger)
    deltas = challenger - champion
    span = scores.score_high - scores.score_low
    known = _known_champion(prefix)
    lower, upper = _bounds(deltas, scores, (-span, span), alpha, known)
    wins, losses, ties = wins_losses_ties(deltas)
    return Difference(
        slice=scores.slice,
        task=task,
        num_items=scores.num_items,
        num_used=deltas.size,
        champion_mean=_mean(champion),
        challenger_mean=_mean(challenger),
        delta=_mean(deltas),
        lower=lower,
        upper=upper,
        state=_state(lower, upper, is_whole=deltas.size == scores.num_items),
        wins=wins,
        losses=losses,
        ties=ties,
        standard_error=_error(deltas, prefix),
        champion_rest_known=known is not None,
        in_percent=_in_percent(scores),
    )


def adapter_mean(prefix: SlicePrefix, alpha: float, task: str | None = None) -> AdapterMean:
    """The challenger alone on the first n items of a slice; n may be 0."""
    scores = prefix.scores
    values = np.array(prefix.challenger)
    lower, upper = _bounds(values, scores, (scores.score_low, scores.score_high), alpha, None)
    return AdapterMean(
        slice=scores.slice,
        task=task,
        num_items=scores.num_items,
        num_used=values.size,
        mean=_mean(values),
        lower=lower,
        upper=upper,
        standard_error=_error(values, prefix),
        in_percent=_in_percent(scores),
    )


def by_task(
    scores: SliceScores,
    items: Sequence[OrderedItem],
    scored: Mapping[tuple[Side, str], ItemScore],
) -> dict[str, SlicePrefix]:
    """Each task's part of a slice's prefix.

    items: the slice's, in their random order. A task's items are in a random order too, whatever
    lies between them, so their bounds hold like the slice's.
    """
    parts: dict[str, SlicePrefix] = {}
    for task in dict.fromkeys(item.task for item in items):
        done = [item.item_id for item in items[: scores.num_scored] if item.task == task]
        num_items = sum(item.task == task for item in items)
        part = scores.model_copy(update={"num_items": num_items, "num_scored": len(done)})
        parts[task] = SlicePrefix(
            part,
            champion=_scores_of("champion", done, scored),
            challenger=_scores_of("challenger", done, scored),
            clusters=_clusters([item for item in items if item.task == task][: len(done)]),
        )
    return parts


def slice_prefix(
    scores: SliceScores,
    items: Sequence[OrderedItem],
    scored: Mapping[tuple[Side, str], ItemScore],
) -> SlicePrefix:
    """The whole slice's prefix, as the evaluation has shown it while it ran. items: as in `by_task`."""
    ids = [item.item_id for item in items]
    done, rest = ids[: scores.num_scored], ids[scores.num_scored :]
    known = all(("champion", item) in scored for item in rest)
    return SlicePrefix(
        scores,
        champion=_scores_of("champion", done, scored),
        challenger=_scores_of("challenger", done, scored),
        champion_rest=_scores_of("champion", rest, scored) if rest and known else None,
        clusters=_clusters(items[: len(done)]),
    )


def _scores_of(
    side: Side, ids: Iterable[str], scored: Mapping[tuple[Side, str], ItemScore]
) -> tuple[float, ...]:
    """Empty for a side that was not evaluated."""
    return tuple(scored[side, item].score for item in ids if (side, item) in scored)


def _clusters(items: Sequence[OrderedItem]) -> tuple[str, ...] | None:
    if all(item.cluster is None for item in items):
        return None
    return tuple(item.cluster or item.item_id for item in items)


def _error(values: np.ndarray, prefix: SlicePrefix) -> float | None:
    """Items that share a passage move together: there the cluster is what is drawn."""
    if values.size and np.ptp(values) <= SLACK:
        return None  # 0 would read as certainty
    if prefix.clusters is None or not values.size:
        return standard_error(values)
    # An item without a cluster is its own.
    names = [name or f"\0{number}" for number, name in enumerate(prefix.clusters[: values.size])]
    groups = np.unique(np.array(names), return_inverse=True)[1]
    return cluster_standard_error(values, groups.astype(np.int64))


def _bounds(
    values: np.ndarray,
    scores: SliceScores,
    value_range: tuple[float, float],
    alpha: float,
    known: ItemBounds | None,
) -> tuple[float, float]:
    low, high = value_range
    if scores.num_items == 0:
        return low, high
    if values.size == scores.num_items:
        return float(values.mean()), float(values.mean())
    # Only the bounds are read, and they do not depend on the threshold.
    test = SequentialTest(
        num_items=scores.num_items,
        threshold=low,
        strict=True,
        low=low,
        high=high,
        alpha_pass=alpha / 2,
        alpha_fail=alpha / 2,
    )
    state = decide(test, values, known)
    return state.lower, state.upper


def _known_champion(prefix: SlicePrefix) -> ItemBounds | None:
    if prefix.champion_rest is None:
        return None
    known = np.array([*prefix.champion, *prefix.champion_rest])
    return ItemBounds(low=prefix.scores.score_low - known, high=prefix.scores.score_high - known)


def _state(lower: float, upper: float, *, is_whole: bool) -> State:
    if lower > SLACK:
        return "better"
    if upper < -SLACK:
        return "worse"
    return "equal" if is_whole else "undecided"


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _in_percent(scores: SliceScores) -> bool:
    return scores.score_low >= 0 and scores.score_high <= 1


# ---------------------------------------------------------------- the items' file


COMPARED_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("slice", "task", "item_id")),
        *(
            pa.field(name, pa.float64(), nullable=False)
            for name in ("champion_score", "challenger_score", "delta")
        ),
        *(
            pa.field(name, pa.string(), nullable=False)
            for name in ("prompt", "champion_output", "challenger_output")
        ),
    ]
)
EVALUATED_SCHEMA = pa.schema(
    [
        pa.field(name, pa.float64() if name == "score" else pa.string(), nullable=False)
        for name in ("slice", "task", "item_id", "score", "prompt", "output")
    ]
)


def write_compared(path: Path, items: Iterable[ComparedItem]) -> None:
    """All of it or nothing. Raises StorageError."""
    _write(path, [item._asdict() for item in items], COMPARED_SCHEMA)


def read_compared(path: Path) -> list[ComparedItem]:
    """In file order. Raises InputError."""
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. Run the comparison again.") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from None
    if not table.schema.equals(COMPARED_SCHEMA):
        raise InputError(
            f"{path} is not a comparison: expected columns {', '.join(COMPARED_SCHEMA.names)}, found "
            f"{', '.join(table.schema.names)}."
        )
    return [ComparedItem(**row) for row in table.to_pylist()]


def write_evaluated(path: Path, scores: Iterable[ItemScore]) -> None:
    """All of it or nothing. Raises StorageError."""
    rows = [score.model_dump(include=set(EVALUATED_SCHEMA.names)) for score in scores]
    _write(path, rows, EVALUATED_SCHEMA)


def compared_item(champion: ItemScore, challenger: ItemScore) -> ComparedItem:
    return ComparedItem(
        slice=champion.slice,
        task=champion.task,
        item_id=champion.item_id,
        champion_score=champion.score,
        challenger_score=challenger.score,
        delta=challenger.score - champion.score,
        prompt=champion.prompt,
        champion_output=champion.output,
        challenger_output=challenger.output,
    )


def _write(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema), buffer, compression="zstd")
    write_atomically(path, buffer.getvalue())
