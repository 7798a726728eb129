"""Values of numpy, pandas, polars and torch as JSON has them, without loading any of these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any


def plain(value: Any) -> Any:
    """What orjson does not write: as a bulk load writes it into metadata.

    Arrays and tensors become lists, dates ISO 8601, decimals strings, durations seconds. Raises
    TypeError for anything else.
    """
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        return to_list()
    if isinstance(value, date | time):  # a datetime, and pandas' Timestamp, is a date
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def is_finite(value: Any) -> bool:
    """Whether all numbers in it are, those of arrays too: orjson writes the others as null."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(is_finite, value.values()))
    if hasattr(value, "tolist"):
        return is_finite(value.tolist())
    return not isinstance(value, list | tuple) or all(map(is_finite, value))


def one_vector(vector: Any) -> Any:
    """The one row of a matrix of shape (1, dimension), as ``model.encode([text])`` gives it;
    anything else as it is.
    """
    while _is_list(vector) and len(vector) == 1 and _is_list(vector[0]):
        vector = vector[0]
    return vector


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0
