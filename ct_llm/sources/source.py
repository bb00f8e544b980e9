"""Where rows lie: a dataset repo on the Hub, a folder on this disk, or one behind an fsspec URL.

Everything is asked at a revision, so that what is pushed or copied in between changes nothing.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote

from ct_llm.config import DatasetConfig
from ct_llm.errors import ConfigError
from ct_llm.records import DataFile

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_HUB_FOLDER = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:@(?P<revision>refs/(?:pr/\d+|convert/[\w-]+)|[^/]+))?(?P<folder>/.*)?"
)


class Head(NamedTuple):
    """What is newest now."""

    revision: str
    """Commit sha; of a folder, the digest of the files in it that are used."""
    as_of: str | None
    """When it came to be, ISO 8601 in UTC, as far as the source tells."""


class Source(Protocol):
    @property
    def dataset(self) -> DatasetConfig: ...

    def head(self) -> Head:
        """What is there now. On the Hub one small request, whatever the repo's size."""
        ...

    def files(self, revision: str) -> list[DataFile] | None:
        """The files that hold rows to train on, by path, nothing counted; None: the revision is gone."""
        ...

    def read_range(self, path: str, revision: str, start: int, stop: int) -> bytes:
        """The bytes from `start` up to, not including, `stop`."""
        ...

    def open(self, path: str, revision: str) -> Path:
        """The file on this disk, as it was at `revision`; it is fetched at most once."""
        ...


def open_source(dataset: DatasetConfig, api: "HfApi", cache: Path) -> Source:
    """Nothing is asked yet. `cache`: a folder of ours, may be shared by datasets and processes.

    Raises ConfigError: a URL that cannot be a dataset's, or whose kind needs a package that is missing.
    """
    if dataset.repo is not None:
        from ct_llm.sources.hub_repo import HubRepo

        return HubRepo(dataset, api, cache, repo=dataset.repo, revision=dataset.revision)
    if dataset.place.startswith("hf://"):
        from ct_llm.sources.hub_repo import HubRepo

        place = _HUB_FOLDER.fullmatch(dataset.place)
        if place is None:
            raise ConfigError(
                f"datasets: path {dataset.place} is not hf://datasets/owner/name[@revision][/folder]."
            )
        return HubRepo(
            dataset,
            api,
            cache,
            repo=place["repo"],
            revision=unquote(place["revision"] or "main"),
            folder=(place["folder"] or "").strip("/"),
        )
    from ct_llm.sources.folder import FolderSource
    from ct_llm.sources.local_files import LocalFiles, local_root

    root = local_root(dataset.place)
    if root is not None:
        return FolderSource(dataset, LocalFiles(root, dataset.files), cache)
    from ct_llm.sources.remote_files import RemoteFiles

    return FolderSource(dataset, RemoteFiles(dataset.place), cache)


def iso_utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
