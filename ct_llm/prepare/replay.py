"""Which earlier rows are mixed in with the new ones, against forgetting: seeded, each source its share."""

from collections.abc import Mapping

import numpy as np

from ct_llm.config import ReplayConfig
from ct_llm.prepare.split import key_of, mixed


def choose(
    ids: np.ndarray, sources: np.ndarray, new_ids: np.ndarray, config: ReplayConfig
) -> np.ndarray:
    """int64: indices of the earlier rows to replay.

    ids: uint64 [n, 2] of earlier training rows; sources: int [n]; new_ids: uint64 [m, 2]. The new
    rows are part of the draw: with the seed alone every cycle would replay the same rows again.
    """
    codes, sizes = np.unique(sources, return_counts=True)
    wanted = num_wanted(config, len(new_ids), len(ids))
    order = np.lexsort((new_ids[:, 1], new_ids[:, 0]))
    keys = mixed(ids, key_of("replay", config.seed, new_ids[order].astype("<u8").tobytes().hex()))
    share_of = shares(dict(zip(codes.tolist(), sizes.tolist(), strict=True)), wanted)
    chosen = []
    for code, share in share_of.items():
        members = np.flatnonzero(sources == code)
        if share == 0:
            continue
        # Only those that can be among the first are sorted; where keys tie, the id decides.
        members = members[keys[members] <= np.partition(keys[members], share - 1)[share - 1]]
        by_key = np.lexsort((ids[members, 1], ids[members, 0], keys[members]))
        chosen.append(members[by_key[:share]])
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def num_wanted(config: ReplayConfig, num_new: int, num_earlier: int) -> int:
    if config.rows_per_new_row == "all":
        return num_earlier
    return min(num_earlier, round(config.rows_per_new_row * num_new))


def shares(sizes: Mapping[int, int], wanted: int) -> dict[int, int]:
    """`wanted` rows over the sources in proportion to their sizes, by the largest remainder.

    sizes: rows by source, the sources numbered in the order of their names. The shares sum to
    `wanted` (at most the sum of the sizes), none larger than its source; equal remainders go to the
    lower number.
    """
    total = sum(sizes.values())
    if not total:
        return {}
    exact = {source: divmod(wanted * size, total) for source, size in sizes.items()}
    floors = {source: whole for source, (whole, _) in exact.items()}
    missing = wanted - sum(floors.values())
    by_remainder = sorted(exact, key=lambda source: (-exact[source][1], source))
    return {source: floors[source] + (source in by_remainder[:missing]) for source in floors}
