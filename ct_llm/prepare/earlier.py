"""Earlier rows, those that the champion has been trained on: known again, replayed, held out for good."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ct_llm.config import DatasetConfig, PrepareConfig
from ct_llm.prepare.columns import Rows, first_of_each
from ct_llm.prepare.fates import contamination
from ct_llm.prepare.overlap.decontaminate import Decontaminator
from ct_llm.prepare.replay import choose
from ct_llm.prepare.split import copies, key_of, mixed, on_holdout_side


class Earlier:
    """All earlier rows, and what becomes of each."""

    def __init__(
        self, rows: Rows, datasets: Sequence[DatasetConfig], config: PrepareConfig, num_bad: int
    ) -> None:
        self.rows = rows
        """All of them, repeated ones too."""
        self._config = config
        _, sources = rows.sources
        # The same row under two sources: the smaller name, whichever file came first.
        first = np.sort(first_of_each(rows.ids, sources)[0])  # files are read from front to back
        distinct = rows if len(first) == len(rows) else rows.take(first)
        held_out = on_holdout_side(distinct.prompts, config.holdout_fraction, config.holdout_salt)
        self.train = distinct.take(~held_out)
        self._sources = sources[first][~held_out]
        self._datasets = datasets
        self.historic = _lowest(distinct.take(held_out), config)
        """Held-out rows that go on being held against: a fixed random choice."""
        self.counts: Counter[str] = Counter(
            {
                "earlier:duplicate": len(rows) - len(distinct),
                "earlier:holdout": int(held_out.sum()),
                "earlier:not_replayed": len(self.train),
                "earlier:unusable": num_bad,
            }
        )

    def replay(self, new_ids: np.ndarray, suites: Decontaminator | None) -> Rows:
        """Rows to mix in with these new ones (uint64 [n, 2]), each source with its share."""
        train, sources = self.train, self._sources
        times = copies_of(train, self._datasets)
        if not times.all():
            train, sources = train.take(times > 0), sources[times > 0]
        rows = train.take(choose(train.ids, sources, new_ids, self._config.replay))
        # Suites may have changed since the champion was trained on these rows.
        clean = rows.without(contamination(rows, suites))
        self.counts["earlier:not_replayed"] -= len(rows)
        self.counts["earlier:contaminated"] = len(rows) - len(clean)
        self.counts["replay"] = len(clean)
        return clean


def copies_of(rows: Rows, datasets: Sequence[DatasetConfig]) -> np.ndarray:
    """int64 [n]: how often each row goes into the training set, by its dataset's weight."""
    weights = {dataset.key: dataset.weight for dataset in datasets}
    if all(weight == 1 for weight in weights.values()):
        return np.ones(len(rows), np.int64)
    of_batch = np.array([weights[file.dataset] for file, _ in rows.batches])
    of_row = of_batch[rows.batch]
    times = np.ones(len(rows), np.int64)
    for weight in np.unique(of_row):
        members = np.flatnonzero(of_row == weight)
        times[members] = copies(rows.ids[members], float(weight))
    return times


def _lowest(held_out: Rows, config: PrepareConfig) -> Rows:
    order = np.argsort(mixed(held_out.ids, key_of("historic", config.holdout_salt)), kind="stable")
    return held_out.take(order[: config.max_historic_holdout])
