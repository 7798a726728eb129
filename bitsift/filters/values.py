"""The values of metadata: what is at a path, as tests of a filter and the field index read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bitsift.filters.dates import Date, date_of
from bitsift.filters.tree import Value

DATE_KEY = "$date"


def values_of(metadata: Mapping[str, Any]) -> dict[str, list[Value]]:
    """The values of each field that exists, by its path, in no particular order, with repeats.

    A field whose values are all in fields below it has none of its own: ``{"by": {"name": "x"}}``
    gives ``{"by": [], "by.name": ["x"]}``, and so does ``{"by.name": "x"}``.
    """
    found: dict[str, list[Value]] = {}
    for path, value in _values(metadata):
        if path not in found:
            for end, character in enumerate(path):
                if character == ".":
                    found.setdefault(path[:end], [])
        found.setdefault(path, []).append(value)
    return found


def values_at(metadata: Mapping[str, Any], path: str) -> list[Value] | None:
    """``values_of(metadata).get(path)``, by reading no more than that.

    None: the field does not exist. Empty: its values are in fields below it.
    """
    below = f"{path}."
    found = [(at, value) for at, value in _values(metadata, path) if f"{at}.".startswith(below)]
    return [value for at, value in found if at == path] if found else None


def _values(
    item: Any, wanted: str | None = None, path: str | None = None
) -> Iterator[tuple[str, Value]]:
    """Each value in ``item``, which is at ``path``, with its path: all, or those on the way to
    ``wanted``, at it and below it. The depth of metadata is limited where it is written.
    """
    if isinstance(item, list):
        for element in item:
            yield from _values(element, wanted, path)
    elif typed := readings(item):
        for value in typed:
            yield path or "", value
    elif isinstance(item, Mapping):
        for key, below in item.items():
            at = key if path is None else f"{path}.{key}"
            if wanted is None or f"{wanted}.".startswith(f"{at}.") or at.startswith(f"{wanted}."):
                yield from _values(below, wanted, at)


def readings(stored: Any) -> tuple[Value, ...]:
    """A stored scalar as each type that it is: a string may be a date too. Null, arrays and objects
    are none, but for ``{"$date": "2026-01-31"}``, which is a date.
    """
    if isinstance(stored, str):
        date = date_of(stored)
        return (stored,) if date is None else (stored, date)
    if isinstance(stored, bool | int | float):
        return (stored,)
    date = _written_date(stored)
    return () if date is None else (date,)


def _written_date(stored: Any) -> Date | None:
    if isinstance(stored, Mapping) and stored.keys() == {DATE_KEY}:
        text = stored[DATE_KEY]
        return date_of(text) if isinstance(text, str) else None
    return None
