"""What a document may be: rules that live writes and bulk loads share. Pure functions.

* id: a string that is not blank, kept exactly; numbers become strings (bitsift/document_ids.py).
* title: a string; null is ""; numbers become strings; anything else is refused.
* text: a string. It may be blank where there is a title, or a vector that does not come of it.
* metadata: one JSON object, "" where it is empty. Numbers come back as they were, or are refused:
  whole ones over 64 bits, and infinite ones. NaN says that there is no number: null.
* lone surrogates: refused in an id; U+FFFD in title, text and metadata. NUL is a character.
"""

from __future__ import annotations

import base64
import datetime
import json
import math
import re
from collections.abc import Iterator
from numbers import Real
from typing import Any, cast

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.document_ids import id_of_number, is_number
from bitsift.router.write.vector_text import numbers_of_list, numbers_of_text

_NO_VECTOR = ("", "null", "none", "nan", "\\n")
_WHOLE_MIN, _WHOLE_MAX = -(2**63), 2**64 - 1
_SHOWN_BITS = 256
_decoded = msgspec.json.Decoder().decode
"""As fast as orjson, which makes floats of whole numbers over 64 bits."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class RefusedDocument(Exception):
    """This record does not make a document; the message says why."""


def parse_json(data: bytes) -> tuple[Any, bool]:
    """The JSON value of ``data``, and whether it may hold what the standard does not have.

    That is what other writers produce: NaN, and lone surrogates. Raises RefusedDocument.
    """
    try:
        return _decoded(data), False
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # orjson says where it is broken, and reads what is nested more deeply
    try:
        return orjson.loads(data), False
    except orjson.JSONDecodeError as error:
        broken = f"broken JSON: {error.msg} at character {error.pos + 1}"
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise RefusedDocument(f"invalid UTF-8 at byte {error.start + 1}") from error
    if "\\u" in text or "NaN" in text or "Infinity" in text:
        try:
            return json.loads(text), True
        except (ValueError, RecursionError) as error:
            raise RefusedDocument(broken) from error
    raise RefusedDocument(broken)


def checked_id(key: object) -> str:
    """``key`` as an id. Raises RefusedDocument."""
    if isinstance(key, str):
        if not key or key.isspace():
            raise RefusedDocument("empty id")
        if not _is_unicode(key):
            raise RefusedDocument("id holds a lone surrogate, which is not a character")
        return key
    if not is_number(key):
        raise RefusedDocument(f"id is a {type(key).__name__}, not a string or a number")
    try:
        return id_of_number(cast("Real", key))
    except ValueError as error:
        raise RefusedDocument(str(error)) from error


def checked_title(title: object) -> str:
    """``title`` as a string. Raises RefusedDocument."""
    if isinstance(title, str):
        return title
    if title is None:
        return ""
    if isinstance(title, bool) or not isinstance(title, int | float):
        raise RefusedDocument(f"title is a {type(title).__name__}, not a string")
    return str(title)


def checked_text(text: object, title: str, missing: str | None) -> str:
    """``text`` as a string; raises RefusedDocument.

    ``missing`` says why a document with neither text nor ``title`` is refused; None where it may
    have none.
    """
    if text is not None and not isinstance(text, str):
        raise RefusedDocument(f"text is a {type(text).__name__}, not a string")
    if missing is not None and _is_blank(text) and _is_blank(title):
        raise RefusedDocument(f"{'no' if text is None else 'blank'} text{missing}")
    return text or ""


def _is_blank(text: str | None) -> bool:
    return not text or text.isspace()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_surrogates(value: Any) -> Any:
    """The same JSON value with U+FFFD for every lone surrogate, in keys too."""
    if isinstance(value, str):
        return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    return value


def metadata_text(fields: dict[str, Any]) -> str:
    """``fields`` as the text of a JSON object, "" for none.

    NaN becomes null; dates become ISO 8601; decimals become strings; bytes become base64;
    durations become seconds. Raises RefusedDocument where JSON cannot hold them, and where they are
    nested so deeply (254) that no answer could.
    """
    if not fields:
        return ""
    try:
        text = orjson.dumps(fields, default=as_json, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError as error:
        refused = _number_refused(fields) or f"metadata cannot be written as JSON: {error}"
        raise RefusedDocument(refused) from error
    if "null" in text and (why := _number_refused(fields)):  # what orjson writes for infinity
        raise RefusedDocument(why)
    return text


def _number_refused(fields: dict[str, Any]) -> str | None:
    """Why a number of the metadata is refused, and in which field it stands; None if none is."""
    for name, value in _numbers(fields):
        if isinstance(value, int) and not _WHOLE_MIN <= value <= _WHOLE_MAX:
            digits = str(value) if value.bit_length() < _SHOWN_BITS else "a number"
            return f"metadata field {name!r}: {digits} takes over 64 bits; write it as a string"
        if isinstance(value, float) and math.isinf(value):
            return f"metadata field {name!r} is infinite, which JSON cannot say"
    return None


def _numbers(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path of its field, number) of all numbers, wherever they are nested."""
    waiting: list[tuple[str, Any]] = [(str(name), value) for name, value in fields.items()]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, int | float):
            yield name, value
        elif isinstance(value, dict):
            waiting += ((f"{name}.{inner}", item) for inner, item in value.items())
        elif isinstance(value, list | tuple):
            waiting += ((name, item) for item in value)


def as_json(value: Any) -> Any:
    """What stands in JSON for a value that JSON has no type for."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    return str(value)


def parse_vector(value: object, width: int | None) -> NDArray[np.float32] | str:
    """One vector from a list, or from a text that holds one.

    Returns float32 of shape (width,), or the reason why there is none. NaN and zeros are found
    later, for the whole batch at once.
    """
    array = numbers_of(value)
    if isinstance(array, str):
        return array
    if width is not None and len(array) != width:
        return f"vector has {len(array)} numbers, expected {width}"
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def numbers_of(value: object) -> NDArray[Any] | str:
    """The numbers of one vector, (width,), in the type they are in; or why there are none."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _NO_VECTOR):
        return "no vector"
    if isinstance(value, str):
        return numbers_of_text(value)
    if not isinstance(value, list):
        return f"vector is a {type(value).__name__}, not a list of numbers"
    return numbers_of_list(value)


def model_text(title: str, text: str) -> str:
    """What a model is given of a document: title and text, joined by a space."""
    return f"{title} {text}" if title and text else title or text
