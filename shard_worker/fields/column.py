"""One field in one segment: its values in order, each with the rows that have it. Pure functions.

Under each type the distinct values ascend; their rows are kept in one of two ways. Where most rows
have one value of the type, each row has a *code*, the place of its value, or the number of values
where it has none: a range, or all strings that begin alike, is a range of codes, and to find its
rows is to compare an array. Else the column is inverted: behind each other lie the rows of the
first value, of the second, and so on, and a range is a slice of them. Rows count from the first of
the segment.

    head     for each part its type (one character) and its length: uint32, little-endian
    parts    bare       rows whose values are all in fields below this one
             long       rows with a string beyond ``STRING_BYTES_MAX``, which is not kept
             inexact    rows with a number that no float64 is equal to, which is not kept
             false, true
             numbers, dates, strings     the values, and either the codes, or how many rows each
                        value has (nothing where each has one), and the rows

Arrays take the narrowest type that holds them: years are two bytes each, flags of one value none.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bitsift.filters.dates import Date
from bitsift.filters.tree import Operator, Test, Value

SEGMENT_ROWS_MAX = 1 << 16
"""Rows of a segment: what two bytes number."""
STRING_BYTES_MAX = 128
"""Of a string that is kept, as UTF-8; documents with a longer one are read where it matters."""
Rows = NDArray[np.uint16] | NDArray[np.bool_]
"""Row numbers (n,), or a mark for each row of the segment (rows,)."""

PARTS = (
    "bare", "long", "inexact", "false", "true",
    "numbers", "number_codes", "number_counts", "number_rows",
    "dates", "date_codes", "date_counts", "date_rows",
    "string_bytes", "string_lengths", "string_codes", "string_counts", "string_rows",
)  # fmt: skip
HEAD = struct.Struct("<" + "cI" * len(PARTS))
TYPES = {"B": "u1", "H": "<u2", "I": "<u4", "b": "i1", "h": "<i2", "i": "<i4", "q": "<i8",
          "f": "<f4", "d": "<f8"}  # fmt: skip
_SIZES = {kind.encode(): (name, np.dtype(name).itemsize) for kind, name in TYPES.items()}


def is_number(value: Value | None) -> TypeGuard[float]:
    """A bool is none here, as it is in filters."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def exact_float(number: float) -> float | None:
    """The float64 that is equal to ``number``; None where there is none. -0.0 is 0.0."""
    try:
        found = float(number)
    except OverflowError:
        return None
    return found + 0.0 if found == number else None


def utf8(text: str) -> bytes:
    """What orders strings by code point; a lone surrogate of a filter is found nowhere."""
    return text.encode("utf-8", "surrogatepass")


def id_hash(document_id: str) -> int:
    """What the column of ids holds in the place of an id: two bytes, which find nearly no other."""
    return zlib.crc32(utf8(document_id)) & 0xFFFF


class Column:
    """A packed column, read as it lies; ``packed`` has passed its checksum."""

    def __init__(self, packed: memoryview | bytes) -> None:
        self._packed = packed
        self._places = _places_of(bytes(packed[: HEAD.size]))

    def part(self, name: str) -> NDArray[Any]:
        """One of the parts that the head of this file names, as it lies."""
        dtype, count, at = self._places[name]
        return np.frombuffer(self._packed, dtype, count, at)

    def present(self) -> Iterator[Rows]:
        """The rows that have the field, in pieces that may share rows."""
        yield from (self.part(name) for name in PARTS[:5])
        for values in (self._ordered("number"), self._ordered("date"), self._strings()):
            yield from values.slice(0, len(values))

    def found(self, test: Test) -> Iterator[Rows]:
        """Rows with a value that passes ``test``, of those that are kept, in pieces.

        Of eq, in, gt, gte, lt, lte and prefix only: the rest is made of them (bounds.py).
        """
        operand = test.operand
        if test.operator is Operator.PREFIX:
            assert isinstance(operand, str)
            yield from self._strings().beginning(utf8(operand))
        elif test.operator is Operator.EQ:
            yield from self._equal([operand])
        elif test.operator is Operator.IN:
            assert isinstance(operand, tuple)
            yield from self._equal(operand)
        else:
            yield from self._range(test.operator, operand)

    def doubtful(self, test: Test) -> Iterator[Rows]:
        """Rows with a value that is not kept and may pass ``test``."""
        equal = test.operator in (Operator.EQ, Operator.IN)
        for operand in test.operand if isinstance(test.operand, tuple) else (test.operand,):
            if isinstance(operand, str):
                if not equal or len(utf8(operand)) > STRING_BYTES_MAX:
                    yield self.part("long")
            elif is_number(operand) and (not equal or exact_float(operand) is None):
                yield self.part("inexact")

    def _equal(self, operands: Iterable[Any]) -> Iterator[Rows]:
        strings: _Strings | None = None
        numbers = []
        for operand in operands:
            if isinstance(operand, str):
                strings = strings or self._strings()
                yield from strings.equal(utf8(operand))
            elif isinstance(operand, bool):
                yield self.part("true" if operand else "false")
            elif isinstance(operand, Date):
                yield from self._ordered("date").equal(operand.instant_us)
            elif operand is not None and (number := exact_float(operand)) is not None:
                numbers.append(number)
        if numbers:
            ordered = self._ordered("number")
            for number in numbers:
                yield from ordered.equal(number)

    def between(self, tests: Sequence[Test]) -> Iterator[Rows] | None:
        """Rows with a value that passes all of ``tests``, gt, gte, lt or lte of operands of one
        type; None where a row may have several values: one may pass this test, another that.
        """
        values = self._of_type(tests[0].operand)
        if not values.is_coded:
            return None
        first, stop = 0, len(values)
        for test in tests:
            low, high = self._cut(values, test.operator, test.operand)
            first, stop = max(first, low), min(stop, high)
        return values.slice(first, stop)

    def _range(self, operator: Operator, operand: Any) -> Iterator[Rows]:
        values = self._of_type(operand)
        return values.slice(*self._cut(values, operator, operand))

    def _cut(self, values: _Values, operator: Operator, operand: Any) -> tuple[int, int]:
        """The first of the ``values`` that pass, and the one behind the last."""
        if isinstance(operand, str):
            operand = utf8(operand)
        elif isinstance(operand, Date):
            operand = operand.instant_us
        behind = operator in (Operator.GT, Operator.LTE)  # the operand itself lies before the cut
        cut = values.cut(operand, behind=behind)
        return (0, cut) if operator in (Operator.LT, Operator.LTE) else (cut, len(values))

    def _of_type(self, operand: Any) -> _Values:
        """The values that are compared with ``operand``."""
        if isinstance(operand, str):
            return self._strings()
        return self._ordered("date" if isinstance(operand, Date) else "number")

    def _ordered(self, kind: str) -> _Ordered:
        return _Ordered(self.part(f"{kind}s"), self._rows_of(kind))

    def _strings(self) -> _Strings:
        text, lengths = self.part("string_bytes"), self.part("string_lengths")
        return _Strings(text, lengths, self._rows_of("string"))

    def _rows_of(self, kind: str) -> _Places:
        codes, counts, rows = (self.part(f"{kind}_{part}") for part in ("codes", "counts", "rows"))
        return codes, counts, rows


_Places = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _places_of(head: bytes) -> dict[str, tuple[str, int, int]]:
    """Of each part its type, its length and where it begins."""
    facts, found, at = HEAD.unpack(head), {}, HEAD.size
    for name, kind, count in zip(PARTS, facts[::2], facts[1::2], strict=True):
        dtype, size_bytes = _SIZES[kind]
        found[name] = dtype, count, at
        at += count * size_bytes
    return found


class _Values:
    """The values of one type, ascending, and their rows."""

    def __init__(self, size: int, places: _Places) -> None:
        """``places`` are the codes, or how many rows each value has, and the rows."""
        self._size = size
        self._codes, counts, self._rows = places
        self._ends = np.cumsum(counts, dtype=np.int64) if len(counts) else None

    def __len__(self) -> int:
        return self._size

    @property
    def is_coded(self) -> bool:
        """Whether each row has one of the values at most."""
        return len(self._codes) > 0

    def slice(self, first: int, stop: int) -> Iterator[Rows]:
        """The rows of the values from the ``first`` to the one before ``stop``."""
        if first >= stop:
            return
        if len(self._codes):
            yield _between(self._codes, first, stop)
            return
        if self._ends is not None:
            first, stop = int(self._ends[first - 1]) if first else 0, int(self._ends[stop - 1])
        yield self._rows[first:stop]

    def cut(self, operand: Any, *, behind: bool) -> int:
        """How many values lie before ``operand``; with ``behind`` those equal to it, too."""
        raise NotImplementedError

    def equal(self, operand: Any) -> Iterator[Rows]:
        return self.slice(self.cut(operand, behind=False), self.cut(operand, behind=True))


class _Ordered(_Values):
    """Numbers, or instants."""

    def __init__(self, values: NDArray[Any], places: _Places) -> None:
        super().__init__(len(values), places)
        self._values = values

    def cut(self, operand: float, *, behind: bool) -> int:
        """By Python's own comparison, which is exact where float64 is not; of whole numbers in one
        call.
        """
        if self._values.dtype.kind in "iu" and math.isfinite(operand):
            bound = math.floor(operand) + 1 if behind else math.ceil(operand)  # all below it
            limits = np.iinfo(self._values.dtype)
            if bound <= limits.min or bound > limits.max:
                return 0 if bound <= limits.min else self._size
            return int(self._values.searchsorted(self._values.dtype.type(bound)))
        if behind:
            return _bisect(self._size, lambda at: self._values[at].item() <= operand)
        return _bisect(self._size, lambda at: self._values[at].item() < operand)


class _Strings(_Values):
    def __init__(
        self,
        text: NDArray[np.uint8],
        lengths: NDArray[Any],
        places: _Places,
    ) -> None:
        super().__init__(len(lengths), places)
        self._text = text.data
        self._stops = np.cumsum(lengths, dtype=np.int64)
        self._lengths = lengths

    def _at(self, place: int) -> bytes:
        stop = int(self._stops[place])
        return bytes(self._text[stop - int(self._lengths[place]) : stop])

    def cut(self, operand: bytes, *, behind: bool) -> int:
        if behind:
            return _bisect(self._size, lambda at: self._at(at) <= operand)
        return _bisect(self._size, lambda at: self._at(at) < operand)

    def beginning(self, prefix: bytes) -> Iterator[Rows]:
        """The rows of the strings that begin with ``prefix``."""
        size = len(prefix)
        stop = _bisect(self._size, lambda at: self._at(at)[:size] <= prefix)
        return self.slice(self.cut(prefix, behind=False), stop)


def _between(codes: NDArray[Any], first: int, stop: int) -> NDArray[np.bool_]:
    """Which of ``codes`` (rows,), unsigned, are ``first`` or more and below ``stop``."""
    if stop == first + 1:
        return np.asarray(codes == first)
    if first == 0:
        return np.asarray(codes < stop)
    return np.asarray(codes - codes.dtype.type(first) < stop - first)  # smaller ones wrap around


def _bisect(size: int, is_before: Callable[[int], bool]) -> int:
    """How many of ``size`` places are before the cut; all of those come first."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        if is_before(middle):
            low = middle + 1
        else:
            high = middle
    return low
