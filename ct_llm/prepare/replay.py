"""Earlier rows, those the champion has been trained on: to know them again, and to mix some in.

There may be millions, so they are read twice and never held: first their digests, then the texts of
the rows that were chosen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from heapq import nsmallest

from ct_llm.config import ReplayConfig
from ct_llm.prepare.dedup import Row, keep_one
from ct_llm.prepare.rows import CleanRow, DataSource, clean_rows


class EarlierRows:
    """The digests of all earlier rows, and what became of each row while they were read."""

    def __init__(
        self, sources: Sequence[DataSource], max_chars: int, held_out: Callable[[bytes], bool]
    ) -> None:
        """`held_out`: whether a prompt is on the holdout side. Raises DataError."""
        self._sources = sources
        self._max_chars = max_chars
        self._source_of: dict[bytes, str | None] = {}
        """Short row id -> source; None for rows on the holdout side, which are never replayed."""
        self.counts: Counter[str] = Counter()
        for source in sources:
            for found in clean_rows(source, max_chars):
                if isinstance(found, CleanRow):
                    self._remember(found, held_out(found.id.prompt))
                else:
                    self.counts["earlier:unusable"] += 1

    def _remember(self, found: CleanRow, held_out: bool) -> None:
        row_id, name = _short(found.id.row), found.row.source
        if row_id in self._source_of:
            self.counts["earlier:duplicate"] += 1
            present = self._source_of[row_id]
            # The same row under two sources: the smaller name, whichever file came first.
            if present is not None and name < present:
                self._source_of[row_id] = name
        else:
            self.counts["earlier:holdout" if held_out else "earlier:train"] += 1
            self._source_of[row_id] = None if held_out else name

    def __contains__(self, row_id: bytes) -> bool:
        return _short(row_id) in self._source_of

    def sample(self, new_rows: Iterable[bytes], config: ReplayConfig) -> dict[bytes, Row]:
        """Rows to mix in with these new ones, each source with its share; by full row id."""
        new_rows = sorted(new_rows)
        by_source: dict[str, list[bytes]] = {}
        for row_id, name in self._source_of.items():
            if name is not None:
                by_source.setdefault(name, []).append(row_id)
        sizes = {name: len(row_ids) for name, row_ids in by_source.items()}
        wanted = num_wanted(config, len(new_rows), sum(sizes.values()))
        # The new rows are part of the key: with the seed alone every cycle would replay the same
        # rows again and never the others.
        key = sha256(f"replay\0{config.seed}\0".encode() + b"".join(new_rows)).digest()
        chosen = {
            row_id
            for name, share in shares(sizes, wanted).items()
            for row_id in nsmallest(share, by_source[name], lambda r: sha256(key + r).digest())
        }
        return self._fetch(chosen) if chosen else {}

    def _fetch(self, chosen: set[bytes]) -> dict[bytes, Row]:
        rows: dict[bytes, Row] = {}
        for source in self._sources:
            for found in clean_rows(source, self._max_chars):
                if isinstance(found, CleanRow) and _short(found.id.row) in chosen:
                    keep_one(rows, found.id.row, found.row)
        return rows


def num_wanted(config: ReplayConfig, num_new: int, num_earlier: int) -> int:
    if config.rows_per_new_row == "all":
        return num_earlier
    return min(num_earlier, round(config.rows_per_new_row * num_new))


def shares(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """`wanted` rows over the sources in proportion to their sizes, by the largest remainder.

    The shares sum to `wanted` (at most the sum of the sizes), none larger than its source; equal
    remainders go by name.
    """
    total = sum(sizes.values())
    if not total:
        return {}
    exact = {name: divmod(wanted * size, total) for name, size in sizes.items()}
    floors = {name: whole for name, (whole, _) in exact.items()}
    missing = wanted - sum(floors.values())
    by_remainder = sorted(exact, key=lambda name: (-exact[name][1], name))
    return {name: floors[name] + (name in by_remainder[:missing]) for name in floors}


def _short(row_id: bytes) -> bytes:
    """Half a digest is enough to tell rows apart and halves the memory of the largest table."""
    return row_id[:16]
