"""MongoDB's extended JSON: typed values such as `{"$oid": "…"}` become what they stand for.

Both forms, canonical and relaxed, as `mongoexport` and `bsondump` write them. An object that only
looks like one of them stays as it is.
"""

from __future__ import annotations

import datetime
import uuid
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from typing import Any

SIGN = b'"$'
"""A line without it holds no typed value."""
_UUID_TYPES = ("03", "04", "3", "4")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def without_types(value: Any) -> Any:
    """A JSON value with natural values in the place of typed ones."""
    if isinstance(value, list):
        return [without_types(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((name, inner),) = value.items()
        convert = _TYPES.get(name)
        if convert is not None:
            try:
                return convert(inner)
            except (ValueError, TypeError, KeyError, OverflowError, NotBase64):
                return value
    return {name: without_types(inner) for name, inner in value.items()}


def _text(inner: Any) -> str:
    if not isinstance(inner, str):
        raise TypeError
    return inner


def _date(inner: Any) -> str:
    """Text of the relaxed form; milliseconds, perhaps typed, of the canonical one."""
    if isinstance(inner, str):
        return inner
    return _written(datetime.timedelta(milliseconds=int(without_types(inner))))


def _written(since_epoch: datetime.timedelta) -> str:
    """As MongoDB's relaxed form has it."""
    unit = "milliseconds" if since_epoch.microseconds else "seconds"
    return (_EPOCH + since_epoch).isoformat(timespec=unit).replace("+00:00", "Z")


def _binary(inner: Any) -> str:
    text, kind = _text(inner["base64"]), _text(inner["subType"])
    if kind in _UUID_TYPES:
        return str(uuid.UUID(bytes=b64decode(text, validate=True)))
    return text


def _timestamp(inner: Any) -> str:
    return _written(datetime.timedelta(seconds=int(inner["t"])))


def _pattern(inner: Any) -> str:
    return f"/{_text(inner['pattern'])}/{_text(inner['options'])}"


_TYPES: dict[str, Callable[[Any], Any]] = {
    "$oid": _text,
    "$uuid": _text,
    "$symbol": _text,
    "$date": _date,
    "$numberInt": int,
    "$numberLong": int,
    "$numberDouble": float,
    "$numberDecimal": _text,
    "$binary": _binary,
    "$timestamp": _timestamp,
    "$regularExpression": _pattern,
    "$undefined": lambda _: None,
}
