"""Grouping bits into lists: k-means in the Hamming space, with a faster quantizer.

What FAISS does out of the box takes 297 s to train 8,192 lists and 113 s to add 4 M rows of 1,024
bits (FIELD-NOTES): its quantizer compares every row with every centroid. Here a centroid is the
mean of its rows' ±1 codes and its signs are their majority vote; rows are assigned by Hamming
distance to the signs, and centroids are themselves grouped, so that a row is compared with the
centroids of the nearest groups only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shard_worker.hamming import ListScanner, nearest

ROWS_PER_LIST = 1_500
"""Aimed at; the number of lists is a power of two (4,096 for 5 M rows, 16,384 for 20 M)."""
LISTS_MAX = 1 << 14
SAMPLE_PER_LIST = 48
ROUNDS = 8
GROUPED_FROM = 1_024
"""Fewer centroids are compared with every row directly."""
GROUPS_VISITED = 1 / 8
_ASSIGN_ROWS = 4_096
_UNPACK_ROWS = 8_192
_SEED = 20_240_131


def lists_for(rows: int) -> int:
    """How many lists ``rows`` rows are grouped into: a power of two from 1 to LISTS_MAX."""
    return int(min(LISTS_MAX, 2 ** max(0, round(np.log2(max(1, rows / ROWS_PER_LIST))))))


def train(sample: NDArray[np.uint8], lists: int, rounds: int = ROUNDS) -> NDArray[np.float32]:
    """Centroids float32 (lists, bits) of ``sample`` uint8 (n ≥ lists, bits / 8): means of ±1 codes.

    A list that loses all its rows starts again from a random one.
    """
    random = np.random.default_rng(_SEED)
    start = np.sort(random.choice(len(sample), lists, replace=False))
    centroids = _signs(sample[start])
    for _ in range(rounds):
        owners = Quantizer(centroids).assign(sample)
        centroids, empty = _means(sample, owners, lists)
        centroids[empty] = _signs(sample[random.integers(0, len(sample), int(empty.sum()))])
    return centroids


@dataclass(frozen=True, slots=True, eq=False)
class _Groups:
    """Centroids grouped among themselves: ``order`` sorts them by group."""

    signs: NDArray[np.uint8]
    scanner: ListScanner
    order: NDArray[np.int64]


class Quantizer:
    """Finds the nearest of ``centroids`` float32 (lists, bits) by Hamming distance to its signs."""

    def __init__(self, centroids: NDArray[np.float32]) -> None:
        self.signs = np.packbits(centroids > 0, axis=1)
        self._groups = _group(self.signs) if len(centroids) >= GROUPED_FROM else None

    def assign(self, bits: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The list of each row of ``bits`` uint8 (n, row_bytes): int32 (n,)."""
        owners = np.empty(len(bits), dtype=np.int32)
        for first in range(0, len(bits), _ASSIGN_ROWS):
            part = np.ascontiguousarray(bits[first : first + _ASSIGN_ROWS])
            owners[first : first + len(part)] = self._assign(part)
        return owners

    def _assign(self, bits: NDArray[np.uint8]) -> NDArray[np.int64]:
        if self._groups is None:
            return nearest(self.signs, bits, 1)[1][:, 0]
        visited = max(1, round(len(self._groups.signs) * GROUPS_VISITED))
        groups = nearest(self._groups.signs, bits, visited)[1]
        positions = self._groups.scanner.nearest(bits, groups, 1)[1][:, 0]
        return self._groups.order[positions]


def _group(signs: NDArray[np.uint8]) -> _Groups:
    """About sqrt(lists) groups of centroids; none of them is empty."""
    count = int(2 ** round(np.log2(len(signs)) / 2))
    centres = np.packbits(train(signs, count, rounds=4) > 0, axis=1)
    owners = nearest(centres, signs, 1)[1][:, 0]
    order = np.argsort(owners, kind="stable")
    used, sizes = np.unique(owners, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return _Groups(centres[used], ListScanner(signs[order], starts), order)


def _signs(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """±1 codes float32 (n, bits) of packed ``bits``."""
    return np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1


def _means(
    sample: NDArray[np.uint8], owners: NDArray[np.int32], lists: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean ±1 code of each list's rows, and which lists have none."""
    order = np.argsort(owners, kind="stable")
    ones = np.zeros((lists, sample.shape[1] * 8), dtype=np.float32)
    for first in range(0, len(order), _UNPACK_ROWS):
        rows = order[first : first + _UNPACK_ROWS]
        used, starts = np.unique(owners[rows], return_index=True)
        unpacked = np.unpackbits(sample[rows], axis=1)
        ones[used] += np.add.reduceat(unpacked, starts, axis=0, dtype=np.uint16)
    sizes = np.bincount(owners, minlength=lists)
    empty = sizes == 0
    means = ones / np.maximum(sizes, 1)[:, None].astype(np.float32) * 2 - 1
    return means.astype(np.float32), empty
