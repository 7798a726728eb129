"""FAISS's Hamming kernels over packed bits that lie in memory of our own.

``IndexBinaryFlat`` and ``IndexBinaryIVF`` own their codes. One copy of the bits must serve the
exact scan, the approximate one and single rows alike, so the kernels behind them are called on
numpy arrays, and ``ListScanner`` is an ``IndexBinaryIVF`` whose inverted lists are ranges of an
array, one after the other.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

COUNTED_MIN = 64
"""From so many rows on, counting beats the heap: one query, 1 M codes of 128 bytes, 800 rows:
5.0 ms against 11.4; 40 rows: 4.6 both; a nearest centroid is found 20 % slower (one busy core)."""
COUNTERS_BYTES_MAX = 27 << 20
"""Buckets of this size together for several queries, which share each piece of the bits while it is
in the cache: 0.5 M codes of 128 bytes, two processes: 3.1 ms a query alone, 2.5 by fours. Of more
than 32 MB malloc gives fresh pages each time, and touching those costs more than is gained."""
Found = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Distances int32 (n, k) in bits, ascending, and positions int64 (n, k), -1 where there is none."""


def nearest(
    bits: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    count: int,
    alive: NDArray[np.uint8] | None = None,
) -> Found:
    """The ``count`` nearest rows of ``bits`` (rows, row_bytes) to each of ``queries``.

    ``queries`` uint8 (n, row_bytes). ``alive`` is a bitmap with one bit per row, lowest bit first;
    other rows are passed over. Equal distances are cut by position. Positions count the rows of
    ``bits``.
    """
    assert bits.flags.c_contiguous
    assert queries.flags.c_contiguous
    count = min(count, len(bits))
    if count == 0 or len(queries) == 0:
        return _empty(len(queries), count)
    selector = None if alive is None else faiss.IDSelectorBitmap(alive)
    if count < COUNTED_MIN:
        return _by_heap(bits, queries, count, selector)
    together = max(1, COUNTERS_BYTES_MAX // ((bits.shape[1] * 8 + 1) * count * 8))
    found = [
        _by_counting(bits, queries[first : first + together], count, selector)
        for first in range(0, len(queries), together)
    ]
    if len(found) == 1:
        return found[0]
    return np.concatenate([d for d, _ in found]), np.concatenate([p for _, p in found])


def _by_heap(
    bits: NDArray[np.uint8], queries: NDArray[np.uint8], count: int, selector: Any
) -> Found:
    """What ``IndexBinaryFlat.search`` runs."""
    distances, positions = _empty(len(queries), count)
    heap = faiss.int_maxheap_array_t()
    heap.nh, heap.k = len(queries), count
    heap.ids, heap.val = faiss.swig_ptr(positions), faiss.swig_ptr(distances)
    pointers = faiss.swig_ptr(queries), faiss.swig_ptr(bits)
    faiss.hammings_knn_hc(
        heap, *pointers, len(bits), bits.shape[1], True, faiss.EXACT_TOPK, selector
    )
    return distances, positions


def _by_counting(
    bits: NDArray[np.uint8], queries: NDArray[np.uint8], count: int, selector: Any
) -> Found:
    """What it runs with ``use_heap`` off: rows are put into buckets, one for each distance."""
    distances, positions = _empty(len(queries), count)
    pointer = faiss.swig_ptr
    faiss.hammings_knn_mc(
        pointer(queries), pointer(bits), len(queries), len(bits), count, bits.shape[1],
        pointer(distances), pointer(positions), selector,
    )  # fmt: skip
    return distances, positions


class ListScanner:
    """Rows grouped into lists: list i is ``bits[starts[i]:starts[i + 1]]``. Any number of threads.

    ``bits`` uint8 (rows, row_bytes); ``starts`` int64 (lists + 1,), ascending from 0 to rows.
    """

    def __init__(self, bits: NDArray[np.uint8], starts: NDArray[np.int64]) -> None:
        rows, row_bytes = bits.shape
        assert starts[0] == 0, starts[0]
        assert starts[-1] == rows, (starts[-1], rows)
        self.starts = starts
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

    def nearest(self, queries: NDArray[np.uint8], lists: NDArray[np.int64], count: int) -> Found:
        """The ``count`` nearest rows within ``lists`` (n, nprobe) of each of ``queries``."""
        n, nprobe = lists.shape
        distances, pairs = _empty(n, count)
        centroid_distances = np.zeros((n, nprobe), dtype=np.int32)  # read only to be passed on
        parameters = faiss.SearchParametersIVF()
        parameters.nprobe = nprobe
        pointer = faiss.swig_ptr
        # store_pairs: the answer is list << 32 | offset, so no ids are kept beside the bits.
        self._index.search_preassigned_c(
            n, pointer(queries), count, pointer(lists), pointer(centroid_distances),
            pointer(distances), pointer(pairs), True, parameters,
        )  # fmt: skip
        missing = pairs < 0
        pairs[missing] = 0
        positions = self.starts[pairs >> 32] + (pairs & 0xFFFFFFFF)
        positions[missing] = -1
        return distances, positions


def _empty(n: int, count: int) -> Found:
    return np.empty((n, count), dtype=np.int32), np.empty((n, count), dtype=np.int64)
