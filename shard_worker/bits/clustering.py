"""Grouping bits into lists: k-means in the Hamming space, with a faster quantizer.

What FAISS does out of the box takes 297 s to train 8,192 lists and 113 s to add 4 M rows of 1,024
bits (measured on 2 cores): its quantizer compares every row with every centroid. Here a centroid is
the majority vote of its rows' bits, rows are assigned by Hamming distance, and centroids are
themselves grouped, so that a row is compared with the centroids of the nearest groups only.

Centroids are bits, like rows. Ranking the lists by the fp32 query and fp32 means instead found no
more (0.984 and 0.983 of the candidates at 6 % of 2 M synthetic rows), at 32 times the RAM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.bits.hamming import ListScanner, nearest

ROWS_PER_LIST = 150
"""Aimed at; the number of lists is a power of two (16,384 for 2 M rows, 32,768 for 5 M and more).
2 M synthetic rows of 1,024 bits: to find 0.98 of the exact scan's candidates, 15 % of the rows had
to be compared with 1,024 lists, 7 % with 4,096, 2 % with 16,384. Ranking the lists then costs as
much as scanning them, and training grows with the square of their number."""
LISTS_MAX = 1 << 15
SAMPLE_PER_LIST = 24
ROUNDS = 5
GROUPED_FROM = 1_024
"""Fewer centroids are compared with every row directly."""
GROUPS_VISITED = 1 / 8
_ASSIGN_ROWS = 4_096
_UNPACK_ROWS = 8_192
_SEED = 20_240_131


def lists_for(rows: int) -> int:
    """How many lists ``rows`` rows are grouped into: a power of two from 1 to LISTS_MAX."""
    return int(min(LISTS_MAX, 2 ** max(0, round(np.log2(max(1, rows / ROWS_PER_LIST))))))


def train(sample: NDArray[np.uint8], lists: int, rounds: int = ROUNDS) -> NDArray[np.uint8]:
    """Centroids uint8 (lists, row_bytes) of ``sample`` uint8 (n ≥ lists, row_bytes).

    A list that loses all its rows starts again from a random one.
    """
    random = np.random.default_rng(_SEED)
    centroids = sample[np.sort(random.choice(len(sample), lists, replace=False))]
    for _ in range(rounds):
        owners = Quantizer(centroids).assign(sample)
        centroids, empty = _majorities(sample, owners, lists)
        centroids[empty] = sample[random.integers(0, len(sample), int(empty.sum()))]
    return centroids


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Centroids grouped among themselves: ``order`` sorts them by group."""

    centres: NDArray[np.uint8]
    scanner: ListScanner
    order: NDArray[np.int64]


class Quantizer:
    """Finds the nearest of ``centroids`` uint8 (lists, row_bytes) by Hamming distance."""

    def __init__(self, centroids: NDArray[np.uint8]) -> None:
        self._centroids = centroids
        self._groups = _group(centroids) if len(centroids) >= GROUPED_FROM else None

    def assign(self, bits: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The list of each row of ``bits`` uint8 (n, row_bytes): int32 (n,)."""
        owners = np.empty(len(bits), dtype=np.int32)
        for first in range(0, len(bits), _ASSIGN_ROWS):
            part = np.ascontiguousarray(bits[first : first + _ASSIGN_ROWS])
            owners[first : first + len(part)] = self._assign(part)
        return owners

    def _assign(self, bits: NDArray[np.uint8]) -> NDArray[np.int64]:
        if self._groups is None:
            return nearest(self._centroids, bits, 1)[1][:, 0]
        visited = max(1, round(len(self._groups.centres) * GROUPS_VISITED))
        groups = nearest(self._groups.centres, bits, visited)[1]
        positions = self._groups.scanner.nearest(bits, groups, 1)[1][:, 0]
        return self._groups.order[positions]


def _group(centroids: NDArray[np.uint8]) -> _Groups:
    """About sqrt(lists) groups of centroids; none of them is empty."""
    count = int(2 ** round(np.log2(len(centroids)) / 2))
    centres = train(centroids, count, rounds=4)
    owners = nearest(centres, centroids, 1)[1][:, 0]
    order = np.argsort(owners, kind="stable")
    used, sizes = np.unique(owners, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return _Groups(centres[used], ListScanner(centroids[order], starts), order)


def _majorities(
    sample: NDArray[np.uint8], owners: NDArray[np.int32], lists: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The majority vote of each list's rows, bit by bit, and which lists have no row."""
    order = np.argsort(owners, kind="stable")
    votes = np.zeros((lists, sample.shape[1] * 8), dtype=np.int32)
    for first in range(0, len(order), _UNPACK_ROWS):
        rows = order[first : first + _UNPACK_ROWS]
        used, starts = np.unique(owners[rows], return_index=True)
        unpacked = np.unpackbits(sample[rows], axis=1)
        votes[used] += np.add.reduceat(unpacked, starts, axis=0, dtype=np.uint16)
    sizes = np.bincount(owners, minlength=lists)
    return np.packbits(2 * votes > sizes[:, None], axis=1), sizes == 0
