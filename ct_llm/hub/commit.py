"""One commit, exactly once, over a network that loses answers.

A commit can land although its answer never arrives. So whoever commits also says how to recognise
its own commit, and after every doubtful answer the Hub is looked at before anything is tried again.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ct_llm.errors import HubUnavailableError, InputError
from ct_llm.hub.client import explained

Made = TypeVar("Made")

PAUSES = (1.0, 4.0)
"""Seconds before the second and the third try."""


def commit_once(
    make: Callable[[], Made], find: Callable[[], Made | None], *, doing: str, repo: str
) -> Made | None:
    """What `make` commits, or what `find` sees of it on the Hub after an answer was lost.

    None when the branch is no longer where `make` expected it (412) and the commit is not there.
    `make` must build its operations anew on every call: the client changes those it has sent.

    Raises HubUnavailableError when the last try fails too, HubAccessError, HubNotFoundError,
    InputError.
    """
    from huggingface_hub.errors import HfHubHTTPError

    for pause in (*PAUSES, None):
        try:
            with explained(doing, repo), uploads_explained(doing, repo):
                return make()
        except HubUnavailableError:
            found = find()
            if found is not None:
                return found
            if pause is None:
                raise
            time.sleep(pause)
        except HfHubHTTPError:  # 412: the only status that `explained` lets through
            return find()
    raise AssertionError("the last try either returns or raises")


@contextmanager
def uploads_explained(doing: str, repo: str) -> Iterator[None]:
    """What the client raises as bare RuntimeError and ValueError while it uploads."""
    try:
        yield
    except RuntimeError as error:
        # "Error while uploading ...": a worker thread's exception; its cause says what happened.
        if error.__cause__ is None:
            raise
        raise error.__cause__ from error
    except json.JSONDecodeError as error:
        # The client reads the answer to the card's check before it looks at the status.
        raise HubUnavailableError(
            f"could not {doing} ({repo}): the Hub's answer was no JSON. Run the same command again."
        ) from error
    except ValueError as error:
        if "Invalid metadata in README.md" not in str(error):
            raise
        raise InputError(
            f"could not {doing} ({repo}): the Hub refuses the model card's metadata. Set "
            f"promote.license to an identifier that it knows. {error}"
        ) from error
