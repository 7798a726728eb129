"""A column while the rows of its segment are read: what column.py reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.filters.dates import Date
from bitsift.filters.tree import Value
from bitsift.shard_worker.fields.column import (
    HEAD,
    PARTS,
    STRING_BYTES_MAX,
    TYPES,
    exact_float,
    utf8,
)

COLUMN_BYTES_PER_ROW_MAX = 32
"""A field whose distinct values take more bytes than this for each row of its segment, and
``COLUMN_BYTES_MIN``, is not indexed there: it is text, not a label."""
COLUMN_BYTES_MIN = 4_096
_CODED_SHARE = 0.5
"""Codes are kept where more rows than this have a value; they take no more than row numbers."""
_INTEGERS = "BHIbhiq"
_EXACT_INTEGER_MAX = 2.0**53


class Builder:
    """A column while the rows of a segment are read, in order."""

    def __init__(self) -> None:
        self._lists: dict[str, list[int]] = {name: [] for name in PARTS[:5]}
        self._numbers: dict[float, list[int]] = {}
        self._dates: dict[int, list[int]] = {}
        self._strings: dict[bytes, list[int]] = {}
        self._present = 0
        self.value_bytes = 0
        """What the distinct values take."""

    def add(self, row: int, values: Sequence[Value]) -> None:
        """``values``, as ``values_of`` gives them, of ``row``."""
        self._present += 1
        if not values:
            self._lists["bare"].append(row)
        for value in values:
            held = self._held(value)
            if not held or held[-1] != row:
                held.append(row)

    def _held(self, value: Value) -> list[int]:
        """The rows of a value."""
        if isinstance(value, str):
            text = utf8(value)
            if len(text) > STRING_BYTES_MAX:
                return self._lists["long"]
            return self._of(self._strings, text, len(text) + 1)
        if isinstance(value, bool):
            return self._lists["true" if value else "false"]
        if isinstance(value, Date):
            return self._of(self._dates, value.instant_us, 8)
        number = exact_float(value)
        return self._lists["inexact"] if number is None else self._of(self._numbers, number, 8)

    def _of(self, known: dict[Any, list[int]], value: Any, size_bytes: int) -> list[int]:
        rows = known.get(value)
        if rows is None:
            rows = known[value] = []
            self.value_bytes += size_bytes
        return rows

    def facts(self) -> dict[str, int]:
        """How many rows have the field, and how many distinct values of each type are kept."""
        bools = sum(bool(self._lists[name]) for name in ("false", "true"))
        kept = {"string": len(self._strings), "number": len(self._numbers), "bool": bools,
                "date": len(self._dates)}  # fmt: skip
        others = {name: len(self._lists[name]) for name in ("long", "inexact")}
        found = {"rows": self._present} | kept | others
        return {name: count for name, count in found.items() if count}

    def packed(self, count: int) -> bytes:
        """The column of a segment of ``count`` rows, as ``Column`` reads it."""
        arrays: dict[str, NDArray[Any]] = {}
        for name, rows in self._lists.items():
            arrays[name] = np.array(rows, np.uint16)
        numbers = _ordered(arrays, "number", self._numbers, count)
        arrays["numbers"] = np.array(numbers, np.float64)
        dates = _ordered(arrays, "date", self._dates, count)
        arrays["dates"] = np.array(dates, np.int64)
        strings = _ordered(arrays, "string", self._strings, count)
        arrays["string_lengths"] = np.array([len(text) for text in strings], np.int64)
        arrays["string_bytes"] = np.frombuffer(b"".join(strings), np.uint8)
        return _packed(arrays)


def packed_hashes(hashes: Sequence[int]) -> bytes:
    """The column that has one number of 0 or more for each row, -1 for none: as a Builder would
    make it, in a tenth of the time.
    """
    values, codes = np.unique(np.array(hashes, np.int64), return_inverse=True)
    if len(values) and values[0] < 0:
        values, codes = values[1:], np.where(codes == 0, len(values) - 1, codes - 1)
    return _packed({"numbers": values.astype(np.float64), "number_codes": codes})


def _packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """A column of ``arrays`` by the names of their parts; others are empty."""
    nothing = np.empty(0, np.int64)
    narrowed = [_narrowed(arrays.get(name, nothing)) for name in PARTS]
    head = [fact for kind, array in narrowed for fact in (kind.encode(), len(array))]
    return HEAD.pack(*head) + b"".join(array.tobytes() for _, array in narrowed)


def _ordered(
    arrays: dict[str, NDArray[Any]], kind: str, held: dict[Any, list[int]], count: int
) -> list[Any]:
    """The values ascending; codes, counts and rows of the type ``kind`` come into ``arrays``."""
    values = sorted(held)
    sizes = np.array([len(held[value]) for value in values], np.int64)
    rows = np.array([row for value in values for row in held[value]], np.int64)
    codes = rows[:0]
    if len(rows) > _CODED_SHARE * count and len(np.unique(rows)) == len(rows):
        codes = np.full(count, len(values), np.int64)
        codes[rows] = np.repeat(np.arange(len(values)), sizes)
        sizes, rows = sizes[:0], rows[:0]
    arrays[f"{kind}_codes"], arrays[f"{kind}_rows"] = codes, rows
    arrays[f"{kind}_counts"] = sizes[:0] if (sizes == 1).all() else sizes
    return values


def _narrowed(array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    """``array`` in the narrowest type that holds each of its numbers, and the type's character."""
    if array.dtype == np.float64:
        whole = np.all(np.abs(array) <= _EXACT_INTEGER_MAX) and np.all(array == np.trunc(array))
        if not whole:
            with np.errstate(over="ignore"):
                short = array.astype("<f4")
            return ("f", short) if np.array_equal(short, array) else ("d", array.astype("<f8"))
        array = array.astype(np.int64)
    low, high = (int(array.min()), int(array.max())) if len(array) else (0, 0)
    for kind in _INTEGERS:
        bounds = np.iinfo(TYPES[kind])
        if bounds.min <= low and high <= bounds.max:
            return kind, array.astype(TYPES[kind])
    raise AssertionError((low, high))
