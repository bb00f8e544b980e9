"""lm-eval, transformers and datasets without their chatter."""

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHATTY = ("lm_eval", "transformers", "datasets", "peft", "accelerate", "huggingface_hub")


@contextmanager
def quiet() -> Iterator[None]:
    """Errors still come as exceptions; bars, prints and warnings do not reach the user.

    lm-eval builds its progress bars without a switch and prints batch sizes, so the two streams are
    taken from it as a whole; loggers go to handlers that kept the old streams, so they are muted too.
    May be nested and entered from several threads: the last one out gives everything back.
    """
    with _lock:
        _inside.append(_silence() if not _inside else _inside[-1])
    try:
        yield
    finally:
        with _lock:
            before = _inside.pop()
            if not _inside:
                _restore(before)


class _Nowhere(io.TextIOBase):
    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        return len(text)


_Before = tuple[Any, Any, dict[str, int]]
_lock = threading.Lock()
_inside: list[_Before] = []
"""For each `quiet` that is entered: the streams and log levels of before the first one."""


def _silence() -> _Before:
    before = sys.stdout, sys.stderr, {name: logging.getLogger(name).level for name in CHATTY}
    sys.stdout = sys.stderr = _Nowhere()
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return before


def _restore(before: _Before) -> None:
    sys.stdout, sys.stderr, levels = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
