"""What kernels.c does, over numpy arrays. Any number of threads; none of them holds Python's lock.

The library is built when Bitsift is installed, if there is a C compiler. Where there was none, or
it is another version's, ``is_there`` is False and callers go by FAISS and numpy: the same answers
in two to three times the time, but that all bits are compared where kernels go by the first ones.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

_VERSION = 7
"""Of the functions and their arguments."""
ROW_BYTES_MAX = 512
"""The widest row of bits that they take: 4,096 dimensions."""
_POINTER, _I32, _I64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
_ARGUMENTS = {
    "nearest": [
        _POINTER, _I32, _POINTER, _I32, _I64, _POINTER, _I32, _I64, _I64, _POINTER, _POINTER,
        _POINTER,
    ],
    "nearest_in_lists": [
        _POINTER, _I32, _POINTER, _I32, _POINTER, _POINTER, _I32, _POINTER, _I64, _I64, _I64,
        _POINTER, _POINTER, _POINTER,
    ],
    "gather": [_POINTER, _I32, _POINTER, _I32, _POINTER, _I64, _POINTER],
    "estimates": [_POINTER, _I64, _I32, _POINTER, _POINTER],
    "worth_reading": [
        _POINTER, _I64, _I32, _POINTER, _POINTER, _POINTER, _I64, ctypes.c_double, _I64, _I64, _I64,
        _POINTER, _POINTER,
    ],
    "scores": [_POINTER, _I64, _I64, _I32, _POINTER, ctypes.c_double, _POINTER],
    "quantize": [_POINTER, _I64, _I32, _I32, _POINTER, _POINTER, _POINTER, _POINTER],
    "read": [_I32, _POINTER, _I64, _I64, _I64, _I64, _POINTER],
    "will_need": [_I32, _POINTER, _I64, _I64],
    "crc32c": [_POINTER, _I64, _I64, _I64, _POINTER],
    "marked": [_POINTER, _I64, _I64, _POINTER],
}  # fmt: skip


def _library() -> Any | None:
    """The shared object beside this file; None where there is none, or another version's."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if not path.exists():
            continue
        try:
            library = ctypes.CDLL(str(path))
            if library.bitsift_version() != _VERSION:
                raise OSError("it is another version's; install Bitsift again")
            for name, arguments in _ARGUMENTS.items():
                getattr(library, f"bitsift_{name}").argtypes = arguments
            library.bitsift_chosen.restype = ctypes.c_char_p
            library.bitsift_read.restype = library.bitsift_worth_reading.restype = _I64
            library.bitsift_marked.restype = library.bitsift_quantize.restype = _I64
        except (OSError, AttributeError) as error:
            log.warning("%s is not used: %s", path, error)
        else:
            return library
    return None


_LIBRARY: Any = _library()


def is_there() -> bool:
    """Whether the other functions may be called."""
    return _LIBRARY is not None


def name() -> str:
    """Which of the compiled ways this processor goes; "faiss" without any."""
    return "faiss" if _LIBRARY is None else str(_LIBRARY.bitsift_chosen().decode())


def choose(way: str) -> bool:
    """Go by ``vpopcntdq``, ``avx2``, ``popcnt`` or ``portable``, for tests and measurements, or by
    the best.

    Returns whether this processor can; otherwise the best is used.
    """
    return bool(_LIBRARY.bitsift_choose(way.encode()))


def nearest(
    first: NDArray[np.uint8],
    rest: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    count: int,
    alive: NDArray[np.uint8] | None,
    by_first: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The ``count`` nearest rows to each of ``queries`` (n, row_bytes), contiguous, of those marked
    in the bitmap ``alive``, lowest bit first. The rows' bits are in two planes (planes.py).

    Distances int32 (n, count) ascending and positions int64 (n, count); behind the last the largest
    int32 and -1. Equal distances are ordered, and cut, by position. With ``by_first`` so many rows
    are chosen by their first bits, and the nearest of these are found.
    """
    row_bytes = first.shape[1] + rest.shape[1]
    assert row_bytes == queries.shape[1] <= ROW_BYTES_MAX, (row_bytes, queries.shape)
    assert first.flags.c_contiguous
    assert rest.flags.c_contiguous
    assert alive is None or 8 * len(alive) >= len(first), (len(alive), len(first))
    assert by_first == 0 or by_first >= count, (by_first, count)
    shape = len(queries), count
    distances, positions = np.empty(shape, np.int32), np.empty(shape, np.int64)
    failed = _LIBRARY.bitsift_nearest(
        first.ctypes.data, first.shape[1], rest.ctypes.data, rest.shape[1], len(first),
        queries.ctypes.data, len(queries), count, by_first,
        None if alive is None else alive.ctypes.data, distances.ctypes.data, positions.ctypes.data,
    )  # fmt: skip
    if failed:
        raise MemoryError
    return distances, positions


def nearest_in_lists(
    first: NDArray[np.uint8],
    rest: NDArray[np.uint8],
    starts: NDArray[np.int64],
    queries: NDArray[np.uint8],
    lists: NDArray[np.int64],
    count: int,
    alive: NDArray[np.uint8] | None,
    by_first: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The same for each query among the rows ``starts[i]`` to ``starts[i + 1]`` for each i of its
    row of ``lists``, int64 (n, nprobe), ascending. With ``by_first`` one in so many of these rows
    is chosen by the first bits, four times ``count`` at least; a quarter of them or more is all.
    """
    assert first.flags.c_contiguous
    assert rest.flags.c_contiguous
    assert starts.dtype == lists.dtype == np.int64
    assert not lists.size or 0 <= lists.min() <= lists.max() < len(starts) - 1, len(starts)
    row_bytes = first.shape[1] + rest.shape[1]
    assert row_bytes == queries.shape[1] <= ROW_BYTES_MAX, (row_bytes, queries.shape)
    assert len(lists) == len(queries), (lists.shape, queries.shape)
    assert by_first == 0 or rest.shape[1], "there is one plane only"
    assert alive is None or 8 * len(alive) >= len(first), (len(alive), len(first))
    queries, lists = np.ascontiguousarray(queries), np.ascontiguousarray(lists)
    shape = len(queries), count
    distances, positions = np.empty(shape, np.int32), np.empty(shape, np.int64)
    failed = _LIBRARY.bitsift_nearest_in_lists(
        first.ctypes.data, first.shape[1], rest.ctypes.data, rest.shape[1], starts.ctypes.data,
        queries.ctypes.data, len(queries), lists.ctypes.data, lists.shape[1], count, by_first,
        None if alive is None else alive.ctypes.data, distances.ctypes.data, positions.ctypes.data,
    )  # fmt: skip
    if failed:
        raise MemoryError
    return distances, positions


def gather(
    first: NDArray[np.uint8], rest: NDArray[np.uint8], rows: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Both planes of ``rows`` (n,), side by side: uint8 (n, row_bytes)."""
    rows = np.ascontiguousarray(rows, dtype=np.int64)
    assert not len(rows) or 0 <= rows.min() <= rows.max() < len(first), len(first)
    out = np.empty((len(rows), first.shape[1] + rest.shape[1]), dtype=np.uint8)
    _LIBRARY.bitsift_gather(
        first.ctypes.data, first.shape[1], rest.ctypes.data, rest.shape[1], rows.ctypes.data,
        len(rows), out.ctypes.data,
    )  # fmt: skip
    return out


def estimates(table: NDArray[np.float32], bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """For each row of ``bits`` (n, row_bytes) the sum of ``table[position, byte]`` over its bytes:
    float32 (n,). ``table`` (row_bytes, 256).
    """
    assert table.shape == (bits.shape[1], 256), (table.shape, bits.shape)
    bits, out = np.ascontiguousarray(bits), np.empty(len(bits), dtype=np.float32)
    _LIBRARY.bitsift_estimates(
        bits.ctypes.data, len(bits), bits.shape[1], table.ctypes.data, out.ctypes.data
    )
    return out


def worth_reading(
    bits: NDArray[np.uint8],
    table: NDArray[np.float32],
    query: NDArray[np.float32],
    rows: NDArray[np.int64],
    top_k: int,
    missed: float,
    lowest: int,
    highest: int,
    considered: int,
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """``estimates`` of ``bits`` (n, row_bytes), nearest first, and the places of those that are
    worth reading, best first: search/adaptive.py says which. ``query`` float32 (8 x row_bytes,);
    ``rows`` int64 (n,) order equal estimates. At most ``considered`` are looked at.
    """
    assert table.shape == (bits.shape[1], 256), (table.shape, bits.shape)
    assert query.shape == (8 * bits.shape[1],), (query.shape, bits.shape)
    assert query.dtype == table.dtype == np.float32
    bits, query, rows = map(np.ascontiguousarray, (bits, query, rows))
    out, places = np.empty(len(bits), np.float32), np.empty(min(considered, len(bits)), np.intp)
    found = _LIBRARY.bitsift_worth_reading(
        bits.ctypes.data, len(bits), bits.shape[1], table.ctypes.data, query.ctypes.data,
        rows.ctypes.data, top_k, missed, lowest, highest, considered, out.ctypes.data,
        places.ctypes.data,
    )  # fmt: skip
    if found < 0:
        raise MemoryError
    return out, places[:found]


def scores(
    codes: NDArray[np.int8], weights: NDArray[np.float64], offset: float
) -> NDArray[np.float32]:
    """``codes @ weights + offset`` in double: float32 (n,). ``codes`` (n, width), of which rows may
    lie apart.
    """
    assert codes.shape[1] == len(weights), (codes.shape, weights.shape)
    if codes.strides[1] != 1:
        codes = np.ascontiguousarray(codes)
    out = np.empty(len(codes), dtype=np.float32)
    _LIBRARY.bitsift_scores(
        codes.ctypes.data, len(codes), codes.strides[0], codes.shape[1], weights.ctypes.data,
        offset, out.ctypes.data,
    )  # fmt: skip
    return out


def quantize(
    vectors: NDArray[np.float32],
    norms: NDArray[np.float32] | None,
    low: NDArray[np.float32],
    step: NDArray[np.float32],
) -> tuple[NDArray[np.int8], int]:
    """int8 codes (n, width) of ``vectors`` (n, dimension), over ``norms`` (n,), None for 1:
    ``clip(round((x - low) / step), 0, 255) - 128``, and how many values clipped. ``low`` and
    ``step`` (width,); what a vector lacks of that is 0.
    """
    rows, dimension = vectors.shape
    assert dimension <= len(low) == len(step), (vectors.shape, low.shape, step.shape)
    assert vectors.dtype == low.dtype == step.dtype == np.float32
    assert norms is None or (norms.dtype == np.float32 and norms.shape == (rows,))
    vectors, low, step = map(np.ascontiguousarray, (vectors, low, step))
    norms = None if norms is None else np.ascontiguousarray(norms)
    out = np.empty((rows, len(low)), dtype=np.int8)
    clipped = _LIBRARY.bitsift_quantize(
        vectors.ctypes.data, rows, dimension, len(low),
        None if norms is None else norms.ctypes.data, low.ctypes.data, step.ctypes.data,
        out.ctypes.data,
    )  # fmt: skip
    return out, clipped


def read(
    file: int,
    places: NDArray[np.int64],
    records: NDArray[np.uint8],
    timed: int,
    slow_s: float,
) -> int:
    """Fill ``records`` (n, size) from the ``places`` (n,) in ``file``; zeros where one is 0, or the
    file too short. It ends after ``timed`` reads that took longer than ``slow_s`` together, unless
    that is 0. Returns how many rows are filled. Raises OSError.
    """
    n, size = records.shape
    assert len(places) == n, (len(places), n)
    assert records.flags.c_contiguous
    slow_ns = max(1, int(slow_s * 1e9)) if slow_s else 0
    filled: int = _LIBRARY.bitsift_read(
        file, places.ctypes.data, n, size, timed, slow_ns, records.ctypes.data
    )
    if filled < 0:
        raise OSError(-filled, os.strerror(-filled))
    return filled


def will_need(file: int, places: NDArray[np.int64], size: int) -> None:
    """Have the system read ``size`` bytes at each of ``places`` (n,), without waiting for them."""
    _LIBRARY.bitsift_will_need(file, places.ctypes.data, len(places), size)


def crc32c(records: NDArray[np.uint8], width: int) -> NDArray[np.uint32]:
    """The checksums uint32 (n,) of the first ``width`` bytes of each of ``records`` (n, size)."""
    out = np.empty(len(records), dtype=np.uint32)
    n, size = records.shape
    assert records.flags.c_contiguous
    _LIBRARY.bitsift_crc32c(records.ctypes.data, n, size, width, out.ctypes.data)
    return out


def marked(marks: NDArray[np.uint8], rows: int, most: int) -> NDArray[np.int64]:
    """Which of the first ``rows`` rows have a bit in ``marks``, lowest first: int64 (n,) ascending.

    ``most`` is at least how many bits there are in ``marks``.
    """
    assert 8 * len(marks) >= rows, (len(marks), rows)
    assert marks.flags.c_contiguous
    out = np.empty(most, dtype=np.int64)
    return out[: _LIBRARY.bitsift_marked(marks.ctypes.data, rows, most, out.ctypes.data)]
