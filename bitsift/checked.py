"""What a caller asks for, checked once against the fields of bitsift/options.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import date
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from bitsift.errors import InvalidRequest, reason
from bitsift.filters.values import DATE_KEY
from bitsift.nearest import no_such_name
from bitsift.options import SearchRequest

SEARCH_REQUEST = TypeAdapter(SearchRequest)
REASONS_MAX = 5
_NAME_CHARACTERS = 40
"""Of an unknown name that an error shows, and compares."""
_FIELDS = tuple(sorted(field.name for field in fields(SearchRequest)))
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls a name that there is not, in a model and in a dataclass."""


def checked_search(values: Mapping[str, object]) -> SearchRequest:
    """The search that ``values`` ask for, by the rules of JSON. Raises InvalidRequest."""
    try:
        body = orjson.dumps(values, _as_json, orjson.OPT_PASSTHROUGH_DATETIME)
    except TypeError as error:
        raise InvalidRequest(f"the search cannot be written as JSON: {reason(error)}") from error
    return checked_search_json(body)


def _as_json(value: object) -> object:
    """The dates of a filter: as strings they would be compared with strings alone."""
    if isinstance(value, date):  # a datetime is one
        return {DATE_KEY: value.isoformat()}
    raise TypeError  # orjson says of what type it is


def checked_search_json(body: bytes) -> SearchRequest:
    """The search that a JSON object asks for. Raises InvalidRequest."""
    try:
        return SEARCH_REQUEST.validate_json(body)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequest(reasons(errors, _FIELDS)) from error


def reasons(errors: Sequence[Any], known: Collection[str] = ()) -> str:
    """What is wrong where, without the input, which may not be valid Unicode.

    Of a name that is none of ``known`` it says which is meant.
    """
    said = []
    for error in errors[:REASONS_MAX]:
        place, message = ".".join(map(str, error["loc"])), error["msg"]
        message = message.removeprefix("Value error, ")
        if known and error["type"] in _UNKNOWN:
            place = place[:_NAME_CHARACTERS]
            message = no_such_name("field", place, known, f"there are {', '.join(known)}")
        said.append(f"{place}: {message}" if place else message)
    return "; ".join(said).encode(errors="replace").decode()
