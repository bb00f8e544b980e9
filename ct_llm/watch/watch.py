"""The watch step: what is new in the dataset repos, and is it reason enough to train?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ct_llm.config import DatasetConfig, WatchConfig
from ct_llm.errors import ConfigError
from ct_llm.hub.client import resolve_revision
from ct_llm.records import DataSnapshot, Lineage, SeenDataset, TriggerDecision
from ct_llm.watch.count import nothing_new, snapshot
from ct_llm.watch.decide import decide

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def watch(
    config: WatchConfig,
    datasets: Sequence[DatasetConfig],
    *,
    api: "HfApi",
    champion: Lineage | None,
    last_attempt: Sequence[SeenDataset],
    now: str,
) -> tuple[TriggerDecision, DataSnapshot]:
    """Count the rows that the champion's lineage has not seen, and decide.

    champion: None where there is none, or nothing is known of it: then all rows are unseen.
    last_attempt: what the newest cycle used, whatever came of it; its rows do not count towards the
    trigger again. now: UTC, ISO 8601. Reads only; one request a dataset when nothing changed.

    Raises ConfigError, HubNotFoundError, HubAccessError, HubUnavailableError, DataError.
    """
    _check_listed_once(datasets)
    used = {part.repo: part for part in champion.datasets} if champion else {}
    attempted = {part.repo: part for part in last_attempt}
    revisions = {
        dataset.repo: resolve_revision(api, dataset.repo, dataset.revision, "dataset")
        for dataset in datasets
    }
    if all(repo in used and used[repo].revision == sha for repo, sha in revisions.items()):
        parts = tuple(nothing_new(used[repo]) for repo in revisions)
    else:
        # All of them, the unchanged ones too: their rows are what a cycle replays.
        parts = tuple(
            snapshot(
                api,
                dataset,
                revisions[dataset.repo],
                champion=used.get(dataset.repo),
                attempted=attempted.get(dataset.repo),
            )
            for dataset in datasets
        )
    data = DataSnapshot(
        datasets=parts,
        num_unseen_rows=sum(part.num_unseen_rows for part in parts),
        num_new_rows=sum(part.num_new_rows for part in parts),
    )
    return decide(config, data, now=now), data


def _check_listed_once(datasets: Sequence[DatasetConfig]) -> None:
    """Lineage and ledger know a repo by its name: two entries would be taken for each other."""
    repos = [dataset.repo for dataset in datasets]
    for index, repo in enumerate(repos):
        if repo in repos[:index]:
            raise ConfigError(
                f"datasets[{index}].repo: {repo} is listed twice. Keep one entry, with a `files` glob "
                "that matches what both were to read."
            )
