"""Many rows as columns: identities as numpy, texts fetched from the mapped files when asked for.

n rows cost 24 bytes each in memory; everything else stays on disk.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import pyarrow as pa

from ct_llm.prepare.clean.identity import Row
from ct_llm.prepare.overlap.near_duplicates import NUM_BANDS, Corpus, Sketches
from ct_llm.prepare.row_cache import CachedFile
from ct_llm.prepare.texts import split_text


class Rows:
    """The rows of some cached files, in the files' order, or a choice of them (`take`)."""

    def __init__(
        self,
        batches: Sequence[tuple[CachedFile, pa.RecordBatch]],
        batch: np.ndarray,
        place: np.ndarray,
        *,
        is_whole: bool = False,
    ) -> None:
        self.batches = batches
        self.batch = batch
        """int32 [n]: which of `batches`."""
        self.place = place
        """int32 [n]: where in it."""
        self._is_whole = is_whole

    @classmethod
    def of(cls, files: Sequence[CachedFile]) -> "Rows":
        batches = [(file, batch) for file in files for batch in file.batches]
        sizes = [batch.num_rows for _, batch in batches]
        return cls(
            batches,
            np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
            np.concatenate([np.arange(size, dtype=np.int32) for size in sizes] or [_NONE]),
            is_whole=True,
        )

    @classmethod
    def join(cls, one: "Rows", other: "Rows") -> "Rows":
        """The rows of one, then those of the other."""
        return cls(
            [*one.batches, *other.batches],
            np.concatenate([one.batch, other.batch + np.int32(len(one.batches))]),
            np.concatenate([one.place, other.place]),
        )

    def take(self, chosen: np.ndarray) -> "Rows":
        """Those of the indices, or where the mask is true."""
        rows = Rows(self.batches, self.batch[chosen], self.place[chosen])
        # What was gathered from the files once is not gathered again.
        for name in ("ids", "prompts"):
            if name in self.__dict__:
                rows.__dict__[name] = self.__dict__[name][chosen]
        if "sources" in self.__dict__:
            names, codes = self.sources
            rows.__dict__["sources"] = (names, codes[chosen])
        return rows

    def without(self, left_out: Iterable[int]) -> "Rows":
        keep = np.ones(len(self), bool)
        keep[list(left_out)] = False
        return self.take(keep)

    def __len__(self) -> int:
        return len(self.batch)

    # ------------------------------------------------------------ identities

    @cached_property
    def ids(self) -> np.ndarray:
        """uint64 [n, 2]: the first 16 of the 32 bytes of each row's id, enough to tell rows apart."""
        return self._gather("row_id")

    @cached_property
    def prompts(self) -> np.ndarray:
        """uint64 [n, 2]: the same of the prompts' ids."""
        return self._gather("prompt_id")

    @cached_property
    def text_hashes(self) -> np.ndarray:
        """uint64 [n]: of the texts as they were written, which rows of one id may differ in."""
        found = np.empty(len(self), np.uint64)
        for rows, places, _, batch in self._by_batch():
            found[rows] = batch["text_hash"].to_numpy()[places]
        return found

    def per_file(self, value: Callable[[CachedFile], float]) -> np.ndarray:
        """[n]: what `value` says of each row's file."""
        of_batch = np.array([value(file) for file, _ in self.batches])
        return of_batch[self.batch] if len(self) else np.empty(0)

    def _gather(self, column: str) -> np.ndarray:
        if self._is_whole:
            whole = [_identities(batch, column) for _, batch in self.batches]
            return np.concatenate([np.empty((0, 2), np.uint64), *whole])
        found = np.empty((len(self), 2), np.uint64)
        for rows, places, _, batch in self._by_batch():
            found[rows] = _identities(batch, column)[places]
        return found

    # ------------------------------------------------------------ texts

    def gather(self, chosen: np.ndarray | Sequence[int], names: Sequence[str]) -> pa.Table:
        """Columns of the chosen rows, in that order; `repo` and `path` are columns too."""
        some = self.take(np.asarray(chosen, np.int64))
        parts, rows_of = [], []
        for rows, places, file, batch in some._by_batch():
            at = pa.array(places)
            own = {"repo": file.repo, "path": file.path}
            parts.append(
                pa.table(
                    {
                        name: pa.repeat(own[name], len(at)) if name in own else batch[name].take(at)
                        for name in names
                    }
                )
            )
            rows_of.append(rows)
        if not parts:
            return pa.table({name: pa.array([], pa.string()) for name in names})
        order = np.argsort(np.concatenate(rows_of), kind="stable")
        return pa.concat_tables(parts).combine_chunks().take(pa.array(order))

    def row(self, index: int) -> Row:
        return self.rows([index])[0]

    def rows(self, chosen: Sequence[int] | np.ndarray) -> list[Row]:
        found = self.gather(chosen, Row._fields)
        return [
            Row(*values) for values in zip(*(c.to_pylist() for c in found.columns), strict=True)
        ]

    def row_ids(self) -> list[bytes]:
        """All 32 bytes of each."""
        return self.gather(np.arange(len(self)), ["row_id"])["row_id"].to_pylist()

    def messages(self, chosen: Sequence[int] | np.ndarray | range) -> list[str]:
        """JSON of each."""
        return self.gather(chosen, ["messages"])["messages"].to_pylist()

    def parts(self, chosen: Sequence[int]) -> list[tuple[str, str]]:
        """Prompt and response of each, as similarity sees them."""
        return [split_text(text) for text in self.messages(chosen)]

    @cached_property
    def sources(self) -> tuple[list[str], np.ndarray]:
        """Names of sources, sorted (some may have no row), and int32 [n]: which one each row has."""
        names: dict[str, int] = {}
        codes = np.empty(len(self), np.int32)
        for rows, places, _, batch in self._by_batch():
            encoded = batch.column("source").dictionary_encode()
            local = [names.setdefault(name, len(names)) for name in encoded.dictionary.to_pylist()]
            codes[rows] = np.asarray(local, np.int32)[encoded.indices.to_numpy()[places]]
        order = sorted(names)
        rank = np.empty(len(names), np.int32)
        for position, name in enumerate(order):
            rank[names[name]] = position
        return order, rank[codes] if len(self) else codes

    def count_by_source(self) -> Counter[str]:
        names, codes = self.sources
        sizes = np.bincount(codes, minlength=len(names)).tolist()
        return Counter({name: size for name, size in zip(names, sizes, strict=True) if size})

    # ------------------------------------------------------------ sketches

    def corpus(self) -> Corpus:
        """The rows for near-duplicate search, their sketches gathered."""
        found = [np.empty((len(self), NUM_BANDS), np.uint32) for _ in range(2)]
        for rows, places, _, batch in self._by_batch():
            for into, sketch in zip(found, _sketches(batch), strict=True):
                into[rows] = sketch[places]
        return Corpus(Sketches(*found), self.parts)

    def corpora(self) -> Iterator[Corpus]:
        """The batches of all files whole, whatever was taken, mapped and not gathered."""
        for _, batch in self.batches:
            yield Corpus(_sketches(batch), partial(_parts, batch))

    def _by_batch(
        self,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, CachedFile, pa.RecordBatch]]:
        """Per batch: indices here, places there, the file and the batch."""
        if len(self) == 0:
            return
        order = np.argsort(self.batch, kind="stable")
        edges = np.flatnonzero(np.diff(self.batch[order])) + 1
        for rows in np.split(order, edges):
            yield rows, self.place[rows], *self.batches[int(self.batch[rows[0]])]


_NONE = np.empty(0, np.int32)


def _parts(batch: pa.RecordBatch, rows: Sequence[int]) -> list[tuple[str, str]]:
    messages = batch.column("messages").take(pa.array(rows, pa.int64()))
    return [split_text(text) for text in messages.to_pylist()]


def _sketches(batch: pa.RecordBatch) -> Sketches:
    return Sketches(_bands(batch, "bands"), _bands(batch, "prompt_bands"))


def _identities(batch: pa.RecordBatch, column: str) -> np.ndarray:
    array = batch.column(column)
    flat = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * 32 :][: len(array) * 32]
    return flat.reshape(-1, 32)[:, :16].copy().view("<u8")


def _bands(batch: pa.RecordBatch, column: str) -> np.ndarray:
    return batch.column(column).flatten().to_numpy(zero_copy_only=True).reshape(-1, NUM_BANDS)


# ---------------------------------------------------------------- sets of identities


def first_of_each(ids: np.ndarray, *then: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of distinct ids, sorted by id, and for every row which of them it has.

    ids: uint64 [n, 2]; then: what decides which row of an id is first, the most important one first;
    after all of them the order of the rows. Gives int64 [m] and int64 [n].
    """
    order = np.argsort(ids[:, 0])
    # Few share their first half, so only these are sorted by the rest.
    half = ids[order, 0]
    shared = np.zeros(len(ids), bool)
    shared[1:] = half[1:] == half[:-1]
    shared[:-1] |= shared[1:]
    some = order[shared]
    keys = [some, *(key[some] for key in reversed(then)), ids[some, 1], ids[some, 0]]
    order[shared] = some[np.lexsort(keys)]
    sorted_ids = ids[order]
    is_first = np.ones(len(ids), bool)
    is_first[1:] = (sorted_ids[1:] != sorted_ids[:-1]).any(axis=1)
    group = np.empty(len(ids), np.int64)
    group[order] = np.cumsum(is_first) - 1
    return order[is_first], group


def known(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool [n]: which of `ids` are among `others` (uint64 [n, 2], [m, 2])."""
    if len(ids) == 0 or len(others) == 0:
        return np.zeros(len(ids), bool)
    # Few new ids against many old ones: sort the few, look the many up in them.
    order = np.lexsort((ids[:, 1], ids[:, 0]))
    keys = ids[order, 0]
    at = np.searchsorted(keys, others[:, 0])
    at[at == len(keys)] = 0
    candidates = others[keys[at] == others[:, 0]]
    found = {(int(high), int(low)) for high, low in candidates}
    return np.fromiter(((int(h), int(lo)) in found for h, lo in ids), bool, len(ids))
