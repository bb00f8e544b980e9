"""The reasons for training: each gives its value, its threshold and a sentence, met or not."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ct_llm.config import WatchConfig
from ct_llm.durations import say_duration
from ct_llm.records import DriftReport, TriggerReason
from ct_llm.watch.facts import Facts, moment

ABOUT_THE_CHAMPION = ("freshness", "holdout_age", "drift")
"""They cannot be judged without one: see `decide`."""


def rules(config: WatchConfig, facts: Facts) -> Iterator[TriggerReason]:
    """Those that the config sets."""
    if config.threshold_samples is not None:
        yield volume(config.threshold_samples, facts)
    if config.max_data_age is not None:
        yield _age(
            "freshness", "champion's data", facts.data_age_seconds, config.max_data_age, facts
        )
    if config.max_holdout_age is not None:
        age = facts.compared_age_seconds
        yield _age("holdout_age", "champion's newest holdout", age, config.max_holdout_age, facts)
    if config.drift.enabled:
        yield drift(config, facts)
    if config.schedule is not None:
        yield schedule(config.schedule, facts)


def volume(threshold: int, facts: Facts) -> TriggerReason:
    """Enough rows that neither the champion nor the last attempt has used."""
    new = f"{'at most ' * facts.is_bound}{facts.num_new_rows:,}"
    met = facts.num_new_rows >= threshold
    return TriggerReason(
        rule="volume",
        value=facts.num_new_rows,
        threshold=threshold,
        unit="rows",
        met=met,
        sentence=f"{new} new rows (threshold {threshold:,})"
        if met
        else f"{new} of {threshold:,} new rows",
    )


def _age(rule: str, what: str, age: float | None, limit: timedelta, facts: Facts) -> TriggerReason:
    """Too old, and there is something newer."""
    is_old = age is not None and age >= limit.total_seconds()
    met = is_old and facts.num_new_rows > 0
    if age is None:
        sentence = f"age of {what} is not known"
    elif met:
        sentence = (
            f"{what} is {say_duration(age)} old (limit {say_duration(limit.total_seconds())})"
        )
    else:
        sentence = f"{what} is {say_duration(age)} old{', but there are no new rows' * is_old}"
    return TriggerReason(
        rule=rule,
        value=age,
        threshold=limit.total_seconds(),
        unit="seconds",
        met=met,
        sentence=sentence,
    )


def drift(config: WatchConfig, facts: Facts) -> TriggerReason:
    """New rows that a classifier tells from those that the champion was trained on."""
    report = facts.drift if facts.drift and _is_judged(config, facts, facts.drift) else None
    met = report is not None and report.drifted
    if report is None:
        sentence = f"drift not judged ({_too_few(config, facts)})"
    else:
        figures = f"AUC {report.auc:.2f}, p {_p_value(report.p_value)}"
        sentence = f"{'drift' if met else 'no drift'} ({figures})"
        if met and report.features:
            sentence += f": {report.features[0].sentence}"
    return TriggerReason(
        rule="drift",
        value=report.auc if report else None,
        threshold=config.drift.min_auc,
        unit="AUC",
        met=met,
        sentence=sentence,
    )


def _is_judged(config: WatchConfig, facts: Facts, report: DriftReport) -> bool:
    least = min(facts.num_new_rows, report.num_new, report.num_reference)
    return least >= config.drift.min_new_rows


def _too_few(config: WatchConfig, facts: Facts) -> str:
    needed = config.drift.min_new_rows
    num_new = min(facts.num_new_rows, facts.drift.num_new if facts.drift else facts.num_new_rows)
    if num_new < needed:
        return f"{num_new:,} of {needed:,} new rows"
    if facts.drift is not None:
        return f"{facts.drift.num_reference:,} of {needed:,} rows of the champion's data"
    return "nothing to compare with"


def _p_value(p_value: float) -> str:
    return f"{p_value:.2f}" if p_value >= 0.01 else f"{p_value:.1g}"


def schedule(expression: str, facts: Facts) -> TriggerReason:
    """The cron expression came due since the last cycle's end, and there is something new.

    Where no cycle has run yet it is overdue: the first one need not wait.
    """
    from cronsim import CronSim

    last = facts.cycles[0] if facts.cycles else None
    # The config has made sure that it comes due at all.
    due = next(CronSim(expression, moment(last.finished_at))) if last else facts.now
    is_due = due <= facts.now
    met = is_due and facts.num_new_rows > 0
    if last is None:
        sentence = f"schedule {expression!r} is due: no cycle has run yet"
    else:
        sentence = f"schedule {expression!r} {'was' if is_due else 'is'} due {_minute(due)}"
    if is_due and not met:
        sentence += ", but there are no new rows"
    return TriggerReason(
        rule="schedule",
        value=(facts.now - due).total_seconds(),
        threshold=0,
        unit="seconds",
        met=met,
        sentence=sentence,
    )


def _minute(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
