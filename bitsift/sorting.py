"""The order that ``sort`` asks for: by fields of the metadata, the same in each shard and client.

A document without the field comes last, whichever way. Types stand apart, in the order bool,
number, string, date; descending, all of that is reversed. Of several values the least counts,
descending the greatest, as ascending and descending are read from either end. Numbers are compared
as float64, strings by code point as far as 128 bytes of UTF-8 go, and a string that reads as
a date is that instant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bitsift.filters.dates import Date, date_of
from bitsift.filters.operands import FilterError, path_of, shown
from bitsift.filters.tree import DOCUMENT_ID, Value, sort_key
from bitsift.filters.values import values_at

STRING_BYTES = 128
"""Of a string's UTF-8; equal ones as far as that are equal."""
_DIRECTIONS = {"asc": False, "desc": True}
_MEANT = ("asc", "desc", "ascending", "descending")
T = TypeVar("T")
Place = tuple[int, bool | float | int | bytes]
"""A value where it stands: its type, and a number, an instant in microseconds or UTF-8."""


@dataclass(frozen=True, slots=True)
class SortKey:
    """A path in the metadata, and which way."""

    path: str
    descending: bool = False


def sort_key_of(text: str) -> SortKey:
    """What ``year:desc`` says; ``year`` alone ascends. Raises FilterError."""
    field, _, direction = text.rpartition(":")
    if direction not in _DIRECTIONS:
        if direction.lower() in _MEANT and field:
            raise FilterError(f"{shown(text)} is no order: write year, year:asc or year:desc")
        field, direction = text, "asc"
    path = path_of(field, "")
    if path == DOCUMENT_ID:
        raise FilterError("id is no field of the metadata, which documents are sorted by")
    return SortKey(path, _DIRECTIONS[direction])


def place_of(value: Value) -> Place:
    """Where a value stands."""
    order = sort_key(value)[0]
    if isinstance(value, str):
        return order, value.encode("utf-8", "surrogatepass")[:STRING_BYTES]
    if isinstance(value, Date):
        return order, value.instant_us
    return order, value if isinstance(value, bool) else float(value)


def place_in(metadata: Mapping[str, Any], key: SortKey) -> Place | None:
    """Where a document stands by ``key``; None, last, without the field."""
    found = values_at(metadata, key.path) or ()
    places = [place_of(it) for it in found if not isinstance(it, str) or date_of(it) is None]
    if not places:
        return None
    return max(places) if key.descending else min(places)


@dataclass(frozen=True, slots=True)
class _Falling:
    place: Place

    def __lt__(self, other: _Falling) -> bool:
        return other.place < self.place


def standing(places: Sequence[Place | None], keys: Sequence[SortKey]) -> tuple[Any, ...]:
    """What compares as documents with these ``places``, one for each of ``keys``, stand."""
    return tuple(
        (True,) if place is None else (False, _Falling(place) if key.descending else place)
        for place, key in zip(places, keys, strict=True)
    )


def in_order(
    documents: Iterable[T], keys: Sequence[SortKey], metadata: Callable[[T], Mapping[str, Any]]
) -> list[T]:
    """``documents`` by ``keys``, equal ones as they come; ``metadata`` gives that of one."""

    def place(one: T) -> tuple[Any, ...]:
        said = metadata(one)
        return standing([place_in(said, key) for key in keys], keys)

    return sorted(documents, key=place)
