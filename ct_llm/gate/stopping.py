"""Which slices need more items? Asked after every batch, answered from the scored prefixes alone.

Nothing is kept between two looks: what is decided follows from the prefixes anew each time, so a
run that was killed goes on as if it had not been, and the gate finds the same states afterwards.
"""

from collections.abc import Callable, Collection, Sequence

from ct_llm.config import GateConfig
from ct_llm.gate.clusters import Clusters, cluster_decide, cluster_labels, cluster_state_after
from ct_llm.gate.observed import Observed, checked_scores, observed
from ct_llm.gate.sequential import SLACK, SequentialState, State, decide, state_after
from ct_llm.gate.slice_tests import SliceTest, plan_tests
from ct_llm.records import SlicePrefix

Stopping = Callable[[Sequence[str], Sequence[SlicePrefix]], Collection[str]]
"""(slice of every item in the one order, what is scored of each slice) -> slices that need more
items; none: stop."""


def stopping_rule(config: GateConfig) -> Stopping:
    """The rule of the gate with this config, its target named (`config.resolve_target`).

    One FAIL, or a floor that can no longer be reached, stops everything: the challenger is rejected.
    A slice goes on while one of its tests, or its floor, is undecided; with a pooled or weighted
    target, while that is. In mode `full` every item is wanted, whatever the scores are.

    A slice that is not evaluated, like a first adapter that a person must look at, rules a promotion
    out but changes nothing here: the person wants to see the other slices decided.

    The rule raises InputError for a score that the suite does not allow, naming the slice.
    """

    def wanted(order: Sequence[str], prefixes: Sequence[SlicePrefix]) -> tuple[str, ...]:
        there = {p.scores.slice: p for p in prefixes if p.scores.not_evaluated is None}
        unfinished = tuple(
            name for name, p in there.items() if len(p.challenger) < p.scores.num_items
        )
        if config.mode == "full":
            return unfinished

        undecided: set[str] = set()
        for prefix in there.values():
            floor_met = check_floor(prefix)
            if floor_met is False:
                return ()
            if floor_met is None and prefix.scores.floor is not None:
                undecided.add(prefix.scores.slice)
        for test in plan_tests(config, [p.scores for p in there.values()]):
            state = state_of(test, observed(test, order, there))
            if state == "FAIL":
                return ()
            if state == "UNDECIDED":
                undecided.update(test.members)
        return tuple(name for name in unfinished if name in undecided)

    return wanted


def state_of(test: SliceTest, seen: Observed) -> State:
    """The state of a test, without its bounds: cheap enough for every look."""
    clusters = _units(test, seen)
    if clusters is not None:
        state, certain = cluster_state_after(test.test, seen.differences, clusters)
    else:
        state, certain = state_after(test.test, seen.differences, seen.item_bounds)
    return "UNDECIDED" if test.certain_only and not certain else state


def report_of(test: SliceTest, seen: Observed) -> tuple[State, SequentialState]:
    """The state, as `state_of` gives it, and the evidence and bounds behind it."""
    clusters = _units(test, seen)
    if clusters is not None:
        report = cluster_decide(test.test, seen.differences, clusters)
    else:
        report = decide(test.test, seen.differences, seen.item_bounds)
    state: State = "UNDECIDED" if test.certain_only and not report.certain else report.state
    return state, report


def check_floor(prefix: SlicePrefix) -> bool | None:
    """Does the challenger's mean over all N items reach the slice's floor?

    None while the items that are left could still decide it, and where there is no floor. No risk is
    taken here, so most items of a slice with a floor are needed.
    """
    scores = prefix.scores
    if scores.floor is None:
        return None
    values = checked_scores(scores, "challenger", prefix.challenger)
    total, num_left = float(values.sum()), scores.num_items - values.size
    needed = (scores.floor - SLACK) * scores.num_items
    if total + num_left * scores.score_low >= needed:
        return True
    if total + num_left * scores.score_high < needed:
        return False
    return None


def _units(test: SliceTest, seen: Observed) -> Clusters | None:
    """The clusters, where they are the unit: only of a distribution, not of a fixed benchmark."""
    return cluster_labels(seen.clusters) if test.test.mode == "superpopulation" else None
