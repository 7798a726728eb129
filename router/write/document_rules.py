"""What a document may be: rules that live writes and bulk loads share. Pure functions.

* id: a string that is not blank, kept exactly; numbers become strings (bitsift/document_ids.py).
* title: a string; null is ""; numbers become strings; anything else is refused.
* text: a string. Whether it may be blank depends on where the vector comes from.
* metadata: one JSON object, "" where it is empty.
* lone surrogates: refused in an id; U+FFFD in title, text and metadata. NUL is a character.
"""

from __future__ import annotations

import base64
import datetime
import json
import re
from numbers import Real
from typing import Any, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from bitsift.document_ids import id_of_number, is_number
from bitsift.router.write.vector_text import numbers_of_list, numbers_of_text

_NO_VECTOR = ("", "null", "none", "nan", "\\n")
_SURROGATE = re.compile("[\ud800-\udfff]")


class RefusedDocument(Exception):
    """This record does not make a document; the message says why."""


def parse_json(data: bytes) -> tuple[Any, bool]:
    """The JSON value of ``data``, and whether it may hold what only orjson refuses.

    That is what other writers produce: NaN, and lone surrogates. Raises RefusedDocument.
    """
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


def checked_text(text: object, missing: str | None) -> str:
    """``text`` as a string; raises RefusedDocument.

    ``missing`` says why a document without text is refused; None where it may have none.
    """
    if text is not None and not isinstance(text, str):
        raise RefusedDocument(f"text is a {type(text).__name__}, not a string")
    if missing is not None and (not text or text.isspace()):
        raise RefusedDocument(f"{'no' if text is None else 'blank'} text{missing}")
    return text or ""


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
        return orjson.dumps(fields, default=_as_json, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError as error:
        try:  # orjson refuses integers over 64 bits
            text = json.dumps(fields, default=_as_json, ensure_ascii=False, allow_nan=False)
            orjson.dumps(orjson.loads(text))
        except (TypeError, ValueError, RecursionError):
            raise RefusedDocument(f"metadata cannot be written as JSON: {error}") from error
        return text


def _as_json(value: Any) -> Any:
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
    return f"{title} {text}" if title else text
