"""Every row that is read has one fate: counted here, as a whole and by source."""

from collections import Counter, defaultdict

from ct_llm.prepare.columns import Rows


class Funnel:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.by_source: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def add(self, fate: str, rows: Rows) -> None:
        """This is what has become of these rows."""
        self.counts[fate] += 0  # also said where there is none
        for source, count in rows.count_by_source().items():
            self.add_count(fate, source, count)

    def sieve(self, fate: str, before: Rows, after: Rows) -> Rows:
        """What is not in `after` has met its fate; gives `after`."""
        self.counts[fate] += 0
        for source, count in (before.count_by_source() - after.count_by_source()).items():
            self.add_count(fate, source, count)
        return after

    def add_count(self, fate: str, source: str, count: int) -> None:
        self.counts[fate] += count
        self.by_source[source][fate] += count
