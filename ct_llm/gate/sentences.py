"""The decision in plain English: what moved, by how much, and how much was allowed."""

from collections.abc import Sequence
from dataclasses import dataclass

from ct_llm.gate.sequential import SLACK
from ct_llm.records import SliceVerdict, Verdict


@dataclass(frozen=True)
class Scale:
    """How scores are said: in percent and points where they lie in [0, 1], else as they are."""

    percent: bool
    digits: int

    @classmethod
    def for_range(cls, low: float, high: float, apart: Sequence[tuple[float, float]]) -> "Scale":
        return cls.telling_apart((low, high) == (0.0, 1.0), apart)

    @classmethod
    def telling_apart(cls, percent: bool, apart: Sequence[tuple[float, float]]) -> "Scale":
        """As few digits as show that the numbers of each pair differ, if they do.

        5.02 points lost of 5.0 allowed must not read as "5.0 points, at most 5.0 were allowed".
        """
        factor, fewest = (100, 1) if percent else (1, 2)
        differing = [(a * factor, b * factor) for a, b in apart if abs(a - b) > SLACK]
        for digits in range(fewest, fewest + 6):
            if all(f"{a:.{digits}f}" != f"{b:.{digits}f}" for a, b in differing):
                return cls(percent, digits)
        return cls(percent, fewest + 6)

    def score(self, value: float) -> str:
        return f"{value * 100:.{self.digits}f} %" if self.percent else f"{value:.{self.digits}f}"

    def size(self, value: float) -> str:
        """A change without its sign."""
        if self.percent:
            return f"{abs(value) * 100:.{self.digits}f} points"
        return f"{abs(value):.{self.digits}f}"

    def change(self, value: float) -> str:
        sign = "+" if value > SLACK else "-" if value < -SLACK else ""
        return sign + self.size(value)


def slice_sentence(
    verdict: SliceVerdict, scale: Scale, alpha_pass: float, alpha_fail: float
) -> str:
    """e.g. coding fell from 60.0 % to 41.7 % (-18.3 points on all 60 items); at most 5.0 points
    were allowed.
    """
    if verdict.delta is None or verdict.champion_mean is None or verdict.challenger_mean is None:
        return f"{verdict.slice} was not evaluated: {verdict.evidence.get('not_evaluated')}"
    before, after = scale.score(verdict.champion_mean), scale.score(verdict.challenger_mean)
    if abs(verdict.delta) <= SLACK:
        moved = f"stayed at {after}"
    else:
        moved = f"{'rose' if verdict.delta > 0 else 'fell'} from {before} to {after}"
    reach = _reach(verdict, scale, alpha_pass, alpha_fail)
    sentence = f"{verdict.slice} {moved} ({reach}); {_requirement(verdict, scale)}."
    if verdict.floor is not None and not verdict.floor_met:
        sentence += f" It is below its floor of {scale.score(verdict.floor)}."
    return sentence


def verdict_sentence(
    verdict: Verdict,
    slices: Sequence[SliceVerdict],
    scales: dict[str, Scale],
    *,
    overall_rise: str | None,
    against_base_model: bool,
    needs_review: bool,
) -> str:
    """e.g. Rejected: coding fell by 18.3 points, more than the 5.0 points allowed, although the mean
    of the slices rose by 6.1 points.
    """
    over = " over the base model" if against_base_model else ""
    if verdict == "promote":
        target = next(s for s in slices if s.role == "target")
        alone = len(slices) == 1
        guards = "it is the only slice" if alone else "no other slice lost more than its tolerance"
        gain = scales[target.slice].size(target.delta or 0.0)
        return f"Promote: {target.slice} improved by {gain}{over}; {guards}."

    if verdict == "reject":
        reasons = [_fault(s, scales[s.slice]) for s in slices if s.state == "FAIL"]
        reasons += [_missed_floor(s, scales[s.slice]) for s in slices if s.floor_met is False]
        sentence = f"Rejected: {'; '.join(reasons)}"
        guard_failed = any(s.state == "FAIL" and s.role == "guard" for s in slices)
        if guard_failed and overall_rise is not None:
            sentence += f", although the mean of the slices rose by {overall_rise}"
        return sentence + "."

    reasons = [
        f"{s.slice} was not evaluated ({str(s.evidence.get('not_evaluated')).rstrip('.')})"
        for s in slices
        if s.state == "NOT_EVALUATED"
    ]
    reasons += [
        f"{s.slice} is not decided after {s.num_used} of {s.num_items} items"
        for s in slices
        if s.state == "UNDECIDED"
    ]
    if needs_review:
        reasons.append(
            "there is no champion yet, and gate.without_champion is review, so a human decides"
        )
    return f"Inconclusive: {'; '.join(reasons)}."


def _reach(verdict: SliceVerdict, scale: Scale, alpha_pass: float, alpha_fail: float) -> str:
    """The change and how sure it is. Over all items it is exact: nothing is left to be unsure of."""
    change, total = scale.change(verdict.delta or 0.0), verdict.num_items
    if verdict.num_used == total:
        return f"{change} on {'all ' if total > 1 else ''}{total} item{'s' if total > 1 else ''}"
    reach = f"{change} after {verdict.num_used} of {total} items"
    if verdict.state == "PASS" and verdict.lower is not None:
        bound, alpha = f"at least {scale.change(verdict.lower)}", alpha_pass
    elif verdict.state == "FAIL" and verdict.upper is not None:
        bound, alpha = f"at most {scale.change(verdict.upper)}", alpha_fail
    else:
        return reach
    return f"{reach}, {bound} over all of them with {100 * (1 - alpha):.4g} % confidence"


def _requirement(verdict: SliceVerdict, scale: Scale) -> str:
    if verdict.role == "target":
        if verdict.threshold <= SLACK:
            return "it had to improve"
        return f"it had to improve by more than {scale.size(verdict.threshold)}"
    failed = verdict.state == "FAIL"
    if verdict.threshold >= -SLACK:
        return f"no loss {'was' if failed else 'is'} allowed"
    return f"at most {scale.size(verdict.threshold)} {'were' if failed else 'are'} allowed"


def _fault(verdict: SliceVerdict, scale: Scale) -> str:
    delta = verdict.delta or 0.0
    size = scale.size(delta)
    if verdict.role == "guard":
        if verdict.threshold >= -SLACK:
            return f"{verdict.slice} fell by {size}, where no loss is allowed"
        allowed = scale.size(verdict.threshold)
        return f"{verdict.slice} fell by {size}, more than the {allowed} allowed"
    if delta > SLACK:
        needed = scale.size(verdict.threshold)
        return f"{verdict.slice} improved by {size}, not by more than the {needed} needed"
    fell = f": it fell by {size}" if delta < -SLACK else ""
    return f"{verdict.slice} did not improve{fell}"


def _missed_floor(verdict: SliceVerdict, scale: Scale) -> str:
    mean, floor = verdict.challenger_mean or 0.0, verdict.floor or 0.0
    return f"{verdict.slice} is at {scale.score(mean)}, below its floor of {scale.score(floor)}"
