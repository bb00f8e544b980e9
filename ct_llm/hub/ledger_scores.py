"""Item scores on the ledger: `scores/<adapter>/<context>.parquet`, names cut to 16 characters.

An adapter that was compared once need not be evaluated again, on whichever machine: the challenger's
scores go up with its cycle's entry, and when it is the champion of the next cycle they are there.
The full keys stand in each file, so a name that was cut short is never taken for another.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING

from ct_llm.hub.client import explained, read_file
from ct_llm.hub.ledger import BRANCH
from ct_llm.hub.score_files import parse_score_file, score_file
from ct_llm.records import KnownScore

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Key = tuple[str, str]
"""(adapter, context), see `score_file`."""

NAME_CHARS = 16
MAX_OUTPUT_CHARS = 2_000
"""Of one item's answer: what a person reads of it. Scores are kept whole, whatever the answer."""
MAX_FILE_CHARS = 20_000_000
"""Of all answers of one file; beyond it they stay on the machine that made them."""
NUM_THREADS = 8


def score_path(adapter: str, context: str) -> str:
    return f"{_folder(adapter)}/{_cut(context)}.parquet"


class LedgerScores:
    """What the ledger knows; each adapter's folder is listed once, and only asked files are read."""

    def __init__(self, api: "HfApi", repo: str) -> None:
        self._api = api
        self._repo = repo
        self._listed: dict[str, dict[str, str | None]] = {}

    def read(self, adapter: str, context: str) -> dict[str, KnownScore]:
        """All that is known of the adapter in this context; a damaged file is a missing one.

        A request for a file that is there, none for one that is not, and one for each adapter.
        Raises HubAccessError, HubUnavailableError.
        """
        if adapter not in self._listed:
            self._listed[adapter] = _list(self._api, self._repo, BRANCH, adapter)
        path = score_path(adapter, context)
        if path not in self._listed[adapter]:
            return {}
        return _read(self._api, self._repo, BRANCH, (adapter, context))


def changed_files(
    api: "HfApi",
    repo: str,
    head: str,
    scores: Mapping[Key, Mapping[str, KnownScore]],
    *,
    texts: bool = True,
) -> dict[str, bytes]:
    """Path to content of what a commit on `head` must hold so that these scores are known too.

    What somebody else has added meanwhile stays. Long answers are shortened (MAX_OUTPUT_CHARS,
    MAX_FILE_CHARS); texts=False leaves all of them here. Raises HubAccessError, HubUnavailableError.
    """
    there: dict[str, str | None] = {}
    for adapter in {adapter for adapter, _ in scores}:
        there |= _list(api, repo, head, adapter)

    def changed(key: Key) -> tuple[str, bytes] | None:
        path, ours = score_path(*key), shortened(scores[key], texts=texts)
        if path not in there:
            return path, score_file(*key, ours)
        if there[path] == sha256(score_file(*key, ours)).hexdigest():
            return None
        known = _read(api, repo, head, key)
        # What is there already stays as it is: the same score, and an output as good as ours.
        together = {**ours, **known}
        return (path, score_file(*key, together)) if together != known else None

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        found = threads.map(changed, [key for key, known in scores.items() if known])
        return dict(file for file in found if file is not None)


def shortened(scores: Mapping[str, KnownScore], *, texts: bool = True) -> dict[str, KnownScore]:
    """With answers that are short enough to be kept for good; of a long one beginning and end."""
    cut = {key: known._replace(output=_shorten(known.output)) for key, known in scores.items()}
    if texts and sum(len(known.output) for known in cut.values()) <= MAX_FILE_CHARS:
        return cut
    return {key: known._replace(output="") for key, known in cut.items()}


def _shorten(text: str) -> str:
    if len(text) <= MAX_OUTPUT_CHARS:
        return text
    half = MAX_OUTPUT_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


def _read(api: "HfApi", repo: str, revision: str, key: Key) -> dict[str, KnownScore]:
    content = read_file(api, repo, score_path(*key), revision, "model")
    return {} if content is None else parse_score_file(content, *key) or {}


def _list(api: "HfApi", repo: str, revision: str, adapter: str) -> dict[str, str | None]:
    """Path of each of the adapter's files to its sha256, where the Hub says so; empty where repo,
    branch or folder is not there. One request."""
    from huggingface_hub import errors

    with explained("list the known scores", repo):
        try:
            tree = api.list_repo_tree(repo, _folder(adapter), revision=revision, repo_type="model")
            files = [(entry.path, getattr(entry, "lfs", None)) for entry in tree]
        except (
            errors.EntryNotFoundError,
            errors.RevisionNotFoundError,
            errors.RepositoryNotFoundError,
        ):
            return {}
    return {path: lfs.sha256 if lfs else None for path, lfs in files}


def _folder(adapter: str) -> str:
    return f"scores/{_cut(adapter)}"


def _cut(key: str) -> str:
    # `base:<revision>`: a colon is no letter of a path everywhere.
    return key.replace(":", "-")[:NAME_CHARS]
