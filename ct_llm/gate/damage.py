"""The items that were lost: what a person looks at first."""

from collections.abc import Mapping, Sequence

from ct_llm.gate.pairs import ScoredSlice
from ct_llm.gate.sequential import SLACK
from ct_llm.records import DamagedItem, SliceVerdict


def damaged_items(
    slices: Sequence[SliceVerdict], scored: Mapping[str, ScoredSlice], limit: int
) -> tuple[DamagedItem, ...]:
    """The largest losses against the champion: those of slices at fault first, equal ones in item
    order."""
    at_fault = {v.slice for v in slices if v.state == "FAIL" or v.floor_met is False}
    ranked: list[tuple[bool, float, str, int]] = []
    for name, one in scored.items():
        for index, (old, new) in enumerate(zip(one.champion, one.challenger, strict=True)):
            delta = new.score - old.score
            if delta < -SLACK:
                # Rounded, or 0.3 - 0.1 and 0.4 - 0.2 would not be equal losses.
                ranked.append((name not in at_fault, round(delta, 9), name, index))
    ranked.sort(key=lambda loss: loss[:2])
    return tuple(
        DamagedItem(
            slice=name,
            item_id=scored[name].challenger[index].item_id,
            delta=delta,
            prompt=scored[name].challenger[index].prompt,
            champion_output=scored[name].champion[index].output,
            challenger_output=scored[name].challenger[index].output,
        )
        for _, delta, name, index in ranked[:limit]
    )
