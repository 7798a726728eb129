"""What a test may say: its field's name, its operator and its operand, checked once on entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Any

from bitsift.document_ids import given_id
from bitsift.filters.dates import Date, date_of
from bitsift.filters.tree import (
    DOCUMENT_ID,
    Kind,
    Operand,
    Operator,
    Test,
    Value,
    kind_of,
    sort_key,
)
from bitsift.filters.values import DATE_KEY

VALUES_MAX = 1_000
"""Values of one ``$in``, ``$nin`` or ``$all``."""
_ID = "id"
_PREFIX = "metadata."
_INTEGERS = range(-(1 << 63), 1 << 64)
"""Metadata has whole numbers so far; those beyond it holds as floats."""
_ORDERED = (Operator.GT, Operator.GTE, Operator.LT, Operator.LTE)
_LISTS = (Operator.IN, Operator.NIN, Operator.ALL)
_SHOWN_CHARACTERS_MAX = 40


class FilterError(ValueError):
    """What is wrong with a filter, and where: the caller must change it."""


def fail(place: str, message: str) -> FilterError:
    """The error of what is at ``place``, such as ``$and.1.year.$gte``; "" for all of it."""
    return FilterError(f"{place}: {message}" if place else message)


def shown(value: object) -> str:
    """``value`` as an error says it, short."""
    try:
        said = repr(value)
    except RecursionError:  # as text, a filter may be JSON of any depth
        said = "what is nested so deep"
    return said if len(said) <= _SHOWN_CHARACTERS_MAX else f"{said[:_SHOWN_CHARACTERS_MAX]}…"


def path_of(name: str, place: str) -> str:
    """The ``field`` of a Test, as callers name it. Raises FilterError.

    ``id`` is the document's. ``metadata.`` may stand before any path in the metadata, and must
    before one that is ``id`` or begins with ``metadata.``.
    """
    if name == _ID:
        return DOCUMENT_ID
    path = name.removeprefix(_PREFIX)
    if not path:
        raise fail(place, "a field has a name")
    if path.startswith("$") or ".$" in path:
        raise fail(place, f"{shown(name)} is no field: names that begin with $ are operators")
    _check_text(name, place)
    return path


def name_of(path: str) -> str:
    """How callers name a field: what ``path_of`` reads."""
    if path == DOCUMENT_ID:
        return _ID
    return f"{_PREFIX}{path}" if path == _ID or path.startswith(_PREFIX) else path


def test_of(path: str, operator: Operator, operand: Any, place: str) -> Test:
    """A test whose operand has been checked; numbers are ids of the id. Raises FilterError."""
    if path == DOCUMENT_ID:
        operand = _ids(operand, place)
    return Test(path, operator, _checked(operator, operand, place))


test_of.__test__ = False  # type: ignore[attr-defined]


def _ids(operand: Any, place: str) -> Any:
    if isinstance(operand, list | tuple):
        return [_ids(value, place) for value in operand]
    try:
        return given_id(operand)
    except ValueError as error:
        raise fail(place, str(error)) from error


def _checked(operator: Operator, operand: Any, place: str) -> Operand:
    if operator is Operator.EXISTS:
        if not isinstance(operand, bool):
            raise fail(place, f"takes true or false, not {shown(operand)}")
        return operand
    if operator in _LISTS:
        return _several(operator, operand, place)
    if isinstance(operand, list | tuple):
        raise fail(place, "takes one value, not a list: for any of several $in, for all of them "
                   "$all")  # fmt: skip
    value = _one(operand, place)
    if operator is Operator.PREFIX and not isinstance(value, str):
        raise fail(place, f"takes a string, not {shown(operand)}")
    if operator in _ORDERED and kind_of(value) in (Kind.NULL, Kind.BOOL):
        raise fail(place, f"takes a number, a string or a {DATE_KEY}, not {shown(operand)}")
    return value


def _several(operator: Operator, operand: Any, place: str) -> tuple[Value | None, ...]:
    if not isinstance(operand, list | tuple):
        raise fail(place, f"takes a list, not {shown(operand)}")
    if len(operand) > VALUES_MAX:
        raise fail(place, f"{len(operand):,} values, at most {VALUES_MAX:,}")
    values = [_one(value, f"{place}.{at}") for at, value in enumerate(operand)]
    if operator is Operator.ALL and (not values or None in values):
        raise fail(place, "takes the values that a field must have: at least one, and no null")
    return _canonical(values)


def _canonical(values: Sequence[Value | None]) -> tuple[Value | None, ...]:
    """In order, each once: so equal sets of values are equal tests."""
    keyed = {sort_key(value): value for value in values}
    return tuple(keyed[key] for key in sorted(keyed))


def _one(value: Any, place: str) -> Value | None:
    """One value of a type that metadata may have. Raises FilterError."""
    match value:
        case None | bool() | Date():
            return value
        case str():
            return _check_text(value, place)
        case int() | float():
            return _number(value, place)
        case date():  # a datetime is one
            return _date(value.isoformat(), place)
        case {"$date": str(written), **rest} if not rest:
            return _date(written, place)
        case dict() if DATE_KEY in value:
            raise fail(place, f'a date is written {{"{DATE_KEY}": "2026-01-31T08:00:00Z"}}')
        case list() | tuple():
            raise fail(place, "is a list within a list")
    raise fail(place, f"takes a string, a number, true, false, null or a {DATE_KEY}, not "
               f"{shown(value)}")  # fmt: skip


def _number(number: int | float, place: str) -> int | float:
    """Whole numbers are ints, so that equal ones are written the same."""
    try:
        exact = isinstance(number, int) or (math.isfinite(number) and number.is_integer())
        value = int(number) if exact and int(number) in _INTEGERS else float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise fail(place, f"{shown(number)} is no number that metadata could have")
    return value


def _date(written: str, place: str) -> Date:
    found = date_of(written)
    if found is None:
        raise fail(place, f"{shown(written)} is no date: write 2026-01-31, or with a time "
                   "2026-01-31T08:00:00Z")  # fmt: skip
    return found


def _check_text(text: str, place: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise fail(place, "holds a lone surrogate, which is not a character") from error
    return text
