"""Bad rows: written down where they came from and why, counted, and too many of them refused."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ct_llm.errors import DataError
from ct_llm.prepare.clean.identity import Row
from ct_llm.prepare.clean.rows import RejectedRow
from ct_llm.prepare.row_cache import CachedFile
from ct_llm.prepare.tables import CONTAMINATED, QUARANTINE, Append, table
from ct_llm.records import ContaminatedRow

_PLACES_SHOWN = 3
BY_CHOICE = {"dispreferred", "tool_calls"}
"""Rows that are not wanted, though nothing is wrong with them: no sign of a broken dataset."""


class Quarantine:
    def __init__(self, path: Path, append: Append, append_contaminated: Append) -> None:
        self._path = path
        self._append = append
        self._append_contaminated = append_contaminated
        self.counts: Counter[str] = Counter()
        """Rows by reason."""
        self._places: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, file: CachedFile, row: RejectedRow) -> None:
        self._add(file.repo, file.path, row.row_index, row.reason, row.original)

    def add_contaminated(self, row: Row, hit: ContaminatedRow) -> None:
        self._add(row.repo, row.path, row.row_index, "contaminated", row.messages)
        self._append_contaminated(tuple(hit.model_dump().values()))

    def _add(self, repo: str, path: str, row_index: int, reason: str, original: str) -> None:
        self._append((repo, path, row_index, reason, original))
        self.counts[reason] += 1
        if len(self._places[reason]) < _PLACES_SHOWN:
            self._places[reason].append(f"{repo}/{path} row {row_index}")

    def refuse_more_than(self, fraction: float, rows_read: int) -> None:
        """Raises DataError when more than `fraction` of the rows read are here, and not by choice."""
        damaged = Counter({r: count for r, count in self.counts.items() if r not in BY_CHOICE})
        num_bad = damaged.total()
        rows_read -= self.counts.total() - num_bad
        if num_bad <= fraction * rows_read:
            return
        reasons = "\n".join(
            f"  {reason}: {count:,} (first: {'; '.join(self._places[reason])})"
            for reason, count in damaged.most_common()
        )
        raise DataError(
            f"{num_bad:,} of {rows_read:,} new rows ({num_bad / rows_read:.1%}) are not fit to train "
            f"on, more than prepare.max_quarantine_fraction = {fraction:g} allows:\n{reasons}\n"
            f"All of them are in {self._path}. Mend the dataset, or allow more."
        )


@contextmanager
def quarantine(path: Path, contaminated: Path) -> Iterator[Quarantine]:
    """The files are whole when the block ends well."""
    with table(path, QUARANTINE) as append, table(contaminated, CONTAMINATED) as hits:
        yield Quarantine(path, append, hits)
