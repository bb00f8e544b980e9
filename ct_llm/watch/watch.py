"""The watch step: what is new in the dataset repos, and is it reason enough to train?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ct_llm.config import DatasetConfig, WatchConfig
from ct_llm.records import DataSnapshot, Lineage, SeenDataset, TriggerDecision
from ct_llm.watch.count import snapshot
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

    Raises HubNotFoundError, HubAccessError, HubUnavailableError, DataError.
    """
    seen = {part.repo: part for part in champion.datasets} if champion else {}
    attempted = {part.repo: part for part in last_attempt}
    parts = tuple(
        snapshot(
            api,
            dataset,
            champion=seen.get(dataset.repo),
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
