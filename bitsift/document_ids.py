"""The ids of documents as callers may give them: one rule for writes, reads, options and filters.

A number is the string that it is written as: 7 is "7", and so is 7.0, which pandas makes of it; 1e3
is "1000", 1.5 is "1.5".
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

Id = str | int | float
_EXACT_FLOAT_MAX = 2.0**53


def id_of_number(number: Real) -> str:
    """Raises ValueError for a float that may have lost digits: JSON readers make such of whole
    numbers over 64 bits.
    """
    if isinstance(number, Integral):
        return str(int(number))
    value = float(number)
    if not abs(value) < _EXACT_FLOAT_MAX:
        raise ValueError(f"id {value} is not exact: write such ids as strings")
    return str(int(value)) if value.is_integer() else str(value)


def is_number(value: object) -> bool:
    """Whether it may be an id: true and false may not. Numbers of numpy are numbers, too."""
    return isinstance(value, Real) and not isinstance(value, bool)


def given_id(value: Any) -> Any:
    """A number as the id that it means, anything else as it is."""
    return id_of_number(value) if is_number(value) else value


GivenId = Annotated[
    str,
    BeforeValidator(given_id),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]}),
]
"""An id in JSON: a string, or a number."""
