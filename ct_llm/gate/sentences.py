"""The decision in plain English: what moved, by how much, and how much was allowed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ct_llm.config import OVERALL_TARGETS
from ct_llm.gate.sequential import SLACK
from ct_llm.gate.slice_tests import SliceTest
from ct_llm.records import SliceVerdict, Verdict

_OVERALL = {"pooled": "the mean of all items", "weighted": "the mean of the slices by weight"}
"""How a target is called that is no slice."""


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


def count_items(number: int) -> str:
    return f"{number} item{'' if number == 1 else 's'}"


def plan_sentence(test: SliceTest) -> str:
    """What one test asks, before any score: e.g. coding (164 items): may lose at most 5.0 points
    against the champion; passes wrongly with at most 5 %, fails wrongly with at most 1.667 %.
    """
    one = test.test
    scale = Scale.telling_apart(test.in_percent, [(abs(one.threshold), 0.0)])
    size = scale.size(one.threshold)
    if test.role == "target":
        asked = "must improve" if one.threshold <= SLACK else f"must improve by more than {size}"
    else:
        loss = "may lose nothing" if one.threshold >= -SLACK else f"may lose at most {size}"
        asked = f"{loss} against the {'anchor' if test.role == 'anchor' else 'champion'}"
    if test.certain_only:
        risk = "every item is scored, which leaves no risk"
    else:
        risk = (
            f"passes wrongly with at most {100 * one.alpha_pass:.4g} %, fails wrongly with at most "
            f"{100 * one.alpha_fail:.4g} %"
        )
    over = f" of {', '.join(test.members)}" if test.is_overall else ""
    return f"{test.slice} ({count_items(one.num_items)}{over}): {asked}; {risk}."


def slice_sentence(verdict: SliceVerdict, scale: Scale) -> str:
    """e.g. coding fell from 60.0 % to 41.7 % (-18.3 points on all 60 items); at most 5.0 points
    were allowed.
    """
    if verdict.delta is None or verdict.champion_mean is None or verdict.challenger_mean is None:
        reason = verdict.evidence.get("not_evaluated")
        if reason is None:
            return f"{verdict.slice}: none of {count_items(verdict.num_items)} is scored."
        return f"{verdict.slice} was not evaluated: {reason}"
    reach, needed = _reach(verdict, scale), _requirement(verdict, scale)
    before, after = scale.score(verdict.champion_mean), scale.score(verdict.challenger_mean)
    if verdict.role == "anchor":
        how = f"is at {after} and the anchor at {before}"
    elif abs(verdict.delta) <= SLACK:
        how = f"stayed at {after}"
    else:
        how = f"{'rose' if verdict.delta > 0 else 'fell'} from {before} to {after}"
    sentence = f"{_name(verdict)} {how} ({reach}); {needed}."
    if verdict.floor is not None and verdict.floor_met is False:
        sentence += f" It is below its floor of {scale.score(verdict.floor)}."
    if verdict.floor is not None and verdict.floor_met is None:
        sentence += f" Whether it reaches its floor of {scale.score(verdict.floor)} is still open."
    return sentence


def verdict_sentence(
    verdict: Verdict,
    slices: Sequence[SliceVerdict],
    scales: Mapping[tuple[str, str], Scale],
    *,
    overall_rise: str | None,
    against_base_model: bool,
    needs_review: bool,
    budget_reached: bool,
) -> str:
    """e.g. Rejected: coding fell by 18.3 points, more than the 5.0 points allowed, although the mean
    of guards rose by 6.1 points.

    scales: by slice and role.
    """
    if verdict == "promote":
        return _promotion(slices, scales, " over the base model" if against_base_model else "")

    if verdict == "reject":
        reasons = [_fault(s, scales[s.slice, s.role]) for s in slices if s.state == "FAIL"]
        reasons += [
            _missed_floor(s, scales[s.slice, s.role]) for s in slices if s.floor_met is False
        ]
        sentence = f"Rejected: {'; '.join(reasons)}"
        guard_failed = any(s.state == "FAIL" and s.role == "guard" for s in slices)
        if guard_failed and overall_rise is not None:
            sentence += f", although the mean of guards rose by {overall_rise}"
        return sentence + "."

    reasons = [
        f"{s.slice} was not evaluated ({str(s.evidence.get('not_evaluated')).rstrip('.')})"
        for s in slices
        if s.state == "NOT_EVALUATED"
    ]
    reasons += [
        f"{_name(s)}{' against the anchor' if s.role == 'anchor' else ''} is not decided after "
        f"{_items(s)}"
        for s in slices
        if _is_open(s)
    ]
    if budget_reached:
        reasons[-1] += ", when the evaluation's budget ran out"
    if needs_review:
        reasons.append(
            "there is no champion yet, and gate.without_champion is review, so a human decides"
        )
    return f"Inconclusive: {'; '.join(reasons)}."


def _is_open(verdict: SliceVerdict) -> bool:
    return verdict.state == "UNDECIDED" or (
        verdict.state == "PASS" and verdict.floor is not None and verdict.floor_met is None
    )


def _promotion(
    slices: Sequence[SliceVerdict], scales: Mapping[tuple[str, str], Scale], over: str
) -> str:
    target = next(s for s in slices if s.role == "target")
    scale = scales[target.slice, "target"]
    if _is_exact(target):
        gain = f"improved by {scale.size(target.delta or 0.0)}{over}"
    else:
        gain = f"improved{over} ({_reach(target, scale)})"
    has_guards = any(s.role == "guard" for s in slices)
    other = "" if target.slice in OVERALL_TARGETS else "other "
    rest = f"no {other}slice lost more than its tolerance" if has_guards else "it is the only slice"
    if any(s.role == "anchor" for s in slices):
        rest += "; against the anchor, no slice lost more than is allowed"
    return f"Promote: {_name(target)} {gain}; {rest}."


def _is_exact(verdict: SliceVerdict) -> bool:
    """Over all items of a fixed benchmark nothing is left to be unsure of."""
    return (
        verdict.num_used == verdict.num_items and verdict.evidence.get("mode") != "superpopulation"
    )


def _items(verdict: SliceVerdict) -> str:
    return f"{verdict.num_used} of {count_items(verdict.num_items)}"


def _name(verdict: SliceVerdict) -> str:
    return _OVERALL.get(verdict.slice, verdict.slice)


def _reach(verdict: SliceVerdict, scale: Scale) -> str:
    """The change, after how many items, and its bounds: a mean alone is biased by the stopping."""
    change, total = scale.change(verdict.delta or 0.0), verdict.num_items
    if _is_exact(verdict):
        return f"{change} on {'all ' if total > 1 else ''}{count_items(total)}"
    reach = f"{change} after {_items(verdict)}"
    if verdict.lower is None or verdict.upper is None:
        return reach
    risk_below = float(verdict.evidence.get("alpha_pass") or 0.0)
    risk_above = float(verdict.evidence.get("alpha_fail") or 0.0)
    if verdict.state == "PASS":
        bound, risk = f"at least {scale.change(verdict.lower)}", risk_below
    elif verdict.state == "FAIL":
        bound, risk = f"at most {scale.change(verdict.upper)}", risk_above
    else:
        bound = f"between {scale.change(verdict.lower)} and {scale.change(verdict.upper)}"
        risk = risk_below + risk_above
    population = verdict.evidence.get("mode") == "superpopulation"
    where = "for items like these" if population else "over all of them"
    return f"{reach}, {bound} {where} with {100 * (1 - risk):.4g} % confidence"


def _requirement(verdict: SliceVerdict, scale: Scale) -> str:
    if verdict.role == "target":
        if verdict.threshold <= SLACK:
            return "it had to improve"
        return f"it had to improve by more than {scale.size(verdict.threshold)}"
    failed = verdict.state == "FAIL"
    below = " below it" if verdict.role == "anchor" else ""
    if verdict.threshold >= -SLACK:
        return f"no loss {'was' if failed else 'is'} allowed"
    size = scale.size(verdict.threshold)
    return f"at most {size}{below} {'were' if failed else 'are'} allowed"


def _fault(verdict: SliceVerdict, scale: Scale) -> str:
    """Of all items, what the change was; early, what is shown of it, with mean and bounds beside."""
    exact = _is_exact(verdict)
    seen = "" if exact else f" ({_reach(verdict, scale)})"
    size, needed = scale.size(verdict.delta or 0.0), scale.size(verdict.threshold)
    if verdict.role == "target":
        return f"{_name(verdict)} {_missed_gain(verdict, exact, size, needed)}{seen}"

    anchor = verdict.role == "anchor"
    if verdict.threshold >= -SLACK:
        fell = f"is {size} below the anchor" if anchor else f"fell by {size}"
        if not exact:
            fell = "is below the anchor" if anchor else "fell"
        return f"{verdict.slice} {fell}, where no loss is allowed{seen}"
    if exact:
        fell = f"is {size} below the anchor" if anchor else f"fell by {size}"
        return f"{verdict.slice} {fell}, more than the {needed} allowed"
    fell = "is below the anchor" if anchor else "fell"
    return f"{verdict.slice} {fell} by more than the {needed} allowed{seen}"


def _missed_gain(verdict: SliceVerdict, exact: bool, size: str, needed: str) -> str:
    delta = verdict.delta or 0.0
    if exact and delta > SLACK:
        return f"improved by {size}, not by more than the {needed} needed"
    if exact:
        return "did not improve" + (f": it fell by {size}" if delta < -SLACK else "")
    return "did not improve" + (
        f" by more than the {needed} needed" if verdict.threshold > SLACK else ""
    )


def _missed_floor(verdict: SliceVerdict, scale: Scale) -> str:
    floor = verdict.floor or 0.0
    if not _is_exact(verdict):
        return (
            f"{verdict.slice} can no longer reach its floor of {scale.score(floor)} after "
            f"{_items(verdict)}"
        )
    mean = verdict.challenger_mean or 0.0
    return f"{verdict.slice} is at {scale.score(mean)}, below its floor of {scale.score(floor)}"
