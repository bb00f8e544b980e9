"""What is known at the moment of the decision; the rules and brakes are pure functions of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from ct_llm.records import DatasetState, DriftReport, PastCycle, SeenDataset
from ct_llm.watch.used import Use


@dataclass(frozen=True)
class Facts:
    now: datetime
    """UTC."""
    datasets: tuple[DatasetState, ...]
    num_new_rows: int
    """A row counts as often as its dataset's weight says."""
    champion: Use | None = None
    """None where there is none, or nothing is known of its data."""
    last_attempt: Use | None = None
    recent: tuple[PastCycle, ...] = ()
    """Newest first."""
    drift: DriftReport | None = None
    """None: not measured."""

    @property
    def is_bound(self) -> bool:
        """The new rows are at most so many."""
        return any(part.counted_by == "bounds" for part in self.datasets)

    @property
    def num_waiting_rows(self) -> int:
        """Rows that the last attempt has used in vain."""
        return sum(part.num_unseen_rows - part.num_new_rows for part in self.datasets)

    @property
    def cycles(self) -> list[PastCycle]:
        """Newest first, without rollbacks."""
        return [past for past in self.recent if past.outcome != "rolled_back"]

    @property
    def data_age_seconds(self) -> float | None:
        """Of the newest data that the champion was trained on."""
        return self._age(self.champion.datasets if self.champion else ())

    @property
    def compared_age_seconds(self) -> float | None:
        """Of the newest data that the champion was compared on.

        A holdout is drawn from its cycle's new rows, so it is as old as the data of that cycle: of the
        one that made the champion, or of a later one whose challenger lost against it.
        """
        if self.champion is None:
            return None
        attempted = self.last_attempt.datasets if self.last_attempt else ()
        return self._age((*self.champion.datasets, *attempted))

    def _age(self, datasets: Iterable[SeenDataset]) -> float | None:
        times = [moment(seen.as_of) for seen in datasets if seen.as_of is not None]
        return self.seconds_since(max(times)) if times else None

    def seconds_since(self, then: datetime) -> float:
        """0 for what another clock says is still to come."""
        return max(0.0, (self.now - then).total_seconds())


def moment(text: str) -> datetime:
    """ISO 8601 as the records have it; without an offset it is UTC."""
    parsed = datetime.fromisoformat(text)
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
