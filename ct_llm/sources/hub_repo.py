"""A dataset repo on the Hub, at full commit shas."""

from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm.config import DatasetConfig
from ct_llm.errors import ContentGoneError, HubNotFoundError, HubUnavailableError
from ct_llm.hub.client import explained, resolve_head
from ct_llm.records import DataFile
from ct_llm.sources.readme import README, README_BYTES, ReadmeConfig, readme_configs
from ct_llm.sources.source import Head, iso_utc
from ct_llm.sources.splits import needs_readme, row_paths

if TYPE_CHECKING:
    from huggingface_hub import HfApi


class HubRepo:
    """`folder`: only files below it are taken; paths stay those of the repo."""

    def __init__(
        self,
        dataset: DatasetConfig,
        api: "HfApi",
        cache: Path,
        *,
        repo: str,
        revision: str,
        folder: str = "",
    ) -> None:
        self.dataset = dataset
        self.repo = repo
        self._api = api
        self._cache = cache
        self._ref = revision
        self._folder = folder

    def head(self) -> Head:
        """One request of about 1 KB. Raises HubNotFoundError, HubAccessError, HubUnavailableError."""
        sha, committed = resolve_head(self._api, self.repo, self._ref, "dataset")
        return Head(sha, iso_utc(committed) if committed else None)

    def files(self, revision: str) -> list[DataFile] | None:
        """One request per 1,000 files and folders, and one for a README that was not read before.

        A commit goes when history is squashed or force-pushed. Raises HubNotFoundError when the repo
        is not there, HubAccessError, HubUnavailableError, ConfigError (no such config or split),
        DataError (the README's YAML is damaged).
        """
        from huggingface_hub import RepoFile, errors

        with explained(f"list the files at {revision}", self.repo):
            try:
                tree = list(
                    self._api.list_repo_tree(
                        self.repo, recursive=True, revision=revision, repo_type="dataset"
                    )
                )
            except errors.RevisionNotFoundError:
                return None
        files = {
            entry.path: DataFile(
                path=entry.path,
                content_id=entry.lfs.sha256 if entry.lfs else entry.blob_id,
                num_bytes=entry.size,
                num_rows=None,
                seen=False,
            )
            for entry in tree
            if isinstance(entry, RepoFile)
        }
        configs = self._configs(files.get(README), revision)
        chosen = row_paths(files, self.dataset, configs, folder=self._folder)
        return [files[path] for path in chosen]

    def _configs(self, readme: DataFile | None, revision: str) -> list[ReadmeConfig]:
        if readme is None or not readme.num_bytes or not needs_readme(self.dataset):
            return []
        stop = min(readme.num_bytes, README_BYTES)
        return readme_configs(
            self.repo,
            self._cache,
            readme.content_id,
            lambda: self.read_range(README, revision, 0, stop),
        )

    def read_range(self, path: str, revision: str, start: int, stop: int) -> bytes:
        """One request. Raises HubNotFoundError, HubAccessError, HubUnavailableError."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

        url = hf_hub_url(
            self.repo, path, repo_type="dataset", revision=revision, endpoint=self._api.endpoint
        )
        headers = build_hf_headers(token=self._api.token, library_name="ct_llm")
        # Compressed on the way, it would be a range of other bytes.
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        with (
            explained(f"read a part of {path} at {revision}", self.repo),
            http_stream_backoff(
                "GET", url, headers=headers, follow_redirects=True, timeout=30, max_retries=2
            ) as response,
        ):
            hf_raise_for_status(response)
            # Streamed, because a proxy that ignores Range sends the whole file: gigabytes for one
            # number.
            partial = response.status_code == 206
            content = response.read() if partial else b""
        if len(content) != stop - start:
            got = f"{len(content)} bytes came" if partial else "the whole file was offered"
            raise HubUnavailableError(
                f"could not read a part of {path} at {revision} ({self.repo}): asked for "
                f"{stop - start} bytes, {got}. Is there a proxy that does not know Range? Run the "
                "same command again."
            )
        return content

    def open(self, path: str, revision: str) -> Path:
        """From the Hub's cache if it is there.

        Raises ContentGoneError, HubAccessError, HubUnavailableError, StorageError (disk full).
        """
        try:
            with explained(f"download {path} at {revision}", self.repo):
                return Path(
                    self._api.hf_hub_download(
                        self.repo, path, revision=revision, repo_type="dataset"
                    )
                )
        except HubNotFoundError as error:
            # It was listed, so it is no misspelt name: nothing will bring this revision back.
            raise ContentGoneError(str(error)) from error
