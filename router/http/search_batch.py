"""The body of ``POST /v1/search/batch``: searches that have nothing to do with each other.

It is cut into its searches, and each is read as the body of ``POST /v1/search`` is, under the same
limits: what is wrong with one is its own fault.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import Request

from bitsift.checked import checked_search_json
from bitsift.errors import InvalidRequest
from bitsift.option_types import FACETS_MAX
from bitsift.options import (
    HIGHLIGHTED_MAX,
    HITS_MAX,
    LIKED_MAX,
    QUERIES_MAX,
    SearchOptions,
)
from bitsift.router.http.parameters import with_top_k
from bitsift.router.http.schema import SMALL_BYTES_MAX, check_parts, search_schema
from bitsift.router.json_scan import BrokenJson, Cutter, TooManyBrackets
from bitsift.router.turns import Turns

STEPS_MAX = 10_000
"""Steps of cutting a body: 10 ms."""
_BEGIN = re.compile(rb'\s*\{\s*"searches"\s*:\s*\[')
_END = re.compile(rb"\]\s*\}\s*")
_FORM = f'the body is {{"searches": […]}} with 1 to {QUERIES_MAX} searches'


async def read_batch(http: Request, turns: Turns) -> list[SearchOptions | InvalidRequest]:
    """The searches of a body, or what is wrong with each; one is checked in each of ``turns``.

    Raises InvalidRequest for a fault of the whole.
    """
    body = await http.body()
    if len(body) > SMALL_BYTES_MAX:
        await turns.take()
    asked: list[SearchOptions | InvalidRequest] = []
    for search in cut(body):
        await turns.take()
        try:
            asked.append(_checked(search))
        except InvalidRequest as error:
            asked.append(error)
    _check_sizes([each for each in asked if isinstance(each, SearchOptions)])
    return asked


def cut(body: bytes) -> list[bytes]:
    """The JSON of each search. Raises InvalidRequest."""
    start = _BEGIN.match(body)
    if start is None:
        raise InvalidRequest(_FORM)
    cutter, found, begin = Cutter(body, STEPS_MAX), list[bytes](), start.end()
    while True:
        try:
            end = cutter.element_end(begin)
        except BrokenJson as error:
            raise InvalidRequest(f"searches.{len(found)}: {error}") from error
        except TooManyBrackets as error:
            raise InvalidRequest("searches: too many brackets and strings") from error
        found.append(body[begin:end].strip())
        if len(found) > QUERIES_MAX or found == [b""]:
            raise InvalidRequest(_FORM)
        if not found[-1]:
            raise InvalidRequest(f"searches.{len(found) - 1}: there is nothing between two commas")
        if body[end : end + 1] == b"]":
            break
        begin = end + 1
    if _END.fullmatch(body, end) is None:
        raise InvalidRequest(f"{_FORM}, and nothing else")
    return found


def _checked(search: bytes) -> SearchOptions:
    check_parts(search)
    request = checked_search_json(with_top_k(search))
    if request.queries is not None:
        raise InvalidRequest("queries: each search of a batch is one: give query, vector or like")
    return request.searches()[0]


def _check_sizes(searches: list[SearchOptions]) -> None:
    """As for the ``queries`` of one search. Raises InvalidRequest."""
    for what, count, most in (
        ("hits", sum(search.ranked for search in searches), HITS_MAX),
        ("excluded ids", sum(len(search.exclude) for search in searches), HITS_MAX),
        (
            "ids of like and unlike",
            sum(len(search.like) + len(search.unlike) for search in searches),
            LIKED_MAX,
        ),
        (
            "hits with highlight",
            sum(search.top_k for search in searches if search.highlight),
            HIGHLIGHTED_MAX,
        ),
        ("facets", sum(len(search.facets) for search in searches), FACETS_MAX),
    ):
        if count > most:
            raise InvalidRequest(
                f"{count:,} {what} of all searches together are more than {most:,}: send fewer "
                "searches at once"
            )


def batch_schema() -> dict[str, Any]:
    """The OpenAPI description of the body."""
    searches = {
        "type": "array",
        "minItems": 1,
        "maxItems": QUERIES_MAX,
        "items": search_schema(),
        "description": "Searches, each with its own options, answered in order.",
    }
    schema = {
        "type": "object",
        "properties": {"searches": searches},
        "required": ["searches"],
        "additionalProperties": False,
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}
