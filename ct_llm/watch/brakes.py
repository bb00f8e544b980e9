"""What holds training back although there is reason for it. Only --force passes a brake."""

from collections.abc import Iterator
from datetime import timedelta

from ct_llm.config import WatchConfig
from ct_llm.durations import say_duration
from ct_llm.records import TriggerReason
from ct_llm.watch.facts import Facts, moment

DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)


def brakes(config: WatchConfig, facts: Facts) -> Iterator[TriggerReason]:
    """Those that the config sets; one that is met stops."""
    if config.debounce:
        yield debounce(config.debounce, facts)
    if config.cooldown:
        yield cooldown(config.cooldown, facts)
    for limit, window, name in (
        (config.max_cycles_per_day, DAY, "day"),
        (config.max_cycles_per_week, WEEK, "week"),
    ):
        if limit is not None:
            yield budget(limit, window, name, facts)


def debounce(wait: timedelta, facts: Facts) -> TriggerReason:
    """A dataset was changed a moment ago: the rest of the push may still be on its way."""
    ages = {
        part.name: facts.seconds_since(moment(part.as_of))
        for part in facts.datasets
        if part.as_of is not None
    }
    name = min(ages, key=ages.__getitem__, default=None)
    age = ages[name] if name is not None else None
    met = age is not None and age < wait.total_seconds()
    return TriggerReason(
        rule="debounce",
        kind="brake",
        value=age,
        threshold=wait.total_seconds(),
        unit="seconds",
        met=met,
        sentence="when the datasets changed is not known"
        if age is None
        else f"{name} was changed {say_duration(age)} ago (debounce {_say(wait)})",
    )


def cooldown(wait: timedelta, facts: Facts) -> TriggerReason:
    """The last cycle was not promoted: the next one would hardly find better rows at once."""
    last = facts.cycles[0] if facts.cycles else None
    if last is None or last.outcome not in ("rejected", "inconclusive"):
        age, met, sentence = None, False, "no cycle to cool down from"
    else:
        age = facts.seconds_since(moment(last.finished_at))
        met = age < wait.total_seconds()
        sentence = f"last cycle was {last.outcome} {say_duration(age)} ago (cooldown {_say(wait)})"
    return TriggerReason(
        rule="cooldown",
        kind="brake",
        value=age,
        threshold=wait.total_seconds(),
        unit="seconds",
        met=met,
        sentence=sentence,
    )


def budget(limit: int, window: timedelta, name: str, facts: Facts) -> TriggerReason:
    """So many cycles ended within the last day or week, whatever came of them. Rollbacks are free."""
    ages = [facts.seconds_since(moment(past.finished_at)) for past in facts.cycles]
    count = sum(age < window.total_seconds() for age in ages)
    return TriggerReason(
        rule="budget",
        kind="brake",
        value=count,
        threshold=limit,
        unit=f"cycles a {name}",
        met=count >= limit,
        sentence=f"{count} of {limit} cycles in the last {name} (budget)",
    )


def _say(wait: timedelta) -> str:
    return say_duration(wait.total_seconds())
