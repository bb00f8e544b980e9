"""Which prompts of a batch begin alike for so long that the beginning is worth computing once."""

from collections.abc import Sequence

MIN_SHARED = 24
"""Tokens in common below which two prompts are not looked at together."""
MIN_SAVED = 512
"""Tokens that a group must save: it costs two forward passes more, however short."""


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts have in common at their start."""
    shorter = min(len(first), len(second))
    if first[:shorter] == second[:shorter]:
        return shorter
    low, high = 0, shorter  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low


def prompt_groups(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """(tokens shared, indices of prompts), each prompt in one group; all that share little in one.

    At least one token of each prompt is left to its own: the next token is read off it.
    """
    order = sorted(range(len(prompts)), key=lambda index: list(prompts[index]))
    groups: list[tuple[int, list[int]]] = []
    for index in order:
        room = len(prompts[index]) - 1
        if groups:
            shared, members = groups[-1]
            with_it = min(common_prefix(prompts[members[-1]], prompts[index]), room)
            with_it = min(with_it, shared if len(members) > 1 else len(prompts[members[0]]) - 1)
            saved = shared * (len(members) - 1)
            if with_it >= MIN_SHARED and with_it * len(members) >= saved:
                groups[-1] = (with_it, [*members, index])
                continue
        groups.append((0, [index]))
    worth = [g for g in groups if g[0] * (len(g[1]) - 1) >= MIN_SAVED]
    rest = sorted(index for group in groups if group not in worth for index in group[1])
    worth = [(shared, sorted(members)) for shared, members in worth]
    return [*worth, *([(0, rest)] if rest else [])]
