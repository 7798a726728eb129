"""Parameters and fields of other names than those that a route has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

import orjson
from fastapi import Request
from starlette.types import Scope

from bitsift.checked import LIMIT, resolved
from bitsift.errors import InvalidRequest
from bitsift.nearest import no_such_name

_NAME_CHARACTERS = 40


def refuse_other_encodings(scope: Scope) -> None:
    """Raise InvalidRequest for a URL that is not UTF-8: read with U+FFFD in it, it would ask for
    another text, or delete another document.
    """
    for part, data in (("path", scope.get("raw_path")), ("query", scope["query_string"])):
        if not data or (b"%" not in data and data.isascii()):
            continue
        try:
            unquote_to_bytes(data).decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"the {part} of the URL is not UTF-8 (byte {error.object[error.start]:#04x}): "
                "percent-encode text as UTF-8"
            ) from error


def refuse_unknown_parameters(
    http: Request,
    known: Collection[str] = (),
    otherwise: str = "this route takes none",
    lists: Collection[str] = (),
) -> None:
    """Raise InvalidRequest for a parameter in the URL that is none of ``known``, with the one that
    may be meant; ``otherwise`` is said where none is near. Only ``lists`` may be given twice: of
    two filters one would be left out.
    """
    if not http.scope["query_string"]:
        return
    unknown = sorted(http.query_params.keys() - set(known))
    if unknown:
        name = unknown[0][:_NAME_CHARACTERS].encode(errors="replace").decode()
        raise InvalidRequest(f"{name}: {no_such_name('parameter', name, known, otherwise)}")
    for name, count in Counter(name for name, _ in http.query_params.multi_items()).items():
        if count > 1 and name not in lists:
            raise InvalidRequest(f"{name}: is given {count} times, and takes one value")


def with_top_k(body: bytes) -> bytes:
    """The JSON of a search in which ``limit`` is called ``top_k``; what is not JSON as it is.

    Raises InvalidRequest where both are given and differ.
    """
    if b'"limit"' not in body:  # of most: parsing it twice would cost more than the search of it
        return body
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    if not isinstance(given, dict) or LIMIT not in given:
        return body
    return orjson.dumps(resolved(given))
