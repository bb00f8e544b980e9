"""lm-eval, transformers and datasets without their chatter."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

CHATTY = ("lm_eval", "transformers", "datasets", "peft", "accelerate", "huggingface_hub")


@contextmanager
def quiet() -> Iterator[None]:
    """Errors still come as exceptions; bars, prints and warnings do not reach the user.

    lm-eval builds its progress bars without a switch and prints batch sizes, so the two streams are
    taken from it as a whole; loggers go to handlers that kept the old streams, so they are muted too.
    """
    levels = {name: logging.getLogger(name).level for name in CHATTY}
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
