"""Which side a row is on, and in which order rows are written: from hashes alone, never from files.

Row and prompt ids are sha256 sums, so uniformly random already; a keyed mixing function makes as
many independent random numbers of one id as there are keys. All of it on whole columns.
"""

from hashlib import sha256

import numpy as np

_SCALE = 2.0**64


def key_of(*parts: object) -> np.uint64:
    """A key for `mixed`: the same for the same parts, on every machine."""
    text = "\0".join(str(part) for part in parts)
    return np.frombuffer(sha256(text.encode()).digest()[:8], "<u8")[0]


def mixed(ids: np.ndarray, key: np.uint64) -> np.ndarray:
    """uint64 [n] of uint64 [n, 2]: SplitMix64's finaliser (Steele et al., 2014) over id and key."""
    with np.errstate(over="ignore"):
        value = (ids[:, 0] ^ key) * np.uint64(0xFF51AFD7ED558CCD) + ids[:, 1]
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def on_holdout_side(prompts: np.ndarray, fraction: float, salt: str) -> np.ndarray:
    """bool [n]: true for about `fraction` of all prompts, and for ever the same ones.

    prompts: uint64 [n, 2]. The side hangs on the prompt alone: a prompt with several answers is never
    on both sides, and a larger fraction only adds to the holdout.
    """
    return mixed(prompts, key_of("holdout", salt)) < np.float64(fraction * _SCALE)


def copies(ids: np.ndarray, weight: float) -> np.ndarray:
    """int64 [n]: how often each row is taken, `weight` on average; 0.5 takes a fixed random half."""
    whole = int(weight)
    extra = mixed(ids, key_of("weight")) < np.float64((weight - whole) * _SCALE)
    return whole + extra.astype(np.int64)


def shuffled(ids: np.ndarray, seed: int, copy: np.ndarray | None = None) -> np.ndarray:
    """int64 [n]: an order of the rows that depends on rows and seed alone.

    copy: int [n], which repetition of its row each one is; repetitions fall in different places.
    """
    order = mixed(ids, key_of("order", seed))
    if copy is not None:
        again = np.stack([order, copy.astype(np.uint64)], axis=1)
        order = np.where(copy == 0, order, mixed(again, key_of("copy", seed)))
    return np.lexsort((ids[:, 1], ids[:, 0], order))
