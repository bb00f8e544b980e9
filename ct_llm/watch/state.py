"""What a look leaves for the next one, so that a tick where nothing changed lists nothing."""

from collections.abc import Sequence

from ct_llm.config import DatasetConfig, WatchConfig
from ct_llm.digests import fingerprint
from ct_llm.records import DataSnapshot, WatchState
from ct_llm.watch.count import state_of
from ct_llm.watch.used import Use


def state_inputs(
    config: WatchConfig,
    datasets: Sequence[DatasetConfig],
    *,
    champion: Use | None,
    last_attempt: Use | None,
) -> str:
    """Identity of all that counts and drift depend on, but for the datasets' revisions."""
    return fingerprint([config.drift, list(datasets), champion, last_attempt])


def state_after(
    config: WatchConfig,
    datasets: Sequence[DatasetConfig],
    data: DataSnapshot,
    *,
    champion: Use | None,
    cycle: Use,
    promoted: bool,
) -> WatchState:
    """What a cycle leaves at its end: the look after it need not count what it has just used.

    champion: the one that the cycle began with.
    """
    parts = [
        state_of(part).model_copy(
            update={
                "num_unseen_rows": 0 if promoted else part.num_unseen_rows,
                "num_new_rows": 0,
                "notes": (),
            }
        )
        for part in data.datasets
    ]
    standing = cycle if promoted else champion
    inputs = state_inputs(config, datasets, champion=standing, last_attempt=cycle)
    return WatchState(inputs=inputs, datasets=tuple(parts))
