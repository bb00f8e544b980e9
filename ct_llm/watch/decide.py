"""Is there reason enough to train? Every rule and brake gives its figures, and one sentence tells all.

A cycle starts when any (or all) of the rules that are set is met and no brake holds. What is about
the champion (freshness, holdout_age, drift) cannot be judged where there is none, or nothing is known
of its data: then volume and schedule alone decide on the first cycle, and where neither is set one
new row is enough.
"""

from ct_llm.config import WatchConfig
from ct_llm.records import TriggerDecision, TriggerReason
from ct_llm.watch.brakes import brakes
from ct_llm.watch.facts import Facts
from ct_llm.watch.rules import ABOUT_THE_CHAMPION, rules


def decide(config: WatchConfig, facts: Facts, *, force: bool = False) -> TriggerDecision:
    """The record names the rules for and those against. `force`: whatever they and the brakes say."""
    against_or_for = tuple(rules(config, facts))
    holding_or_not = tuple(brakes(config, facts))
    due = _are_met(config, against_or_for, facts)
    held = [brake.sentence for brake in holding_or_not if brake.met]
    forced = force and (not due or bool(held))
    should_train = forced or (due and not held)

    said = ["forced by the user"] if forced else []
    said += [rule.sentence for rule in against_or_for]
    if held:
        said.append(f"held back: {'; '.join(held)}")
    if facts.num_waiting_rows > 0:
        waiting = facts.num_waiting_rows
        said.append(f"{waiting:,} rows of an attempt that was not promoted will be used again")
    said += [note for dataset in facts.datasets for note in dataset.notes]
    return TriggerDecision(
        should_train=should_train,
        sentence=f"{'training' if should_train else 'not training'}: {'; '.join(said)}",
        reasons=(*against_or_for, *([_FORCED] if forced else []), *holding_or_not),
        checked_at=facts.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        datasets=facts.datasets,
        data_age_seconds=facts.data_age_seconds,
        drift=facts.drift,
    )


_FORCED = TriggerReason(
    rule="forced", value=None, threshold=None, met=True, sentence="forced by the user"
)


def _are_met(config: WatchConfig, found: tuple[TriggerReason, ...], facts: Facts) -> bool:
    judged = [rule for rule in found if _can_be_judged(rule, facts)]
    if not judged:
        return facts.num_new_rows > 0
    enough = any if config.train_when == "any" else all
    return enough(rule.met for rule in judged)


def _can_be_judged(rule: TriggerReason, facts: Facts) -> bool:
    if rule.rule not in ABOUT_THE_CHAMPION:
        return True
    # Drift may still be unknown for want of rows: that speaks against training.
    return facts.champion is not None and (rule.rule == "drift" or rule.value is not None)
