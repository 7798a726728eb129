"""What a column holds, value by value, with the rows of each: to count values, and to order rows.

A string that reads as a date has two readings, which filters find both. It is one value here: to be
counted it is the string that is stored, to be ordered the date. Nothing is known here of a column's
rows ``unkept``: their documents must be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.filters.dates import Date, date_of
from bitsift.filters.tree import Value, sort_key
from bitsift.filters.values import values_at
from bitsift.shard_worker.fields.column import SEGMENT_ROWS_MAX, Column

_INTEGERS = range(-(1 << 63), 1 << 64)


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """The ``values`` of one type, ascending, and each pair of a value's place and a row that has
    it: ``places`` and ``rows``, int64 (n,), by place unless each row has one.
    """

    values: Any
    places: NDArray[np.int64]
    rows: NDArray[np.int64]

    def value(self, place: int) -> Value:
        """The value at ``place``; a whole number is an int."""
        return plain(self.values[place])

    def only(self, kept: NDArray[np.bool_]) -> Held:
        """Without the pairs that are not ``kept`` (n,)."""
        return Held(self.values, self.places[kept], self.rows[kept])


class _Strings:
    """The strings of a column by their places."""

    def __init__(self, column: Column) -> None:
        self._text, lengths = column.part("string_bytes").data, column.part("string_lengths")
        self._stops = np.cumsum(lengths, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._stops)

    def __getitem__(self, place: int) -> str:
        start = int(self._stops[place - 1]) if place else 0
        return bytes(self._text[start : int(self._stops[place])]).decode(errors="replace")


class _Dates:
    def __init__(self, column: Column) -> None:
        self.instants = column.part("dates").astype(np.int64)

    def __len__(self) -> int:
        return len(self.instants)

    def __getitem__(self, place: int) -> Date:
        return Date(int(self.instants[place]))


def plain(value: Any) -> Value:
    """A number as Python's own, whole ones of 64 bits as int; anything else as it is."""
    found: Value = value.item() if isinstance(value, np.generic) else value
    if isinstance(found, float) and found.is_integer() and int(found) in _INTEGERS:
        return int(found)
    return found


def unkept(column: Column) -> NDArray[np.int64]:
    """Rows with a value that the column does not keep, (n,); perhaps with repeats."""
    return np.concatenate([column.part("long"), column.part("inexact")]).astype(np.int64)


def stored(column: Column) -> list[Held]:
    """Bools, numbers, strings, and those dates that no string of their row reads as."""
    dates, strings = _Dates(column), _Strings(column)
    moments, texts = _pairs(column, "date", dates), _pairs(column, "string", strings)
    said = _said(dates, strings)
    if len(said):
        known = texts.only(said[texts.places] >= 0)
        read = Held(dates, said[known.places], known.rows)
        moments = moments.only(_unread(moments, read, len(column.part("date_codes"))))
    return [_bools(column), _pairs(column, "number", column.part("numbers")), texts, moments]


def _unread(moments: Held, read: Held, count: int) -> NDArray[np.bool_]:
    """Which of ``moments`` no string of the row reads as; those that are ``read`` are among them.
    A row of ``count`` has one at most; 0: some have several.
    """
    if count:
        of_row = np.full(count, -1, np.int64)
        of_row[read.rows] = read.places
        return np.asarray(of_row[moments.rows] != moments.places)
    pairs, known = (it.places * SEGMENT_ROWS_MAX + it.rows for it in (moments, read))
    return np.isin(pairs, known, invert=True)


def ordered(column: Column) -> list[Held]:
    """Bools, numbers, dates, and the strings that read as none: in the order of ``sort_key``."""
    dates, strings = _Dates(column), _Strings(column)
    texts, said = _pairs(column, "string", strings), _said(dates, strings)
    if len(said):
        texts = texts.only(said[texts.places] < 0)
    moments = _pairs(column, "date", dates)
    return [_bools(column), _pairs(column, "number", column.part("numbers")), texts, moments]


def _said(dates: _Dates, strings: _Strings) -> NDArray[np.int64]:
    """For each string the place of the date that it reads as, -1 for none; () without dates."""
    if not len(dates):
        return np.empty(0, np.int64)
    found = np.full(len(strings), -1, np.int64)
    for place in range(len(strings)):
        if (date := date_of(strings[place])) is not None:
            found[place] = np.searchsorted(dates.instants, date.instant_us)
    return found


def _bools(column: Column) -> Held:
    rows = [column.part(name).astype(np.int64) for name in ("false", "true")]
    places = np.repeat(np.arange(2), [len(each) for each in rows])
    return Held((False, True), places, np.concatenate(rows))


def _pairs(column: Column, kind: str, values: Any) -> Held:
    codes, size = column.part(f"{kind}_codes"), len(values)
    if len(codes):
        rows = np.flatnonzero(codes < size)
        return Held(values, codes[rows].astype(np.int64), rows)
    counts, rows = column.part(f"{kind}_counts"), column.part(f"{kind}_rows").astype(np.int64)
    places = np.arange(size, dtype=np.int64)
    return Held(values, np.repeat(places, counts) if len(counts) else places, rows)


def stored_values(metadata: Mapping[str, Any], path: str) -> list[Value]:
    """The distinct values of a document at ``path``, as ``stored`` has them."""
    values = distinct(values_at(metadata, path) or ())
    said = {date_of(value) for value in values if isinstance(value, str)}
    return [value for value in values if not isinstance(value, Date) or value not in said]


def ordered_values(metadata: Mapping[str, Any], path: str) -> list[Value]:
    """The same as ``ordered`` has them."""
    values = distinct(values_at(metadata, path) or ())
    return [value for value in values if not isinstance(value, str) or date_of(value) is None]


def distinct(values: Iterable[Value]) -> list[Value]:
    """Each once; whole numbers as ints."""
    return list({sort_key(value): plain(value) for value in values}.values())
