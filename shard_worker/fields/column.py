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
COLUMN_BYTES_PER_ROW_MAX = 32
"""A field whose distinct values take more bytes than this for each row of its segment, and
``COLUMN_BYTES_MIN``, is not indexed there: it is text, not a label."""
COLUMN_BYTES_MIN = 4_096
Rows = NDArray[np.uint16] | NDArray[np.bool_]
"""Row numbers (n,), or a mark for each row of the segment (rows,)."""
_CODED_SHARE = 0.5
"""Codes are kept where more rows than this have a value; they take no more than row numbers."""

_PARTS = (
    "bare", "long", "inexact", "false", "true",
    "numbers", "number_codes", "number_counts", "number_rows",
    "dates", "date_codes", "date_counts", "date_rows",
    "string_bytes", "string_lengths", "string_codes", "string_counts", "string_rows",
)  # fmt: skip
_HEAD = struct.Struct("<" + "cI" * len(_PARTS))
_TYPES = {"B": "u1", "H": "<u2", "I": "<u4", "b": "i1", "h": "<i2", "i": "<i4", "q": "<i8",
          "f": "<f4", "d": "<f8"}  # fmt: skip
_INTEGERS = "BHIbhiq"
_EXACT_INTEGER_MAX = 2.0**53


class Builder:
    """A column while the rows of a segment are read, in order."""

    def __init__(self) -> None:
        self._lists: dict[str, list[int]] = {name: [] for name in _PARTS[:5]}
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
    narrowed = [_narrowed(arrays.get(name, nothing)) for name in _PARTS]
    head = [fact for kind, array in narrowed for fact in (kind.encode(), len(array))]
    return _HEAD.pack(*head) + b"".join(array.tobytes() for _, array in narrowed)


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
        bounds = np.iinfo(_TYPES[kind])
        if bounds.min <= low and high <= bounds.max:
            return kind, array.astype(_TYPES[kind])
    raise AssertionError((low, high))


class Column:
    """A packed column, read as it lies; ``packed`` has passed its checksum."""

    def __init__(self, packed: memoryview | bytes) -> None:
        facts = _HEAD.unpack_from(packed)
        self._packed = packed
        self._places: dict[str, tuple[str, int, int]] = {}
        at = _HEAD.size
        for name, kind, count in zip(_PARTS, facts[::2], facts[1::2], strict=True):
            dtype = _TYPES[kind.decode()]
            self._places[name] = dtype, count, at
            at += count * np.dtype(dtype).itemsize

    def part(self, name: str) -> NDArray[Any]:
        """One of the parts that the head of this file names, as it lies."""
        dtype, count, at = self._places[name]
        return np.frombuffer(self._packed, dtype, count, at)

    def present(self) -> Iterator[Rows]:
        """The rows that have the field, in pieces that may share rows."""
        yield from (self.part(name) for name in _PARTS[:5])
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

    def _range(self, operator: Operator, operand: Any) -> Iterator[Rows]:
        upper = operator in (Operator.LT, Operator.LTE)
        behind = operator in (Operator.GT, Operator.LTE)  # the operand itself lies before the cut
        if isinstance(operand, str):
            values: _Values = self._strings()
            cut = values.cut(utf8(operand), behind=behind)
        elif isinstance(operand, Date):
            values = self._ordered("date")
            cut = values.cut(operand.instant_us, behind=behind)
        else:
            values = self._ordered("number")
            cut = values.cut(operand, behind=behind)
        yield from values.slice(0, cut) if upper else values.slice(cut, len(values))

    def _ordered(self, kind: str) -> _Ordered:
        return _Ordered(self.part(f"{kind}s"), self._places_of(kind))

    def _strings(self) -> _Strings:
        text, lengths = self.part("string_bytes"), self.part("string_lengths")
        return _Strings(text, lengths, self._places_of("string"))

    def _places_of(self, kind: str) -> _Places:
        codes, counts, rows = (self.part(f"{kind}_{part}") for part in ("codes", "counts", "rows"))
        return codes, counts, rows


_Places = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


class _Values:
    """The values of one type, ascending, and their rows."""

    def __init__(self, size: int, places: _Places) -> None:
        """``places`` are the codes, or how many rows each value has, and the rows."""
        self._size = size
        self._codes, counts, self._rows = places
        self._ends = np.cumsum(counts, dtype=np.int64) if len(counts) else None

    def __len__(self) -> int:
        return self._size

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
        """By Python's own comparison, which is exact where float64 is not."""
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
    below = codes < stop
    return np.asarray(below & (codes >= first)) if first else np.asarray(below)


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
