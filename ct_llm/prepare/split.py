"""Which side a row is on, and in which order rows are written: both from hashes, never from files."""

from collections.abc import Iterable
from hashlib import sha256


def on_holdout_side(prompt_id: bytes, fraction: float, salt: str) -> bool:
    """True for about `fraction` of all prompts, and for ever the same ones.

    The side hangs on the prompt alone: a prompt with several answers is never on both sides, and a
    larger fraction only adds to the holdout.
    """
    digest = sha256(salt.encode() + b"\0" + prompt_id).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64


def shuffled(row_ids: Iterable[bytes], seed: int) -> list[bytes]:
    """The same rows in the same order, however they came: sorted by a hash of seed and row."""
    key = f"order\0{seed}\0".encode()
    return sorted(row_ids, key=lambda row_id: sha256(key + row_id).digest())
