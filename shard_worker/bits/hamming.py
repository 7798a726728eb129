"""The rows nearest to queries by Hamming distance, over packed bits that lie in memory of our own:
all of them, or those of some lists.

Kernels that were compiled for it do that (native/kernels.py), else FAISS's (faiss_scan.py). Each
call runs on the thread that makes it: a machine gets one shard per core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.bits import faiss_scan
from bitsift.shard_worker.bits.faiss_scan import FaissLists, Found, empty, none
from bitsift.shard_worker.bits.planes import Planes, as_planes
from bitsift.shard_worker.deadline import Deadline, still_open
from bitsift.shard_worker.native import kernels

STEP_BYTES_MAX = 512 << 20
"""Bits compared in one call, which nothing can interrupt, where queries have deadlines: 20 ms of
one core. It is four queries over 2^20 codes of 128 bytes."""
LISTED_ROWS_MIN = 1 << 15
"""Of fewer rows in lists all bits are compared: that takes 0.3 ms."""


def nearest(
    bits: Planes | NDArray[np.uint8],
    queries: NDArray[np.uint8],
    count: int,
    alive: NDArray[np.uint8] | None = None,
    deadlines: Sequence[Deadline] | None = None,
    first_share: float | None = None,
) -> Found:
    """The ``count`` nearest rows of ``bits`` (rows, row_bytes) to each of ``queries``.

    ``queries`` uint8 (n, row_bytes). ``alive`` is a bitmap with one bit per row, lowest bit first;
    other rows are passed over. Equal distances are cut by position. Positions count the rows of
    ``bits``. ``deadlines`` are those of the queries: before each step they are looked at, and a
    query whose own is over is left out from there on; what was found for it is not to be used.

    With ``first_share`` only that share of the rows is compared by all of their bits, those that
    are nearest by the first ones: others may be passed over. It says nothing of rows that are
    whole.
    """
    bits = as_planes(bits)
    share = first_share if bits.is_split and kernels.is_there() else None
    assert queries.flags.c_contiguous
    count = min(count, len(bits))
    if count == 0 or len(queries) == 0:
        return empty(len(queries), count)
    if deadlines is None:
        return _all_at_once(bits, queries, count, alive, share)
    scanned_bytes = bits.row_bytes if share is None else bits.first.shape[1]
    step = max(8, STEP_BYTES_MAX // (scanned_bytes * len(queries)) // 8 * 8)
    found: Found | None = None
    for first in range(0, len(bits), step):
        waiting = still_open(deadlines)
        if not len(waiting):
            break
        if len(waiting) == len(queries) and step >= len(bits):  # there is nothing to join
            return _all_at_once(bits, queries, count, alive, share)
        found = found or none(len(queries), count)
        part = bits[first : first + step]
        marks = None if alive is None else alive[first // 8 : (first + len(part) + 7) // 8]
        of_part = min(count, len(part))
        distances, positions = _all_at_once(part, queries[waiting], of_part, marks, share)
        more = distances, np.where(positions < 0, -1, positions + first)
        _put(found, waiting, more, is_first=first == 0)
    return found or none(len(queries), count)


def _all_at_once(
    bits: Planes,
    queries: NDArray[np.uint8],
    count: int,
    alive: NDArray[np.uint8] | None,
    share: float | None,
) -> Found:
    if kernels.is_there():
        by_first = 0 if share is None else max(count, math.ceil(share * len(bits)))
        by_first = 0 if by_first >= len(bits) else by_first
        return kernels.nearest(bits.first, bits.rest, queries, count, alive, by_first)
    return faiss_scan.nearest(bits.joined(), queries, count, alive)


def _put(found: Found, places: NDArray[np.intp], more: Found, *, is_first: bool) -> None:
    """Add to what was ``found`` what a step found for the queries at ``places``."""
    if not is_first:
        more = _merged((found[0][places], found[1][places]), more, found[0].shape[1])
    columns = more[0].shape[1]
    found[0][places, :columns], found[1][places, :columns] = more


def _merged(one: Found, other: Found, count: int) -> Found:
    """The ``count`` nearest of both; of equal distances, those of ``one`` come first."""
    distances = np.concatenate([one[0], other[0]], axis=1)
    positions = np.concatenate([one[1], other[1]], axis=1)
    distances[positions < 0] = np.iinfo(np.int32).max
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(positions, order, 1)


class ListScanner:
    """Rows grouped into lists: list i is ``bits[starts[i]:starts[i + 1]]``. Any number of threads.

    ``bits`` of (rows, row_bytes); ``starts`` int64 (lists + 1,), ascending from 0 to rows.
    """

    def __init__(self, bits: Planes | NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        bits = as_planes(bits)
        assert starts[0] == 0, starts[0]
        assert starts[-1] == len(bits), (starts[-1], len(bits))
        self._bits = bits
        self._starts = np.ascontiguousarray(starts)
        self._by_faiss = None if kernels.is_there() else FaissLists(bits.joined(), starts)

    def nearest(
        self,
        queries: NDArray[np.uint8],
        lists: NDArray[np.int64],
        count: int,
        alive: NDArray[np.uint8] | None = None,
        deadlines: Sequence[Deadline] | None = None,
        first_share: float | None = None,
    ) -> Found:
        """The ``count`` nearest rows within ``lists`` (n, nprobe) of each of ``queries``.

        ``alive``, ``deadlines`` and ``first_share`` as for ``nearest``; of ``first_share``, where
        lists have ``LISTED_ROWS_MIN`` rows, no fewer than four times ``count`` are compared, and
        all where that would be a quarter.
        """
        if deadlines is None:
            return self._all_at_once(queries, lists, count, alive, first_share)
        list_bytes = max(1, self._bits.nbytes // (len(self._starts) - 1))
        nprobe = max(1, min(lists.shape[1], STEP_BYTES_MAX // list_bytes))
        together = max(1, STEP_BYTES_MAX // (nprobe * list_bytes))
        found = none(len(queries), count)
        for first in range(0, len(queries), together):
            for start in range(0, lists.shape[1], nprobe):
                waiting = first + still_open(deadlines[first : first + together])
                if not len(waiting):
                    break
                visited = lists[waiting, start : start + nprobe]
                more = self._all_at_once(queries[waiting], visited, count, alive, first_share)
                _put(found, waiting, more, is_first=start == 0)
        return found

    def _all_at_once(
        self,
        queries: NDArray[np.uint8],
        lists: NDArray[np.int64],
        count: int,
        alive: NDArray[np.uint8] | None,
        first_share: float | None,
    ) -> Found:
        if self._by_faiss is not None:
            return self._by_faiss.nearest(queries, np.ascontiguousarray(lists), count, alive)
        planes, ascending = self._bits, np.sort(lists, axis=1)
        rows = lists.shape[1] * len(planes) // (len(self._starts) - 1)
        by_first = 0
        if first_share is not None and planes.is_split and rows >= LISTED_ROWS_MIN:
            by_first = max(1, int(1 / first_share))
        return kernels.nearest_in_lists(
            planes.first, planes.rest, self._starts, queries, ascending, count, alive, by_first
        )
