"""Earlier rows, those that the champion has been trained on: known again, replayed, held out for good."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ct_llm.config import DatasetConfig, PrepareConfig
from ct_llm.prepare.columns import Rows, first_of_each, known
from ct_llm.prepare.fates import contamination, no_near_duplicates, not_like, preference
from ct_llm.prepare.overlap.decontaminate import Decontaminator
from ct_llm.prepare.replay import choose
from ct_llm.prepare.split import copies, key_of, mixed, on_holdout_side


class Earlier:
    """All earlier rows, and what becomes of each."""

    def __init__(
        self,
        rows: Rows,
        new: Rows,
        datasets: Sequence[DatasetConfig],
        config: PrepareConfig,
        num_bad: int,
    ) -> None:
        """new: the rows of new files, in which those of a rewritten file may stand again."""
        self.rows = rows
        """All of them, repeated ones too."""
        self._config = config
        self._datasets = datasets
        is_gone = rows.per_file(lambda file: not file.is_present)
        first, _ = first_of_each(rows.ids, is_gone, *preference(rows, datasets))
        distinct = rows if len(first) == len(rows) else rows.take(np.sort(first))
        num_distinct = len(distinct)
        # What its owner has deleted is known, but never used again.
        deleted = distinct.per_file(lambda file: not file.is_present).astype(bool)
        deleted[deleted] = ~known(distinct.ids[deleted], new.ids)
        if deleted.any():
            distinct = distinct.take(~deleted)
        held_out = on_holdout_side(distinct.prompts, config.holdout_fraction, config.holdout_salt)
        self.train = distinct.take(~held_out)
        self.historic = no_near_duplicates(
            _lowest(distinct.take(held_out), config), config.near_duplicates
        )
        """Held-out rows that go on being held against: a fixed random choice."""
        self.counts: Counter[str] = Counter(
            {
                "earlier:duplicate": len(rows) - num_distinct,
                "earlier:deleted": num_distinct - len(distinct),
                "earlier:holdout": int(held_out.sum()),
                "earlier:not_replayed": len(self.train),
                "earlier:unusable": num_bad,
            }
        )

    def replay(self, new_ids: np.ndarray, items: Decontaminator | None) -> Rows:
        """Rows to mix in with these new ones (uint64 [n, 2]), each source with its share."""
        train, near = self.train, self._config.near_duplicates
        times = copies_of(train, self._datasets)
        if not times.all():
            train = train.take(times > 0)
        rows = train.take(choose(train.ids, train.sources[1], new_ids, self._config.replay))
        self.counts["earlier:not_replayed"] -= len(rows)
        # Suites may have changed since the champion was trained on these rows.
        clean = rows.without(contamination(rows, items))
        self.counts["earlier:contaminated"] = len(rows) - len(clean)
        # The cycle that read them first had one of those that say the same, and nothing like what it
        # held out; which one, nobody needs to remember.
        replay = not_like(no_near_duplicates(clean, near), self.historic, near)
        self.counts["earlier:near_duplicate"] = len(clean) - len(replay)
        self.counts["replay"] = len(replay)
        return replay


def copies_of(rows: Rows, datasets: Sequence[DatasetConfig]) -> np.ndarray:
    """int64 [n]: how often each row goes into the training set, by its dataset's weight."""
    weights = {dataset.key: dataset.weight for dataset in datasets}
    if all(weight == 1 for weight in weights.values()):
        return np.ones(len(rows), np.int64)
    of_row = rows.per_file(lambda file: weights[file.dataset])
    times = np.ones(len(rows), np.int64)
    for weight in np.unique(of_row):
        members = np.flatnonzero(of_row == weight)
        times[members] = copies(rows.ids[members], float(weight))
    return times


def _lowest(held_out: Rows, config: PrepareConfig) -> Rows:
    order = np.argsort(mixed(held_out.ids, key_of("historic", config.holdout_salt)), kind="stable")
    return held_out.take(order[: config.max_historic_holdout])
