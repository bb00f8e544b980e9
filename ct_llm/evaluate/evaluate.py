"""The step `evaluate`: adapters to one score for each item and adapter.

Nothing is decided here. What the gate needs to be right is prepared: every item that is looked at
has a score for every side, made from the same prompt, and the items come in an order that was drawn
before the first score, without which the gate's statistics would not hold. When enough is scored is
said by a rule that is handed in.

    <folder>/items.parquet     all items in their order, written before the first score
    <folder>/journal/          finished batches: a kill costs one batch at most. The caller removes it
                               when the result is on record (`journal.remove_journal`)
    <folder>/scores.parquet    all scores, written at the end
"""

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ct_llm.config import BaseModelConfig, EvaluateConfig, Suite
from ct_llm.digests import adapter_digest, file_sha256, fingerprint, random_order
from ct_llm.errors import SecurityError
from ct_llm.evaluate.batch import BatchScorer
from ct_llm.evaluate.journal import Journal, Scores
from ct_llm.evaluate.known_scores import Keys, read_known, write_new
from ct_llm.evaluate.loop import Loop, Stopping
from ct_llm.evaluate.plan import MIN_SHARE, Plan, Schedule, idle_ranks
from ct_llm.evaluate.prefix import ScorePrefix
from ct_llm.evaluate.progress import EvaluateProgress
from ct_llm.evaluate.ranks import Ranks
from ct_llm.evaluate.score_store import ScoreStore
from ct_llm.evaluate.scores import write_items, write_scores
from ct_llm.evaluate.slices import EvalSlice, loaded_tasks, ready_slices
from ct_llm.evaluate.tasks.holdout_task import HeldOutRow, read_holdout
from ct_llm.hub.client import BaseModelFolder
from ct_llm.records import SIDES, EvalResult, ItemScore, OrderedItem, Side

ITEMS, SCORES = "items.parquet", "scores.parquet"


def evaluate(
    config: EvaluateConfig,
    suites: Sequence[Suite],
    *,
    base: BaseModelFolder,
    base_config: BaseModelConfig,
    adapters: Mapping[Side, Path | None],
    revisions: Mapping[Side, str | None] | None = None,
    holdout: Path | None = None,
    folder: Path,
    schedule: Schedule = "slices",
    stopping: Stopping | None = None,
    store: ScoreStore | None = None,
    cached_sides: Collection[Side] = (),
    on_progress: Callable[[EvaluateProgress], None] | None = None,
) -> EvalResult:
    """Score one to three adapters on every suite and on the held-out newest rows.

    adapters: folders by side; None for the base model itself. The anchor is scored on the suites
    alone. holdout: parquet with `row_id` and `messages` (JSON). stopping: asked after every batch
    which slices need more items; None: all are scored. store: new scores go there, and those of
    `cached_sides` that it knows are not made again. The scores are lm-eval's own, item for item.

    The same inputs give the same two files, byte for byte: killed and started again on the same
    folder it goes on from the last finished batch, and under `accelerate launch` the ranks share
    every batch (all of them call this alike; the first alone writes and asks). A budget in seconds
    is the exception. Return what the gate must know beside the files.

    Raises AdapterError (broken, without effect, of another base), InputError (suite, task, metric,
    template, scores that are NaN), HubNotFoundError and HubUnavailableError (a task's dataset),
    SecurityError (a task that would run generated code unprotected; an adapter that was changed
    meanwhile), StepFailedError (out of memory), StorageError.
    """
    clock, ranks = time.monotonic(), Ranks.here()
    tell = on_progress if on_progress is not None and ranks.is_first else _silent
    digests: dict[Side, str | None] = {
        side: None if path is None else adapter_digest(path) for side, path in adapters.items()
    }
    scored = _without_double(adapters, digests)
    order_seed = _order_seed(config, digests)
    rows = _newest_rows(config, holdout)

    # Read by OpenMP when torch is loaded: threads that spin while they wait make a busy machine crawl.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from ct_llm.evaluate.engine.engine import open_engine

    engine = open_engine(config, base, base_config, scored)
    _check_unchanged(adapters, digests)
    with ready_slices(config, suites, rows, engine, tell) as slices:
        items = random_order(
            [item for part in slices.values() for item in part.items()],
            order_seed=order_seed,
        )
        keys = Keys(slices, digests, base.revision, engine.identity())
        decisive = [keys.identity(), items, config.batch_items, config.batch_size]
        journal = ranks.from_first(lambda: Journal(folder, [*decisive, sorted(cached_sides)]))

        def begin() -> Scores:
            write_items(folder / ITEMS, items)
            known = journal.known()
            if known is None:
                known = read_known(store, keys, cached_sides)
                journal.begin(known)
            return known

        known = ranks.from_first(begin)
        plan = Plan(items, slices=list(slices), schedule=schedule, batch_items=config.batch_items)
        scorer = BatchScorer(slices, engine, known, ranks, config.batch_items)
        if (idle := idle_ranks(config.batch_items, ranks.size)) > 0:
            tell(
                EvaluateProgress(
                    f"{idle} of {ranks.size} processes have nothing to do: set evaluate.batch_items "
                    f"to {MIN_SHARE * ranks.size} or more"
                )
            )
        prefixes = {name: _prefix(part, plan, known) for name, part in slices.items()}
        loop = Loop(config, plan, prefixes, scorer, journal, ranks, stopping=stopping, tell=tell)
        stopped = loop.run()

        def finish() -> tuple[str, str, int]:
            _check_unchanged(adapters, digests)
            found = [
                score
                for name, part in slices.items()
                for score in _rows(plan.order(name), prefixes[name], part, scorer, loop.scores)
            ]
            write_scores(folder / SCORES, found)
            write_new(store, keys, items, known, loop.scores)
            num_known = sum(
                side in known.get(place, {})
                for place, sides in loop.scores.items()
                for side in sides
            )
            return file_sha256(folder / ITEMS), file_sha256(folder / SCORES), num_known

        items_digest, scores_digest, num_from_cache = ranks.from_first(finish)
    revisions = revisions or {}
    return EvalResult(
        slices=tuple(prefix.slice_scores() for prefix in prefixes.values()),
        items_path=ITEMS,
        items_digest=items_digest,
        order_seed=order_seed,
        scores_path=SCORES,
        scores_digest=scores_digest,
        schedule=schedule,
        batch_items=config.batch_items,
        stopped=stopped,
        challenger_digest=digests.get("challenger") or (keys.adapters.get("challenger", "")),
        champion_digest=digests.get("champion"),
        champion_revision=revisions.get("champion"),
        anchor_digest=digests.get("anchor"),
        anchor_revision=revisions.get("anchor"),
        base_model=base.repo,
        base_revision=base.revision,
        seconds=round(time.monotonic() - clock, 3),
        num_from_cache=num_from_cache,
        engine=engine.identity(),
    )


def check_before_training(
    config: EvaluateConfig,
    suites: Sequence[Suite],
    *,
    base: BaseModelFolder,
    champion: Path | None,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Load every task with its documents, and look at the champion: what is wrong is said now.

    A misspelt task or a champion of another base costs seconds here, and would cost the training
    if `evaluate` found it. Raises as `evaluate` does.
    """
    from ct_llm.evaluate.engine.adapter_check import check_adapter

    if champion is not None:
        check_adapter("champion", champion, base)
    with loaded_tasks(config, suites) as loaded:
        for suite, tasks, problem in loaded:
            if on_progress is not None:
                on_progress(f"{suite.slice}: {problem or ', '.join(task.name for task in tasks)}")


def _order_seed(config: EvaluateConfig, digests: Mapping[Side, str | None]) -> int:
    """Another order for each challenger: else the items on which one was stopped would be known to
    whoever makes the next one, and come first again."""
    return int(fingerprint([config.order_seed, digests.get("challenger")])[:8], 16)


def _silent(_: EvaluateProgress) -> None:
    pass


def _without_double(
    adapters: Mapping[Side, Path | None], digests: Mapping[Side, str | None]
) -> dict[Side, Path | None]:
    """An anchor that is the champion is not scored a second time."""
    double = "champion" in adapters and digests.get("anchor") == digests["champion"]
    return {
        side: adapters[side]
        for side in SIDES
        if side in adapters and not (side == "anchor" and double)
    }


def _newest_rows(config: EvaluateConfig, holdout: Path | None) -> list[HeldOutRow]:
    if not config.newest.enabled or holdout is None:
        return []
    limits = [n for n in (config.newest.max_items, config.limit) if n is not None]
    return read_holdout(holdout, min(limits))


def _check_unchanged(
    adapters: Mapping[Side, Path | None], digests: Mapping[Side, str | None]
) -> None:
    """What is promoted later is what was scored."""
    for side, path in adapters.items():
        if path is not None and adapter_digest(path) != digests[side]:
            raise SecurityError(
                f"{side} {path} was changed while it was evaluated, so its scores are of other "
                "weights. Find out what writes there, then run the same command again."
            )


def _prefix(part: EvalSlice, plan: Plan, known: Scores) -> ScorePrefix:
    name = part.suite.slice
    earlier: dict[Side, dict[str, float]] = {side: {} for side in part.sides}
    for (slice_name, item_id), sides in known.items():
        if slice_name == name:
            for side, found in sides.items():
                earlier[side][item_id] = found.score
    return ScorePrefix(part.scores(), plan.order(name), part.sides, earlier)


def _rows(
    order: Sequence[OrderedItem],
    prefix: ScorePrefix,
    part: EvalSlice,
    scorer: BatchScorer,
    scores: Scores,
) -> Iterator[ItemScore]:
    """All sides' scores of the prefix; beyond it those that were known, but the challenger's."""
    num_scored = prefix.slice_scores().num_scored
    for position, item in enumerate(order):
        place = item.slice, item.item_id
        found = scores[place] if position < num_scored else scorer.known.get(place, {})
        for side in part.sides:
            if side in found and (position < num_scored or side != "challenger"):
                yield ItemScore(
                    slice=item.slice,
                    task=item.task,
                    item_id=item.item_id,
                    adapter=side,
                    score=found[side].score,
                    prompt=scorer.prompt(item),
                    output=found[side].output,
                )
