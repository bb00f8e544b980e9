"""Items that share a passage, where the question is about the distribution they came from.

Such items are no independent draws, but their clusters are. So the unit is the cluster: for cluster g,
z_g = sum over its items of (d_i - c) / m_max, with m_max the size of the largest one; theta <= c is
"the mean of z is at most 0". Item by item, a test of clustered scores passes wrongly in 70 % of
cases instead of 5 %. (About a fixed benchmark nothing of this is needed: there the randomness is the
order of the items alone.)

The clusters come in a random order of their own, and one counts once all of its items are scored and
all clusters before it count. The order in which they are completed would not do: small ones are
complete sooner, and they may differ. So with items in random order such a test needs nearly all of
them. It may end undecided.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ct_llm.gate.sequential import (
    Floats,
    SequentialState,
    SequentialTest,
    State,
    decide,
    furthest,
    rejects,
    state_after,
)


@dataclass(frozen=True)
class Clusters:
    """Which items belong together."""

    index: npt.NDArray[np.int64]
    """Shape [N]: the cluster of each item, numbered in the clusters' random order."""
    sizes: npt.NDArray[np.int64]
    """Shape [G]."""

    @property
    def largest(self) -> int:
        return int(self.sizes.max())


@lru_cache(maxsize=32)
def find_clusters(labels: tuple[str | None, ...]) -> Clusters:
    """labels: of all N items in their random order; None: an item of its own.

    The clusters are sorted by sha256 of the whole sequence of labels and their own, which no score
    has a part in. (The sequence differs with the seed of the items' order, so this order does too.)
    """
    names = [f"item\0{i}" if label is None else f"\0{label}" for i, label in enumerate(labels)]
    whole = hashlib.sha256("\0\0".join(names).encode()).hexdigest()
    order = sorted(set(names), key=lambda n: hashlib.sha256(f"{whole}\0{n}".encode()).digest())
    number = {name: g for g, name in enumerate(order)}
    index = np.array([number[name] for name in names], dtype=np.int64)
    return Clusters(index, np.bincount(index, minlength=len(order)))


def cluster_state_after(
    test: SequentialTest, differences: Floats, clusters: Clusters
) -> tuple[State, bool]:
    """The state after a prefix of the items, and is it certain (never).

    test: as stated for single items, in superpopulation mode; differences: shape [n].
    """
    z, of_clusters = _units(test, differences, clusters, test.threshold)
    return state_after(of_clusters, z)


def cluster_decide(
    test: SequentialTest, differences: Floats, clusters: Clusters
) -> SequentialState:
    """As `cluster_state_after`, with evidence and bounds; the bounds are of theta, as for items."""
    z, of_clusters = _units(test, differences, clusters, test.threshold)
    state = decide(of_clusters, z)

    def passes_at(m: float) -> bool:
        z, units = _units(test, differences, clusters, m)
        return rejects(units, z, 0.0, test.alpha_pass)

    def fails_at(m: float) -> bool:
        z, units = _units(test, differences, clusters, m)
        return rejects(units, z, 0.0, test.alpha_fail, upward=True)

    n = differences.size
    return replace(
        state,
        num_used=n,
        mean=math.fsum(differences) / n if n else None,
        lower=furthest(passes_at, test.low, test.high),
        upper=furthest(fails_at, test.high, test.low),
    )


def _units(
    test: SequentialTest, differences: Floats, clusters: Clusters, threshold: float
) -> tuple[Floats, SequentialTest]:
    """z of the leading clusters that are complete, and the test of their mean against 0."""
    index = clusters.index[: differences.size]
    size, num_clusters = clusters.largest, clusters.sizes.size
    complete = np.bincount(index, minlength=num_clusters) == clusters.sizes
    num_leading = num_clusters if complete.all() else int(np.argmin(complete))
    sums = np.bincount(index, weights=differences - threshold, minlength=num_clusters)
    low, high = test.low - threshold, test.high - threshold
    units = replace(
        test,
        num_items=num_clusters,
        threshold=0.0,
        # Small clusters have z closer to 0, so 0 belongs to the range.
        low=min(low, 0.0),
        high=max(high, 0.0),
    )
    return sums[:num_leading] / size, units


def cluster_labels(clusters: Sequence[str | None] | None) -> Clusters | None:
    """None where every item is a cluster of its own."""
    if clusters is None:
        return None
    found = find_clusters(tuple(clusters))
    return found if found.largest > 1 else None
