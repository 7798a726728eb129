"""What a caller asks for, checked once against the fields of bitsift/options.py."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from datetime import date
from typing import Any, Generic, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from bitsift.errors import InvalidRequest, reason
from bitsift.filters.values import DATE_KEY
from bitsift.listing import CountOptions, DeleteOptions, GetOptions, ListOptions, UpdateOptions
from bitsift.nearest import no_such_name
from bitsift.options import SearchRequest
from bitsift.plain import is_finite, plain

REASONS_MAX = 5
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_SERIALIZE_NUMPY
T = TypeVar("T")
LIMIT, TOP_K = "limit", "top_k"
"""Two names of one option: how many hits are wanted."""
_NAME_CHARACTERS = 40
"""Of an unknown name that an error shows, and compares."""
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls a name that there is not, in a model and in a dataclass."""


class Asked(Generic[T]):
    """What a JSON object may ask for: the fields of a dataclass."""

    def __init__(self, kind: type[T], what: str) -> None:
        """``what`` names it in messages: "the search"."""
        self._kind = kind
        self._names = tuple(sorted(field.name for field in fields(cast(Any, kind))))
        self._what = what

    @functools.cached_property
    def adapter(self) -> TypeAdapter[T]:
        """Made when it is first needed: it takes some milliseconds."""
        return TypeAdapter(self._kind)

    def by_values(self, values: Mapping[str, object]) -> T:
        """What ``values`` ask for, by the rules of JSON. Raises InvalidRequest."""
        try:
            body = orjson.dumps(values, _as_json, _OPTIONS)
        except TypeError as error:
            said = f"{self._what} cannot be written as JSON: {reason(error)}"
            raise InvalidRequest(said) from error
        if b"null" in body and not is_finite(values):  # orjson writes such numbers as null
            raise InvalidRequest(f"{self._what} holds nan or an infinity, which JSON cannot say")
        return self.by_json(body)

    def by_json(self, body: bytes) -> T:
        """What the JSON object ``body`` asks for. Raises InvalidRequest."""
        try:
            return self.adapter.validate_json(body)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_context=False, include_input=False)
            raise InvalidRequest(reasons(errors, self._names)) from error


SEARCH = Asked(SearchRequest, "the search")
COUNT = Asked(CountOptions, "the count")
GET = Asked(GetOptions, "the ids")
LIST = Asked(ListOptions, "the listing")
DELETE = Asked(DeleteOptions, "the deletion")
UPDATE = Asked(UpdateOptions, "the update")


def checked_search(values: Mapping[str, object]) -> SearchRequest:
    """The search that ``values`` ask for, by the rules of JSON. Raises InvalidRequest."""
    return SEARCH.by_values(values)


def checked_search_json(body: bytes) -> SearchRequest:
    """The search that a JSON object asks for. Raises InvalidRequest."""
    return SEARCH.by_json(body)


def resolved(given: dict[str, Any]) -> dict[str, Any]:
    """Options with ``limit``, None if it is not given, under the name of ``top_k``. Raises
    InvalidRequest.
    """
    limit = given.pop(LIMIT, None)
    if limit is None:
        return given
    if given.setdefault(TOP_K, limit) != limit:
        raise InvalidRequest("limit and top_k are two names of one option, with different values")
    return given


def _as_json(value: object) -> object:
    """The dates of a filter: as strings they would be compared with strings alone."""
    if isinstance(value, date):  # a datetime is one
        return {DATE_KEY: value.isoformat()}
    return plain(value)


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
