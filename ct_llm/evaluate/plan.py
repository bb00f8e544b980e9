"""In which batches the items come: the one random order, cut up.

The items' order is drawn before any score (`digests.random_order`); here it is only followed. Which
slices go on is decided elsewhere, after every batch.
"""

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from ct_llm.records import OrderedItem

Schedule = Literal["slices", "pooled"]

MIN_SHARE = 64
"""Items. Measured on one core, two adapters on a model of 0.85 M parameters: generating in shares of
32 takes 1.4 times as long, of 128 no less."""
MAX_SHARES = 8


class Batch(NamedTuple):
    """Items that are scored between two looks at whether the answer is certain."""

    number: int
    """0, 1, 2, ... over the whole evaluation."""
    slice: str | None
    """None: of several slices."""
    items: tuple[OrderedItem, ...]


class Plan:
    """Deals the items out, batch by batch, each slice's in its order and each item once.

    `slices`: round robin, a batch of each slice that is still wanted. `pooled`: batches of the one
    order over all slices, as long as any is wanted.
    """

    def __init__(
        self,
        items: Sequence[OrderedItem],
        *,
        slices: Sequence[str],
        schedule: Schedule,
        batch_items: int,
    ) -> None:
        self.items = tuple(items)
        self.schedule: Schedule = schedule
        self.batch_items = batch_items
        self.num_dealt = 0
        self.num_batches = 0
        self._queues = {
            name: [item for item in items if item.slice == name] for name in dict.fromkeys(slices)
        }
        self._dealt = dict.fromkeys(self._queues, 0)
        self._turns = list(self._queues)

    def order(self, slice_name: str) -> tuple[OrderedItem, ...]:
        """All items of one slice, in the order induced by the one order."""
        return tuple(self._queues[slice_name])

    def unfinished(self) -> list[str]:
        """Slices with items left."""
        return [name for name, queue in self._queues.items() if self._dealt[name] < len(queue)]

    def next_batch(self, wanted: Collection[str], at_most: int | None = None) -> Batch | None:
        """The next items, of a wanted slice or of the one order; None: there are none left of these.

        at_most: items that the budget still allows.
        """
        going_on = [name for name in self.unfinished() if name in wanted]
        size = self.batch_items if at_most is None else min(self.batch_items, at_most)
        if not going_on or size <= 0:
            return None
        if self.schedule == "pooled":
            name, items = None, self.items[self.num_dealt : self.num_dealt + size]
        else:
            name = next(turn for turn in self._turns if turn in going_on)
            self._turns.remove(name)
            self._turns.append(name)
            items = self._queues[name][self._dealt[name] : self._dealt[name] + size]
        batch = Batch(self.num_batches, name, tuple(items))
        for item in items:
            self._dealt[item.slice] += 1
        self.num_dealt += len(items)
        self.num_batches += 1
        return batch


def shares(items: Sequence[OrderedItem], batch_items: int) -> list[tuple[OrderedItem, ...]]:
    """A batch cut into what one process scores at a time, whatever the number of processes is.

    Likelihoods differ in their last digits with the shape of a forward pass, so every number of
    processes must make the same passes for the scores to be the same, bit for bit. batch_items: of
    the config, so that a last, smaller batch is cut alike.
    """
    size = _share_items(batch_items)
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def idle_ranks(batch_items: int, num_ranks: int) -> int:
    """Processes that get no share of a full batch."""
    return max(0, num_ranks - -(-batch_items // _share_items(batch_items)))


def _share_items(batch_items: int) -> int:
    return max(MIN_SHARE, -(-batch_items // MAX_SHARES))
