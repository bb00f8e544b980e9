"""What a version consists of, and the proof that its bytes are the evaluated ones.

The same files go into the commit on `main` and into a review's pull request, so merging a review
makes a champion like any other.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ct_llm import __version__
from ct_llm.config import PromoteConfig
from ct_llm.cycle_dir import now
from ct_llm.digests import ADAPTER_FILES, adapter_digest, fingerprint
from ct_llm.errors import AdapterError, HubAccessError, HubNotFoundError, SecurityError
from ct_llm.hub.adapter_repo import LINEAGE, OWN_FILES, SCORES, Tip, next_version, read_lineage
from ct_llm.hub.client import explained
from ct_llm.promote.model_card import CardFacts, model_card
from ct_llm.records import (
    CycleRequest,
    DataSnapshot,
    GateDecision,
    Lineage,
    PreparedData,
    SeenDataset,
    TrainedAdapter,
    UsedFile,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

Files = Mapping[str, bytes | Path]
"""Path in the repo -> content, or the file that holds it."""

# What an adapter put there by other means may have left behind.
FOREIGN_FILES = ("adapter_model.bin",)


def check_bytes(folder: Path, adapter: TrainedAdapter, decision: GateDecision) -> None:
    """Only what was evaluated goes to the Hub. Raises SecurityError; AdapterError if incomplete."""
    digest = adapter_digest(folder)
    if not digest == adapter.digest == decision.challenger_digest:
        raise SecurityError(
            f"{folder} holds adapter {digest[:12]}, but {adapter.digest[:12]} was trained and "
            f"{decision.challenger_digest[:12]} evaluated. Nothing was uploaded; run the cycle's "
            "train and evaluate steps again."
        )


def new_lineage(
    api: "HfApi", request: CycleRequest, snapshot: DataSnapshot, adapter: TrainedAdapter
) -> Lineage:
    """The challenger's lineage, under the next free version number."""
    champion = request.champion
    return Lineage(
        version=next_version(api, request.adapter_repo, champion.version if champion else 0),
        cycle_id=request.cycle_id,
        adapter_digest=adapter.digest,
        base_model=adapter.base_model,
        base_revision=adapter.base_revision,
        parent_revision=champion.revision if champion else None,
        datasets=seen_datasets(snapshot),
        created_at=now(),
        ct_llm_version=__version__,
        library_versions=adapter.library_versions,
    )


def version_files(
    config: PromoteConfig,
    *,
    api: "HfApi",
    request: CycleRequest,
    data: PreparedData,
    lineage: Lineage,
    adapter_folder: Path,
    decision: GateDecision,
) -> dict[str, bytes | Path]:
    """Everything that a version's commit holds; what else lies in the folder stays on this machine."""
    files: dict[str, bytes | Path] = {
        name: adapter_folder / name for name in OWN_FILES if (adapter_folder / name).is_file()
    }
    # Read once: the bytes whose digest is checked are then the bytes that are sent.
    adapter_config = (adapter_folder / "adapter_config.json").read_bytes()
    card = CardFacts(
        repo=request.adapter_repo,
        lineage=lineage,
        champion=request.champion,
        decision=decision,
        data=data,
        license=config.license or _base_license(api, lineage),
        rank=_rank(adapter_folder, adapter_config),
    )
    return {
        **files,
        "adapter_config.json": adapter_config,
        LINEAGE: lineage.model_dump_json(indent=2).encode() + b"\n",
        SCORES: _without_text(decision).model_dump_json(indent=2).encode() + b"\n",
        "README.md": model_card(card).encode(),
    }


def upload(
    api: "HfApi", repo: str, files: Files, *, digest: str, create_pr: bool = False
) -> "list[CommitOperationAdd]":
    """Send the contents ahead of the commit that will name them.

    Raises SecurityError when what was sent is not the adapter with this digest: the folder was
    changed since it was checked. No commit names the contents then.
    """
    from huggingface_hub import CommitOperationAdd

    additions = [CommitOperationAdd(path, content) for path, content in files.items()]
    api.preupload_lfs_files(repo, additions, create_pr=create_pr)
    sent = {op.path_in_repo: op.upload_info.sha256.hex() for op in additions}
    if fingerprint({name: sent[name] for name in ADAPTER_FILES}) != digest:
        raise SecurityError(
            f"{repo}: the adapter's files changed while they were uploaded. Nothing was committed; "
            "run the cycle's train and evaluate steps again."
        )
    return additions


def stale_files(tip: Tip, new: Iterable[str]) -> "list[CommitOperationDelete]":
    """Take away what the previous champion had and this one has not; other files stay."""
    from huggingface_hub import CommitOperationDelete

    stale = tip.files.intersection((*OWN_FILES, *FOREIGN_FILES)).difference(new)
    return [CommitOperationDelete(path) for path in sorted(stale)]


def find_on_main(
    api: "HfApi", repo: str, *, after: str | None, is_ours: Callable[[Lineage], bool]
) -> str | None:
    """The first commit on `main` since `after` whose lineage is ours; later ones may follow it."""
    with explained("look for the commit", repo):
        history = [commit.commit_id for commit in api.list_repo_commits(repo, repo_type="model")]
    if after in history:
        history = history[: history.index(after)]
    for revision in reversed(history):
        try:
            lineage = read_lineage(api, repo, revision)
        except HubNotFoundError:
            continue
        if is_ours(lineage):
            return revision
    return None


def seen_datasets(snapshot: DataSnapshot) -> tuple[SeenDataset, ...]:
    return tuple(
        SeenDataset(
            name=part.name,
            # Where a folder lies on this machine is nobody's business.
            repo=part.name if Path(part.repo).is_absolute() else part.repo,
            revision=part.revision,
            num_rows=part.num_rows,
            as_of=part.as_of,
        )
        for part in snapshot.datasets
    )


def used_files(snapshot: DataSnapshot) -> list[UsedFile]:
    """Everything that an adapter of this cycle, or the champion before it, has been trained on.

    Content that was removed from the dataset stays: were it to come back, it would not be new.
    """
    return [
        UsedFile(
            name=part.name,
            path=file.path,
            content_id=file.content_id,
            num_bytes=file.num_bytes,
            num_rows=file.num_rows,
            revision=file.revision or part.revision,
        )
        for part in snapshot.datasets
        for file in (*part.files, *part.removed_files)
    ]


def _without_text(decision: GateDecision) -> GateDecision:
    # Benchmark items in a public repo end up in training sets; ids and deltas tell enough.
    silent = {"prompt": "", "champion_output": "", "challenger_output": ""}
    damaged = tuple(item.model_copy(update=silent) for item in decision.damaged_items)
    return decision.model_copy(update={"damaged_items": damaged})


def _base_license(api: "HfApi", lineage: Lineage) -> str | None:
    """The base model's license, as an adapter is a work derived from it."""
    if "/" not in lineage.base_model:
        return None
    try:
        with explained("read the base model's license", lineage.base_model):
            info = api.model_info(lineage.base_model, revision=lineage.base_revision)
    except (HubNotFoundError, HubAccessError):
        # Trained from a copy on this disk; a missing line of the card must not stop a promotion.
        return None
    value = info.card_data.get("license") if info.card_data else None
    return value if isinstance(value, str) else None


def _rank(folder: Path, adapter_config: bytes) -> int | None:
    try:
        rank = json.loads(adapter_config)["r"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{folder}/adapter_config.json is not a LoRA's: {error!r}.") from None
    return rank if isinstance(rank, int) else None
