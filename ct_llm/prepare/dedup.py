"""What makes two rows the same, and which of them is kept.

Identity is over the normalised text: Unicode NFC, trimmed, runs of blanks as one. Case stays, since
in code it means something.
"""

import unicodedata
from collections.abc import Sequence
from hashlib import sha256
from json.encoder import encode_basestring
from typing import NamedTuple

from ct_llm.prepare.validate import Message


class Identity(NamedTuple):
    row: bytes
    """sha256 over all messages."""
    prompt: bytes
    """sha256 over everything before the last message: rows that differ in the answer share it."""


class Row(NamedTuple):
    """A clean row; compares by its text first, so that the smaller of two does not depend on files."""

    messages: str
    """JSON, as it was written: only the identity is normalised."""
    source: str
    repo: str
    path: str
    row_index: int


def identity(messages: Sequence[Message]) -> Identity:
    """Of messages that passed the checks: they hold no NUL, which can therefore keep them apart."""
    *prompt, answer = messages
    hasher = sha256()
    for message in prompt:
        hasher.update(_normalised(message))
    prompt_id = hasher.digest()
    hasher.update(_normalised(answer))
    return Identity(hasher.digest(), prompt_id)


def _normalised(message: Message) -> bytes:
    text = " ".join(unicodedata.normalize("NFC", message["content"]).split())
    return f"{message['role']}\0{text}\0".encode()


def messages_json(messages: Sequence[Message]) -> str:
    """What json.dumps gives, several times faster: roles are known words and need no escapes."""
    parts = [
        f'{{"role":"{message["role"]}","content":{encode_basestring(message["content"])}}}'
        for message in messages
    ]
    return f"[{','.join(parts)}]"


def keep_one(rows: dict[bytes, Row], row_id: bytes, row: Row) -> bool:
    """Add the row unless its like is there; True when it was new.

    Of rows that differ only in blanks the smallest stays, whichever file came first.
    """
    present = rows.get(row_id)
    if present is None or row < present:
        rows[row_id] = row
    return present is None
