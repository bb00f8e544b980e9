"""Which earlier rows are mixed in with the new ones, against forgetting: seeded, each source its share."""

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
    order = np.lexsort((new_ids[:, 1], new_ids[:, 0]))
    key = key_of("replay", config.seed, new_ids[order].astype("<u8").tobytes().hex())
    keys = mixed(ids, key)
    by_source = np.argsort(sources, kind="stable")
    codes, starts, sizes = np.unique(sources[by_source], return_index=True, return_counts=True)
    wanted = num_wanted(config, len(new_ids), len(ids))
    # Of sources with the same claim to one row more, other ones have it in each cycle.
    turn = mixed(np.stack([codes, codes], axis=1).astype(np.uint64), key)
    chosen = []
    for start, size, share in zip(starts, sizes, shares(sizes, wanted, turn), strict=True):
        members = by_source[start : start + size]
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


def shares(sizes: np.ndarray, wanted: int, turn: np.ndarray) -> np.ndarray:
    """int64: `wanted` rows over the sources in proportion to their sizes, by the largest remainder.

    sizes, turn: int and uint64 [number of sources]. The shares sum to `wanted` (at most the sum of
    the sizes), none larger than its source; of equal remainders the lowest `turn` comes first.
    """
    sizes = sizes.astype(np.int64)
    total = int(sizes.sum())
    if not total:
        return np.zeros(len(sizes), np.int64)
    whole, rest = np.divmod(wanted * sizes, total)
    order = np.lexsort((turn, -rest))
    whole[order[: wanted - int(whole.sum())]] += 1
    return whole
