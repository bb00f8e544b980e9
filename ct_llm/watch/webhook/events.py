"""What of an event concerns this configuration: new commits on a ref that one of its datasets follows.

The Hub's format, version 3: https://huggingface.co/docs/hub/webhooks. Only the fields that are needed
are read, so that whatever else the Hub adds to its events changes nothing here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from ct_llm.config import DatasetConfig
from ct_llm.records import Record

Name = Annotated[str, StringConstraints(max_length=256)]
Sha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")]

CONTENT = "repo.content"


class Push(Record):
    """A ref of a dataset repo has moved."""

    repo: str
    ref: str
    revision: str
    """Commit sha that it has moved to."""

    @property
    def key(self) -> str:
        return f"{self.repo} {self.ref} {self.revision}"


class Ignored(Record):
    reason: str


class _What(BaseModel):
    action: Name
    scope: Name


class _Repo(BaseModel):
    type: Name
    name: Name


class _UpdatedRef(BaseModel):
    ref: Annotated[str, StringConstraints(max_length=1024)]
    new_sha: Sha | None = Field(default=None, alias="newSha")


class _Payload(BaseModel):
    event: _What
    repo: _Repo
    updated_refs: list[_UpdatedRef] | None = Field(
        default=None, alias="updatedRefs", max_length=1000
    )


def followed_refs(datasets: Sequence[DatasetConfig]) -> dict[str, set[str]]:
    """Git refs by dataset repo, its name in lower case. Paths elsewhere than on the Hub have none."""
    followed: dict[str, set[str]] = {}
    for dataset in datasets:
        repo, revision = dataset.repo, dataset.revision
        if repo is None:
            on_hub = re.match(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?", dataset.path or "")
            if on_hub is None:
                continue
            repo, revision = on_hub[1], (on_hub[2] or "main").replace("%2F", "/")
        refs = {f"refs/heads/{revision}", f"refs/tags/{revision}", revision}
        followed.setdefault(repo.lower(), set()).update(refs)
    return followed


def read_event(
    body: bytes, followed: Mapping[str, set[str]], adapter_repo: str
) -> tuple[Push, ...] | Ignored:
    """The pushes that the event tells of, at least one, or why it is of no concern.

    Raises ValueError (pydantic's) when the body is no event of the Hub.
    """
    payload = _Payload.model_validate_json(body)
    event, repo = payload.event, payload.repo
    if repo.name.lower() == adapter_repo.lower() and repo.type == "model":
        return Ignored(reason="this is the adapter repo: its commits are our own")
    if repo.type != "dataset" or repo.name.lower() not in followed:
        return Ignored(reason="no dataset of the configuration")
    if event.scope != CONTENT and not event.scope.startswith(f"{CONTENT}."):
        return Ignored(reason="not about the content of the repo")
    if event.action not in ("create", "update"):
        return Ignored(reason="nothing was added")
    refs = followed[repo.name.lower()]
    moved = [updated for updated in payload.updated_refs or () if updated.ref in refs]
    if not moved:
        return Ignored(reason="no ref that is followed has moved")
    pushes = tuple(
        Push(repo=repo.name, ref=updated.ref, revision=updated.new_sha)
        for updated in moved
        if updated.new_sha is not None and updated.new_sha.strip("0")
    )
    return pushes or Ignored(reason="the ref was deleted")
