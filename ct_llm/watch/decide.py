"""Is there reason enough to train? Every rule gives its value, its threshold and a sentence."""

from ct_llm.config import WatchConfig
from ct_llm.records import DataSnapshot, TriggerDecision, TriggerReason


def decide(config: WatchConfig, data: DataSnapshot, *, now: str) -> TriggerDecision:
    """Train when any rule is met; the record names those for and those against."""
    reasons = (volume(config, data),)
    should_train = any(reason.met for reason in reasons)
    said = [reason.sentence for reason in reasons if reason.met] or [r.sentence for r in reasons]
    waiting = data.num_unseen_rows - data.num_new_rows
    if waiting > 0:
        said.append(f"{waiting:,} rows of an attempt that was not promoted will be used again")
    said.extend(note for dataset in data.datasets for note in dataset.notes)
    return TriggerDecision(
        should_train=should_train,
        sentence=f"{'training' if should_train else 'not training'}: {'; '.join(said)}",
        reasons=reasons,
        checked_at=now,
    )


def volume(config: WatchConfig, data: DataSnapshot) -> TriggerReason:
    """Enough rows that neither the champion nor the last attempt has used."""
    threshold = config.threshold_samples
    met = data.num_new_rows >= threshold
    return TriggerReason(
        rule="volume",
        value=data.num_new_rows,
        threshold=threshold,
        met=met,
        sentence=f"{data.num_new_rows:,} new rows (threshold {threshold:,})"
        if met
        else f"{data.num_new_rows:,} of {threshold:,} new rows",
    )
