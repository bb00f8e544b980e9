"""Where lm-eval ends a generation: at a stop string, seen in a window of the newest tokens."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

EXTRA_TOKENS = 2
"""lm-eval looks back over this many tokens more than the stop string's own encoding has."""
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class StopStrings:
    """Tells whether a generation ends with its newest token, as lm-eval at batch size 1 does.

    lm-eval decodes, after every token and for every stop string, a window of the newest tokens
    (lm_eval.models.utils_hf.MultiTokenEOSCriteria). Here that is done only after tokens whose bytes
    can complete a stop string. Where decoding is not a plain joining of bytes, all tokens can.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._windows = [
            (stop, len(tokenizer.encode(stop, add_special_tokens=False)) + EXTRA_TOKENS)
            for stop in stops
        ]
        self._longest = max((size for _, size in self._windows), default=0)
        pieces = token_bytes(tokenizer)
        self._every_token = pieces is None or any(not s or "\ufffd" in s for s in stops)
        self._completing: frozenset[int] = frozenset()
        self._partial: frozenset[int] = frozenset()
        if pieces is not None and not self._every_token:
            ends = [stop.encode() for stop in stops]
            self._completing = frozenset(
                token
                for token, piece in enumerate(pieces)
                if any(_completes(piece, end) for end in ends)
            )
            self._partial = _partial_tokens(tokenizer)

    def ends(self, tokens: list[int]) -> bool:
        """Whether a generation, which none of its earlier tokens ended, ends with its last one."""
        if (
            not self._every_token
            and tokens[-1] not in self._completing
            # The bytes of a broken character change how their neighbours are shown.
            and self._partial.isdisjoint(tokens[-self._longest :])
        ):
            return False
        return any(stop in self._tokenizer.decode(tokens[-size:]) for stop, size in self._windows)


@lru_cache(maxsize=64)
def stop_strings(tokenizer: PreTrainedTokenizerBase, stops: tuple[str, ...]) -> StopStrings:
    """The same object for the same stop strings: it looks through the whole vocabulary once."""
    return StopStrings(tokenizer, stops)


def _completes(piece: bytes, stop: bytes) -> bool:
    """Whether text that ends with this piece can hold a stop string that it did not hold before."""
    if stop[-1] not in piece:
        return False
    heads = (piece[:end] for end, byte in enumerate(piece, start=1) if byte == stop[-1])
    return any(head.endswith(stop) or stop.endswith(head) for head in heads)


@lru_cache(maxsize=4)
def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes] | None:
    """What each token adds to a text, by id; None for a tokenizer that does not just join bytes.

    Known are the two kinds of byte-pair encoding, GPT-2's byte alphabet and SentencePiece's spaces
    with byte fallback. Whether they fit is seen from the text of the whole vocabulary.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if (
        type(getattr(backend, "model", None)).__name__ != "BPE"
        or tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    ):
        return None
    tokens: Any = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    if None in tokens:  # ids without a token: no such tokenizer is known, so nothing is assumed
        return None
    alphabet = {shown: byte for byte, shown in bytes_to_unicode().items()}
    joined = [_of_alphabet(token, alphabet) for token in tokens]
    text = tokenizer.decode(list(range(len(tokens))))
    if text == b"".join(joined).decode("utf-8", errors="replace"):
        return joined
    spaced = [_of_sentencepiece(token) for token in tokens]
    whole = [token for token in range(len(tokens)) if not BYTE_TOKEN.fullmatch(tokens[token])]
    text = tokenizer.decode(whole)
    expected = b"".join(spaced[token] for token in whole).decode()
    return spaced if text in (expected, expected.removeprefix(" ")) else None


@lru_cache(maxsize=4)
def _partial_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens whose text depends on their neighbours: parts of characters, and byte tokens."""
    tokens: Any = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    pieces = token_bytes(tokenizer)
    assert pieces is not None
    return frozenset(
        index
        for index, piece in enumerate(pieces)
        if BYTE_TOKEN.fullmatch(tokens[index]) or not _is_text(piece)
    )


def _of_alphabet(token: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes(alphabet[char] for char in token)
    except KeyError:  # an added token, which stands for itself
        return token.encode()


def _of_sentencepiece(token: str) -> bytes:
    if byte := BYTE_TOKEN.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace("\u2581", " ").encode()


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return False
    return True
