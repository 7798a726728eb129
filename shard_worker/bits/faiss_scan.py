"""The nearest rows by FAISS and numpy, where no kernel of ours was compiled.

``IndexBinaryFlat`` and ``IndexBinaryIVF`` own their codes. One copy of the bits must serve the
exact scan, the approximate one and single rows alike, so the kernels behind them are called on
numpy arrays, and ``FaissLists`` is an ``IndexBinaryIVF`` whose inverted lists are ranges of an
array, one after the other.

Each call runs on the thread that makes it, searches and training alike: a machine gets one shard
per core, so more threads would only wait for each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.bits.live_rows import AliveMarks

COUNTED_MIN = 64
"""From so many rows on, counting beats the heap: one query, 1 M codes of 128 bytes, 800 rows:
5.0 ms against 11.4; 40 rows: 4.6 both; a nearest centroid is found 20 % slower (one busy core)."""
COUNTERS_BYTES_MAX = 27 << 20
"""Buckets of this size together for several queries, which share each piece of the bits while it is
in the cache: 0.5 M codes of 128 bytes, two processes: 3.1 ms a query alone, 2.5 by fours. Of more
than 32 MB malloc gives fresh pages each time, and touching those costs more than is gained."""
MARKED_BYTES = 2 << 20
"""Bits compared at a time where rows are passed over: with their distances they stay in the cache
until all queries of a pass have seen them."""
Found = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Distances int32 (n, k) in bits, ascending, and positions int64 (n, k), -1 where there is none."""


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """FAISS uses the calling thread alone within, whatever ``OMP_NUM_THREADS`` says.

    OpenMP keeps the number for each calling thread, so setting it once for a process does not
    reach the threads that search. Afterwards the caller has what it had.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def nearest(
    bits: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    count: int,
    alive: NDArray[np.uint8] | None,
) -> Found:
    """See kernels.py. Below COUNTED_MIN the order of equal distances is open."""
    if count < COUNTED_MIN:
        return _all_at_once(bits, queries, count, alive)
    together = max(1, COUNTERS_BYTES_MAX // ((bits.shape[1] * 8 + 1) * count * 8))
    return _joined(
        [
            _all_at_once(bits, queries[first : first + together], count, alive)
            for first in range(0, len(queries), together)
        ]
    )


def _all_at_once(
    bits: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    count: int,
    alive: NDArray[np.uint8] | None,
) -> Found:
    if alive is not None:
        return _by_marks(bits, queries, count, alive)
    return (_by_heap if count < COUNTED_MIN else _by_counting)(bits, queries, count)


def _joined(parts: Sequence[Found]) -> Found:
    """What groups of queries found, one group behind the other."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([d for d, _ in parts]), np.concatenate([p for _, p in parts])


def _by_heap(bits: NDArray[np.uint8], queries: NDArray[np.uint8], count: int) -> Found:
    """What ``IndexBinaryFlat.search`` runs."""
    distances, positions = empty(len(queries), count)
    heap = faiss.int_maxheap_array_t()
    heap.nh, heap.k = len(queries), count
    heap.ids, heap.val = faiss.swig_ptr(positions), faiss.swig_ptr(distances)
    pointers = faiss.swig_ptr(queries), faiss.swig_ptr(bits)
    with _one_thread():
        faiss.hammings_knn_hc(heap, *pointers, len(bits), bits.shape[1], True, faiss.EXACT_TOPK)
    return distances, positions


def _by_counting(bits: NDArray[np.uint8], queries: NDArray[np.uint8], count: int) -> Found:
    """What it runs with ``use_heap`` off: rows are put into buckets, one for each distance."""
    distances, positions = empty(len(queries), count)
    pointer = faiss.swig_ptr
    with _one_thread():
        faiss.hammings_knn_mc(
            pointer(queries), pointer(bits), len(queries), len(bits), count, bits.shape[1],
            pointer(distances), pointer(positions),
        )  # fmt: skip
    return distances, positions


def _by_marks(
    bits: NDArray[np.uint8], queries: NDArray[np.uint8], count: int, alive: NDArray[np.uint8]
) -> Found:
    """The same among the rows that are marked in ``alive``: all distances of a piece of the bits,
    then those below the ``count``-th so far. It takes as long whichever rows are marked. FAISS's
    own selector asks for each row: 1 M codes of 48 bytes, half of them marked, 9.0 ms against
    6.4, and 6.0 for all of them without marks (a busy core).
    """
    kept = [_Nearest(count) for _ in queries]
    piece = max(8, MARKED_BYTES // bits.shape[1] // 8 * 8)
    distances, pointer = np.empty(min(piece, len(bits)), dtype=np.int32), faiss.swig_ptr
    with _one_thread():
        for first in range(0, len(bits), piece):
            part = bits[first : first + piece]
            packed = alive[first // 8 : (first + len(part) + 7) // 8]
            if not packed.any():
                continue
            marked = np.unpackbits(packed, count=len(part), bitorder="little").view(np.bool_)
            for query, nearest_so_far in zip(queries, kept, strict=True):
                faiss.hammings(
                    pointer(query), pointer(part), 1, len(part), part.shape[1], pointer(distances)
                )
                nearest_so_far.add(distances[: len(part)], marked, first)
    found = none(len(queries), count)
    for place, nearest_so_far in enumerate(kept):
        nearest_so_far.put(found, place)
    return found


class _Nearest:
    """The ``count`` rows nearest to one query of those that were added so far, and some more."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._limit = np.iinfo(np.int32).max
        """Rows added later must be nearer than this: of equal distances the first are kept."""
        self._distances: list[NDArray[np.int32]] = []
        self._positions: list[NDArray[np.int64]] = []
        self._held = 0

    def add(self, distances: NDArray[np.int32], marked: NDArray[np.bool_], first: int) -> None:
        """Consider the rows ``marked`` (n,) of those from ``first`` on, whose ``distances`` (n,)
        are the caller's and change.
        """
        near = distances < self._limit
        near &= marked
        places = np.flatnonzero(near)
        self._distances.append(distances[places])
        self._positions.append(places + first)
        self._held += len(places)
        if self._held >= 2 * self._count:
            self._cut()

    def _cut(self) -> None:
        """Leave out what is not among the ``count`` nearest, but for equal distances."""
        distances, positions = np.concatenate(self._distances), np.concatenate(self._positions)
        up_to = np.cumsum(np.bincount(distances))
        self._limit = int(np.searchsorted(up_to, self._count))
        kept = np.flatnonzero(distances <= self._limit)
        self._distances, self._positions = [distances[kept]], [positions[kept]]
        self._held = len(kept)

    def put(self, found: Found, place: int) -> None:
        """Write the nearest, in order, to the row ``place`` of ``found``."""
        if not self._held:
            return
        distances, positions = np.concatenate(self._distances), np.concatenate(self._positions)
        order = np.argsort(distances.astype(np.int16), kind="stable")[: self._count]  # radix sort
        found[0][place, : len(order)] = distances[order]
        found[1][place, : len(order)] = positions[order]


class FaissLists:
    """Rows grouped into lists: list i is ``bits[starts[i]:starts[i + 1]]``. Any number of threads.

    ``bits`` uint8 (rows, row_bytes); ``starts`` int64 (lists + 1,), ascending from 0 to rows.
    """

    def __init__(self, bits: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        rows, row_bytes = bits.shape
        self._starts = starts
        self._bits = bits  # FAISS holds only an address
        self._lists: Any = faiss.OnDiskInvertedLists(len(starts) - 1, row_bytes, "")
        self._lists.lists.clear()
        place = faiss.OnDiskOneList()
        for start, size in zip(starts[:-1].tolist(), np.diff(starts).tolist(), strict=True):
            place.offset, place.size, place.capacity = start * row_bytes, size, size
            self._lists.lists.push_back(place)
        self._lists.ptr = faiss.swig_ptr(bits)
        self._quantizer = faiss.IndexBinaryFlat(row_bytes * 8)  # asked for, but never searched
        self._index: Any = faiss.IndexBinaryIVF(self._quantizer, row_bytes * 8, len(starts) - 1)
        self._index.replace_invlists(self._lists, False)
        self._index.is_trained = True
        self._index.ntotal = rows

    def __del__(self) -> None:
        """Its destructor would unmap what was never mapped by it."""
        if hasattr(self, "_lists"):
            self._lists.ptr = None

    def nearest(
        self,
        queries: NDArray[np.uint8],
        lists: NDArray[np.int64],
        count: int,
        alive: NDArray[np.uint8] | None,
    ) -> Found:
        """The ``count`` nearest rows within ``lists`` (n, nprobe) of each of ``queries``, of those
        marked in ``alive``.

        FAISS's lists cannot skip the others, so more are fetched, and then left out: some may be
        missing.
        """
        if alive is None:
            return self._nearest(queries, lists, count)
        rows = len(self._bits)
        share = 1 - int(np.bitwise_count(alive).sum(dtype=np.int64)) / max(1, rows)
        wanted = min(rows, count + int(2 * count * max(0.0, share) / max(1 - share, 0.1)))
        found = none(len(queries), count)
        for place, (distances, at) in enumerate(
            zip(*self._nearest(queries, lists, wanted), strict=True)
        ):
            good = np.flatnonzero(at >= 0)
            good = good[AliveMarks(alive).of(at[good])][:count]
            found[0][place, : len(good)], found[1][place, : len(good)] = distances[good], at[good]
        return found

    def _nearest(self, queries: NDArray[np.uint8], lists: NDArray[np.int64], count: int) -> Found:
        n, nprobe = lists.shape
        distances, pairs = empty(n, count)
        centroid_distances = np.zeros((n, nprobe), dtype=np.int32)  # read only to be passed on
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = nprobe
        pointer = faiss.swig_ptr
        # store_pairs: the answer is list << 32 | offset, so no ids are stored with the bits.
        with _one_thread():
            self._index.search_preassigned_c(
                n, pointer(queries), count, pointer(lists), pointer(centroid_distances),
                pointer(distances), pointer(pairs), True, parameters,
            )  # fmt: skip
        missing = pairs < 0
        pairs[missing] = 0
        positions = self._starts[pairs >> 32] + (pairs & 0xFFFFFFFF)
        positions[missing] = -1
        return distances, positions


def empty(n: int, count: int) -> Found:
    """Room for what is found."""
    return np.empty((n, count), dtype=np.int32), np.empty((n, count), dtype=np.int64)


def none(n: int, count: int) -> Found:
    """Where nothing was found."""
    distances, positions = empty(n, count)
    distances.fill(np.iinfo(np.int32).max)
    positions.fill(-1)
    return distances, positions
