"""What a score store knows of an evaluation before it begins, and what it is told at the end."""

import math
from collections.abc import Collection, Iterable, Mapping

from ct_llm.config import Suite
from ct_llm.digests import fingerprint
from ct_llm.evaluate.journal import Scores
from ct_llm.evaluate.score_store import ScoreStore, adapter_key, item_key
from ct_llm.evaluate.slices import EvalSlice
from ct_llm.records import KnownScore, OrderedItem, Side

ROUNDING = 1e-9
"""How far from a multiple of its step a score may be: 3 * 0.1 is not 0.3."""


class Keys:
    """Under which adapter and context the scores of each side and task are kept."""

    def __init__(
        self,
        slices: Mapping[str, EvalSlice],
        digests: Mapping[Side, str | None],
        base_revision: str,
        engine_identity: Mapping[str, str],
    ) -> None:
        """digests: of the adapters by side, None for the base itself."""
        self.slices = slices
        self.adapters = {
            side: adapter_key(digest, base_revision) for side, digest in digests.items()
        }
        self.contexts = {
            (name, task): fingerprint([base_revision, engine_identity, requests.identity()])
            for name, part in slices.items()
            for task, requests in part.tasks.items()
        }

    def identity(self) -> list[object]:
        """Whatever decides a score, beside what is asked for the item."""
        return [self.adapters, [[*place, context] for place, context in self.contexts.items()]]


def read_known(store: ScoreStore | None, keys: Keys, cached_sides: Collection[Side]) -> Scores:
    """Scores of those sides for all items of the evaluation, as far as they are known.

    One that the suite cannot have given is not: whoever wrote it, the gate would refuse it at every
    try, and scored again it is right.
    """
    known: Scores = {}
    if store is None:
        return known
    for (name, task), context in keys.contexts.items():
        part = keys.slices[name]
        for side in part.sides:
            stored = store.read(keys.adapters[side], context) if side in cached_sides else {}
            if not stored:
                continue  # nor is anything built that is asked for the items
            requests = part.tasks[task]
            for item_id in requests.item_ids:
                found = stored.get(item_key(item_id, requests.arguments_digest(item_id)))
                if found is not None and _is_possible(found.score, part.suite):
                    known.setdefault((name, item_id), {})[side] = found
    return known


def write_new(
    store: ScoreStore | None,
    keys: Keys,
    items: Iterable[OrderedItem],
    known: Scores,
    scores: Scores,
) -> None:
    """Those that were not known; one call for each adapter and task."""
    if store is None:
        return
    new: dict[tuple[str, str], dict[str, KnownScore]] = {}
    for item in items:
        place = item.slice, item.item_id
        for side, score in scores.get(place, {}).items():
            if side not in known.get(place, {}):
                requests = keys.slices[item.slice].tasks[item.task]
                key = item_key(item.item_id, requests.arguments_digest(item.item_id))
                kept_at = keys.adapters[side], keys.contexts[item.slice, item.task]
                new.setdefault(kept_at, {})[key] = score
    for (adapter, context), found in new.items():
        store.write(adapter, context, found)


def _is_possible(score: float, suite: Suite) -> bool:
    # NaN is in no range.
    if not (math.isfinite(score) and suite.score_low <= score <= suite.score_high):
        return False
    step = suite.score_step
    return step is None or abs(math.remainder(score, step)) <= ROUNDING
