"""Evaluations as they run: batch after batch, until the rule wants nothing more."""

from collections.abc import Sequence

from ct_llm.config import GateConfig
from ct_llm.gate.stopping import stopping_rule
from ct_llm.records import EvalResult, ItemScore, OrderedItem, SlicePrefix
from tests.unit.gate.evaluations import Evaluated


def full_prefixes(evaluated: Evaluated) -> dict[str, SlicePrefix]:
    """All scores of every evaluated slice, in its order."""
    value = {(s.slice, s.item_id, s.adapter): s.score for s in evaluated.scores}
    found = {}
    for scores in evaluated.result.slices:
        if scores.not_evaluated is not None:
            continue
        items = [i for i in evaluated.items if i.slice == scores.slice]
        sides = {
            side: tuple(value[scores.slice, i.item_id, side] for i in items)
            for side in ("champion", "challenger", "anchor")
            if side != "anchor" or scores.against_anchor
        }
        clusters = tuple(i.cluster for i in items)
        found[scores.slice] = SlicePrefix(
            scores=scores, clusters=clusters if any(clusters) else None, **sides
        )
    return found


def cut(whole: SlicePrefix, n: int, known: bool = False) -> SlicePrefix:
    """The first n items; `known`: the champion's and the anchor's scores of the rest are cached."""
    return whole._replace(
        scores=whole.scores.model_copy(update={"num_scored": n}),
        champion=whole.champion[:n],
        challenger=whole.challenger[:n],
        anchor=None if whole.anchor is None else whole.anchor[:n],
        champion_rest=whole.champion[n:] if known else None,
        anchor_rest=whole.anchor[n:] if known and whole.anchor is not None else None,
    )


def run_until_decided(
    config: GateConfig,
    order: Sequence[str],
    whole: dict[str, SlicePrefix],
    *,
    batch: int = 16,
    budget: int | None = None,
    pooled: bool = False,
    known: bool = False,
) -> dict[str, int]:
    """How many items of each slice are scored: a batch of each wanted slice in turn (a look after
    each), or batches of the one order."""
    rule = stopping_rule(config)
    scored = dict.fromkeys(whole, 0)

    def wanted() -> list[str]:
        if budget is not None and sum(scored.values()) >= budget:
            return []
        return list(rule(order, [cut(p, scored[name], known) for name, p in whole.items()]))

    while names := wanted():
        if pooled:
            place = dict.fromkeys(whole, 0)
            taken = 0
            for name in order:
                if name not in whole:
                    continue
                place[name] += 1
                if taken < batch and place[name] > scored[name] and name in names:
                    scored[name] += 1
                    taken += 1
            continue
        for name in names:
            scored[name] = min(scored[name] + batch, len(whole[name].challenger))
            if not wanted():
                break
    return scored


def stopped(
    evaluated: Evaluated, scored: dict[str, int], known: bool = False, why: str = "decided"
) -> Evaluated:
    """What such a run leaves behind."""
    slices = tuple(
        s.model_copy(update={"num_scored": scored.get(s.slice, 0)}) for s in evaluated.result.slices
    )
    counted = dict.fromkeys(scored, 0)
    inside: set[tuple[str, str]] = set()
    for item in evaluated.items:
        counted[item.slice] = counted.get(item.slice, 0) + 1
        if counted[item.slice] <= scored.get(item.slice, 0):
            inside.add((item.slice, item.item_id))
    scores: list[ItemScore] = [
        s
        for s in evaluated.scores
        if (s.slice, s.item_id) in inside or (known and s.adapter != "challenger")
    ]
    result: EvalResult = evaluated.result.model_copy(update={"slices": slices, "stopped": why})
    items: list[OrderedItem] = evaluated.items
    return Evaluated(result, items, scores)
