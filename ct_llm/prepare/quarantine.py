"""Bad rows: written down where they came from and why, counted, and too many of them refused."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ct_llm.errors import DataError
from ct_llm.prepare.rows import DataSource, RejectedRow
from ct_llm.prepare.tables import QUARANTINE, Append, table

_PLACES_SHOWN = 3


class Quarantine:
    def __init__(self, path: Path, append: Append) -> None:
        self._path = path
        self._append = append
        self.counts: Counter[str] = Counter()
        """Rows by reason."""
        self._places: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, source: DataSource, row: RejectedRow) -> None:
        file = source.file
        self._append((file.repo, file.path, row.row_index, row.reason, row.original))
        self.counts[row.reason] += 1
        if len(self._places[row.reason]) < _PLACES_SHOWN:
            self._places[row.reason].append(f"{file.repo}/{file.path} row {row.row_index}")

    def refuse_more_than(self, fraction: float, rows_read: int) -> None:
        """Raises DataError when more than `fraction` of the rows read are here."""
        num_bad = self.counts.total()
        if num_bad <= fraction * rows_read:
            return
        reasons = "\n".join(
            f"  {reason}: {count:,} (first: {'; '.join(self._places[reason])})"
            for reason, count in self.counts.most_common()
        )
        raise DataError(
            f"{num_bad:,} of {rows_read:,} new rows ({num_bad / rows_read:.1%}) are not fit to train "
            f"on, more than prepare.max_quarantine_fraction = {fraction:g} allows:\n{reasons}\n"
            f"All of them are in {self._path}. Mend the dataset, or allow more."
        )


@contextmanager
def quarantine(path: Path) -> Iterator[Quarantine]:
    """The file is whole when the block ends well."""
    with table(path, QUARANTINE) as append:
        yield Quarantine(path, append)
