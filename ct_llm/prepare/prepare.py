"""prepare: rows -> training set + holdout.

    files ─▶ clean rows (cached by content) ─▶ new ones, and earlier ones that the champion has seen

    new ─▶ distinct? ─▶ seen before? ─▶ nearly seen? ─▶ in an evaluation? ─▶ near another? ─▶ side
             rejected and contaminated rows ─▶ quarantine                      train ◀─┴─▶ holdout
    earlier ─▶ replay ─▶ train;  earlier held-out rows ─▶ historic holdout

Every row that is read has one fate, counted in `PreparedData.counts`: new rows are `train`,
`holdout`, `duplicate`, `near_duplicate`, `seen_before`, `nearly_seen_before`, `too_near_to_hold_out`
(on the holdout side), `left_out_by_weight` or `quarantined:<reason>`; earlier rows are `replay`,
`earlier:not_replayed`, `earlier:holdout`, `earlier:duplicate`, `earlier:near_duplicate`,
`earlier:contaminated`, `earlier:deleted` (with its file, by the dataset's owner) or
`earlier:unusable` (not fit by today's rules; the cycle that read it first has it in its quarantine).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ct_llm.config import DatasetConfig, PrepareConfig
from ct_llm.digests import fingerprint
from ct_llm.errors import DataError
from ct_llm.prepare.clean.rows import CleaningRules
from ct_llm.prepare.columns import Rows
from ct_llm.prepare.earlier import Earlier, copies_of
from ct_llm.prepare.fates import (
    contamination,
    distinct,
    held_out_items,
    no_near_duplicates,
    not_nearly_seen,
    not_seen,
    not_too_near,
)
from ct_llm.prepare.funnel import Funnel
from ct_llm.prepare.overlap.decontaminate import Decontaminator, EvalItem
from ct_llm.prepare.quarantine import Quarantine, quarantine
from ct_llm.prepare.report import (
    REPORT_PATH,
    REPORT_TEXT_PATH,
    CountTokens,
    length_sample,
    write_report,
)
from ct_llm.prepare.row_cache import OpenFile, remove_unused
from ct_llm.prepare.snapshot_files import read_files
from ct_llm.prepare.split import on_holdout_side
from ct_llm.prepare.training_set import write_holdout, write_train
from ct_llm.records import ContaminatedRow, DataSnapshot, DriftReport, PreparedData

TRAIN_PATH = "data/train.parquet"
HOLDOUT_PATH = "data/holdout.parquet"
HISTORIC_PATH = "data/holdout_historic.parquet"
QUARANTINE_PATH = "data/quarantine.parquet"
CONTAMINATED_PATH = "data/contaminated.parquet"
CONTAMINATED = "quarantined:contaminated"


def prepare(
    config: PrepareConfig,
    snapshot: DataSnapshot,
    *,
    datasets: Sequence[DatasetConfig],
    eval_items: Sequence[EvalItem],
    renders_tools: bool,
    special_tokens: tuple[str, ...] = (),
    open_file: OpenFile,
    cache: Path,
    cycle: Path,
    count_tokens: CountTokens | None = None,
    drift: DriftReport | None = None,
) -> PreparedData:
    """Clean the rows that the champion has not seen, split them, and mix in earlier ones.

    datasets: the config's entries, in the snapshot's order. eval_items: of every suite, so that no
    row repeats one. renders_tools: the chat template has a place for tool calls. special_tokens: the
    base model's, which no row may hold. cache: where clean rows are kept from cycle to cycle.
    count_tokens, drift: for the report alone. Writes Parquet files and a report under `cycle/data`.
    The same rows give the same training set and holdout, in the same order, however they are spread
    over files and commits.

    Raises DataError for a file that cannot be read or is in no known format, for more bad rows than
    `max_quarantine_fraction` (quarantine and report are written all the same), and when no new row is left to
    train on. Raises StorageError when the disk fails, and what `open_file` raises.
    """
    rules = cleaning_rules(config, renders_tools, special_tokens)
    files = read_files(snapshot, datasets, rules, open_file, cache)
    num_bad = sum(file.num_bad for file in files.earlier)
    all_new = Rows.of(files.new)
    earlier = Earlier(Rows.of(files.earlier), all_new, datasets, config, num_bad)
    items = [*eval_items, *held_out_items(earlier.historic)]
    decontaminator = _decontaminator(config, items)

    funnel = Funnel()
    with quarantine(cycle / QUARANTINE_PATH, cycle / CONTAMINATED_PATH) as bad:
        for file in files.new:
            for reject in file.bad_rows():
                bad.add(file, reject)
                funnel.add_count(f"quarantined:{reject.reason}", file.dataset, 1)
        new = funnel.sieve("duplicate", all_new, distinct(all_new, datasets))
        new = funnel.sieve("seen_before", new, not_seen(new, earlier.rows))
        near = config.near_duplicates
        new = funnel.sieve("nearly_seen_before", new, not_nearly_seen(new, earlier.rows, near))
        new = funnel.sieve(CONTAMINATED, new, _clean(new, decontaminator, items, bad))
        new = funnel.sieve("near_duplicate", new, no_near_duplicates(new, near))
        held_out = on_holdout_side(new.prompts, config.holdout_fraction, config.holdout_salt)
        train, holdout = new.take(~held_out), new.take(held_out)
    holdout = funnel.sieve(
        "too_near_to_hold_out", holdout, not_too_near(holdout, train, earlier.rows)
    )
    times = copies_of(train, datasets)
    train, times = (
        funnel.sieve("left_out_by_weight", train, train.take(times > 0)),
        times[times > 0],
    )
    funnel.add("train", train)
    funnel.add("holdout", holdout)
    replay = earlier.replay(train.ids, decontaminator)
    counts = dict(sorted({**funnel.counts, **earlier.counts}.items()))

    write_report(
        cycle,
        counts=counts,
        counts_by_source=funnel.by_source,
        messages={"train": _sample(train), "holdout": _sample(holdout)},
        count_tokens=count_tokens,
        quarantine=cycle / QUARANTINE_PATH,
        contaminated=cycle / CONTAMINATED_PATH,
        drift=drift,
        notes=files.notes,
    )
    # Whoever has to mend the data needs the report most.
    bad.refuse_more_than(
        config.max_quarantine_fraction, len(all_new) + sum(f.num_bad for f in files.new)
    )
    if not len(train):
        raise DataError(_nothing_new(funnel.counts, cycle))

    seed = config.replay.seed
    digests = [
        write_train(cycle / TRAIN_PATH, train, times, replay, seed),
        write_holdout(cycle / HOLDOUT_PATH, holdout, seed),
    ]
    write_holdout(cycle / HISTORIC_PATH, earlier.historic, seed)
    remove_unused(cache)
    return PreparedData(
        train_path=TRAIN_PATH,
        holdout_path=HOLDOUT_PATH,
        historic_holdout_path=HISTORIC_PATH,
        quarantine_path=QUARANTINE_PATH,
        report_path=REPORT_PATH,
        num_train=int(times.sum()) + len(replay),
        num_replay=len(replay),
        num_holdout=len(holdout),
        num_historic_holdout=len(earlier.historic),
        num_quarantined=bad.counts.total(),
        num_contaminated=bad.counts["contaminated"],
        rows_read=sum(counts.values()),
        counts=counts,
        counts_by_source=dict(sorted((train.count_by_source() + replay.count_by_source()).items())),
        digest=fingerprint(digests),
        notes=tuple(files.notes),
    )


def cleaning_rules(
    config: PrepareConfig, renders_tools: bool, special_tokens: tuple[str, ...]
) -> CleaningRules:
    """What every row of a file goes through; rows that were cleaned by others are read anew."""
    keep = config.tool_calls == "keep" or (config.tool_calls == "auto" and renders_tools)
    return CleaningRules(
        config.max_chars, config.template_tokens, config.secrets, keep, special_tokens
    )


def _decontaminator(config: PrepareConfig, items: Sequence[EvalItem]) -> Decontaminator | None:
    if not config.decontamination.enabled or not items:
        return None
    return Decontaminator(items, config.decontamination.min_containment)


def _clean(
    rows: Rows, decontaminator: Decontaminator | None, items: Sequence[EvalItem], bad: Quarantine
) -> Rows:
    """The rows that repeat none of the items; the others are in quarantine."""
    hits = contamination(rows, decontaminator)
    for row, hit in zip(rows.rows(sorted(hits)), (hits[i] for i in sorted(hits)), strict=True):
        item = items[hit.item]
        found = ContaminatedRow(
            repo=row.repo,
            path=row.path,
            row_index=row.row_index,
            slice=item.slice,
            item_id=item.item_id,
            kind=hit.kind,
            containment=hit.containment,
        )
        bad.add_contaminated(row, found)
    return rows.without(hits)


def _sample(rows: Rows) -> Iterator[str]:
    chosen = length_sample(rows.ids)
    for start in range(0, len(chosen), 256):  # the reader stops when it has enough text
        yield from rows.messages(chosen[start : start + 256])


def _nothing_new(counts: Mapping[str, int], cycle: Path) -> str:
    fates = ", ".join(f"{fate} {count:,}" for fate, count in sorted(counts.items()) if count)
    return (
        f"no new row is left to train on; the new rows by fate: {fates or 'there are none'}. Add rows "
        f"to the dataset; {cycle / REPORT_TEXT_PATH} says what became of these."
    )
