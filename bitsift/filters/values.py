"""The values of metadata: what is at a path, as tests of a filter and the field index read it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bitsift.filters.dates import Date, date_of
from bitsift.filters.tree import Value

DATE_KEY = "$date"


def values_of(
    metadata: Mapping[str, Any],
    is_wanted: Callable[[str], bool] = lambda path: True,
    path_characters_max: int = sys.maxsize,
) -> dict[str, list[Value]]:
    """The values of each field that exists and ``is_wanted``, by its path, in no particular order,
    with repeats.

    A field whose values are all in fields below it has none of its own: ``{"by": {"name": "x"}}``
    gives ``{"by": [], "by.name": ["x"]}``, and so does ``{"by.name": "x"}``. A path is cut behind
    one character more than ``path_characters_max``, and then has no values: paths of one document
    may take the square of its size.
    """
    found: dict[str, list[Value]] = {}
    for path, value in _values(metadata, path_characters_max):
        if path not in found:
            above = (path[:end] for end, character in enumerate(path) if character == ".")
            for name in (*above, path):
                if name not in found and is_wanted(name):
                    found[name] = []
        if value is not None and path in found:
            found[path].append(value)
    return found


def _values(
    item: Any, path_characters_max: int, path: str | None = None
) -> Iterator[tuple[str, Value | None]]:
    """Each value in ``item``, which is at ``path``, with its path; None for all that are below a
    path that is cut. The depth of metadata is limited where it is written.
    """
    if isinstance(item, list):
        for element in item:
            yield from _values(element, path_characters_max, path)
    elif typed := readings(item):
        for value in typed:
            yield path or "", value
    elif isinstance(item, Mapping):
        for key, below in item.items():
            at = key if path is None else f"{path}.{key}"
            if len(at) <= path_characters_max:
                yield from _values(below, path_characters_max, at)
            elif _exists(below):
                yield at[: path_characters_max + 1], None


def values_at(metadata: Mapping[str, Any], path: str) -> list[Value] | None:
    """``values_of(metadata).get(path)``, by reading no more than that.

    None: the field does not exist. Empty: its values are in fields below it.
    """
    found = list(_values_below(metadata, path))
    return [value for value in found if value is not None] if found else None


def _values_below(item: Any, path: str) -> Iterator[Value | None]:
    """The values that are at ``path`` from ``item``; None for those below it."""
    if isinstance(item, list):
        for element in item:
            yield from _values_below(element, path)
    elif isinstance(item, Mapping) and not readings(item):
        for key, below in item.items():
            if key == path:
                yield from _values_in(below)
            elif path.startswith(f"{key}."):
                yield from _values_below(below, path[len(key) + 1 :])
            elif key.startswith(f"{path}.") and _exists(below):
                yield None


def _values_in(item: Any) -> Iterator[Value | None]:
    """The values of a field that holds ``item``; None for those in fields below it."""
    if isinstance(item, list):
        for element in item:
            yield from _values_in(element)
    elif typed := readings(item):
        yield from typed
    elif _exists(item):
        yield None


def _exists(item: Any) -> bool:
    """Whether there is a value in ``item``, or in what is below it."""
    if isinstance(item, list):
        return any(map(_exists, item))
    if readings(item):
        return True
    return isinstance(item, Mapping) and any(map(_exists, item.values()))


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
