"""The one door to `huggingface_hub`: client, errors in our words, and reading at fixed revisions.

Whether the Hub is huggingface.co or one of our own is decided by the endpoint alone.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ct_llm.config import BaseModelConfig, HubConfig
from ct_llm.digests import file_sha256, fingerprint
from ct_llm.errors import (
    ConfigError,
    HubAccessError,
    HubNotFoundError,
    HubUnavailableError,
    InputError,
    StorageError,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RepoType = Literal["model", "dataset"]

# Weights as safetensors, no pickles, no code: what is not fetched cannot be run.
BASE_MODEL_FILES = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.jinja",
    "*.model",
    "*.txt",
]


def use_endpoint(endpoint: str | None) -> None:
    """Make this process and its children speak to that Hub.

    huggingface_hub reads HF_ENDPOINT when it is imported, so this must come first. Raises
    ConfigError when it was already imported for another Hub.
    """
    if endpoint is None:
        return
    endpoint = endpoint.rstrip("/")
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None and endpoint != constants.ENDPOINT:
        raise ConfigError(
            f"hub.endpoint is {endpoint}, but huggingface_hub was already imported for "
            f"{constants.ENDPOINT}. Set HF_ENDPOINT={endpoint} before starting Python."
        )
    os.environ["HF_ENDPOINT"] = endpoint


def hub_api(hub: HubConfig) -> "HfApi":
    """A client with the user's token (HF_TOKEN, or the one of `hf auth login`)."""
    use_endpoint(hub.endpoint)
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint, library_name="ct_llm")


@contextmanager
def explained(doing: str, repo: str = "") -> Iterator[None]:
    """Turn the client's exceptions into ours: one table from what happened to what to do next.

    `doing` completes "could not ...". Raises HubNotFoundError, HubAccessError, InputError,
    HubUnavailableError. A 412 (the branch moved) is left to the caller, who knows what it means.
    """
    import httpx2
    from huggingface_hub import errors, get_token

    where = f" ({repo})" if repo else ""
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubAccessError(
            f"could not {doing}{where}: its owner asks users to accept terms first. Accept them on "
            f"the repo's page with the account of this token. {_said(error)}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubNotFoundError(
            f"could not {doing}{where}: no such revision. Check the branch, tag or commit; history "
            f"that was squashed or force-pushed is gone. {_said(error)}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        # An EntryNotFoundError by class, but it says: not in the cache, and the Hub cannot be asked.
        raise HubUnavailableError(
            f"could not {doing}{where}: it is not in the cache, and the Hub is not reachable. Check "
            "the network, hub.endpoint and HF_ENDPOINT, then run the same command again."
        ) from error
    except errors.EntryNotFoundError as error:
        raise HubNotFoundError(f"could not {doing}{where}: no such file. {_said(error)}") from error
    except errors.RepositoryNotFoundError as error:
        hint = (
            "No token is set: if the repo is private, export HF_TOKEN or run `hf auth login`."
            if get_token() is None
            else "Check the name, and that the token may see it."
        )
        raise HubNotFoundError(f"could not {doing}{where}: no such repo. {hint}") from error
    except errors.HFValidationError as error:
        raise InputError(f"could not {doing}{where}: {error}") from error
    except errors.LocalTokenNotFoundError as error:
        raise HubAccessError(
            f"could not {doing}{where}: no token. Export HF_TOKEN or run `hf auth login`."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 412:
            raise
        if status in (401, 403):
            hint = (
                "Export HF_TOKEN or run `hf auth login`."
                if get_token() is None
                else "The token is wrong, expired or may not do this; make one with write access."
            )
            raise HubAccessError(
                f"could not {doing}{where}: the Hub refused ({status}). {hint} {_said(error)}"
            ) from error
        if status in (408, 409, 429) or status >= 500:
            raise HubUnavailableError(
                f"could not {doing}{where}: the Hub answered {status}. Run the same command again "
                f"in a while. {_said(error)}"
            ) from error
        raise InputError(
            f"could not {doing}{where}: the Hub answered {status}. {_said(error)}"
        ) from error
    except (httpx2.TransportError, errors.OfflineModeIsEnabled, errors.FileMetadataError) as error:
        from huggingface_hub import constants

        raise HubUnavailableError(
            f"could not {doing}{where}: {constants.ENDPOINT} is not reachable "
            f"({type(error).__name__}). Check the network, hub.endpoint and HF_ENDPOINT, then run "
            "the same command again."
        ) from error
    except json.JSONDecodeError as error:
        raise HubUnavailableError(
            f"could not {doing}{where}: the answer was no JSON, so something else than a Hub has "
            "answered (a proxy, a login page). Check the network and hub.endpoint."
        ) from error
    except RuntimeError as error:
        # hf_xet, which moves large files, knows no other class for a connection that broke.
        if "CAS" not in str(error) and "Task error" not in str(error):
            raise
        raise HubUnavailableError(
            f"could not {doing}{where}: the transfer broke ({error}). Run the same command again."
        ) from error
    except OSError as error:
        raise StorageError(f"could not {doing}{where}: {error.strerror or error}.") from error


def _said(error: Exception) -> str:
    message = getattr(error, "server_message", None)
    return f"The Hub said: {message}" if message else ""


def resolve_revision(api: "HfApi", repo: str, revision: str, repo_type: RepoType) -> str:
    """The full commit sha of a branch, tag or commit. One small request."""
    return resolve_head(api, repo, revision, repo_type)[0]


def resolve_head(
    api: "HfApi", repo: str, revision: str, repo_type: RepoType
) -> tuple[str, datetime | None]:
    """The full commit sha of a branch, tag or commit, and when it was made, where the Hub says so.

    One request of about 1 KB: without `expand`, the answer names every file of the repo.
    """
    # A list, whatever the client's annotation says.
    fields: Any = ["sha", "lastModified"]
    with explained(f"find {repo_type} revision {revision!r}", repo):
        info = api.repo_info(repo, revision=revision, repo_type=repo_type, expand=fields)
    if not info.sha:
        raise HubNotFoundError(f"{repo_type} {repo} has no commit at {revision!r}.")
    return info.sha, info.last_modified


def read_file(
    api: "HfApi", repo: str, path: str, revision: str, repo_type: RepoType
) -> bytes | None:
    """A small file's bytes in one request, past every cache; None when repo or file is not there."""
    from huggingface_hub import errors, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    url = hf_hub_url(repo, path, repo_type=repo_type, revision=revision, endpoint=api.endpoint)
    with explained(f"read {path} at {revision}", repo):
        try:
            response = http_backoff(
                "GET",
                url,
                headers=build_hf_headers(token=api.token, library_name="ct_llm"),
                follow_redirects=True,
                timeout=30,
                max_retries=2,
            )
            hf_raise_for_status(response)
        except (
            errors.EntryNotFoundError,
            errors.RevisionNotFoundError,
            errors.RepositoryNotFoundError,
        ):
            return None
    return response.content


@dataclass(frozen=True)
class BaseModelFolder:
    """The base model on this disk, and what it is called everywhere else."""

    folder: Path
    repo: str
    revision: str
    """Commit sha; for a local folder the digest of its files."""


def fetch_base_model(api: "HfApi", config: BaseModelConfig) -> BaseModelFolder:
    """Download the base model once, at a fixed revision; a local folder is taken as it is.

    Raises HubNotFoundError or InputError when there is no model there with safetensors weights.
    """
    local = Path(config.repo)
    if local.is_dir():
        files = sorted({path for glob in BASE_MODEL_FILES for path in local.glob(glob)})
        revision = fingerprint({p.name: file_sha256(p) for p in files})
        found = BaseModelFolder(local, local.name, revision)
    else:
        from huggingface_hub import snapshot_download

        sha = resolve_revision(api, config.repo, config.revision, "model")
        with explained("download the base model", config.repo):
            folder = snapshot_download(
                config.repo,
                revision=sha,
                allow_patterns=BASE_MODEL_FILES,
                endpoint=api.endpoint,
                token=api.token,
                library_name="ct_llm",
            )
        found = BaseModelFolder(Path(folder), config.repo, sha)
    if not any(found.folder.glob("*.safetensors")) or not (found.folder / "config.json").is_file():
        raise InputError(
            f"base_model.repo: {config.repo} at {found.revision} has no config.json or no "
            ".safetensors weights; other formats are not loaded (pickles can run code)."
        )
    return found
