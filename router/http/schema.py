"""What ``/v1/search`` takes, made from the fields of bitsift/options.py."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, get_args, get_type_hints

from fastapi import Request
from pydantic import BaseModel, Field, WithJsonSchema, create_model

from bitsift.checked import (
    LIMIT,
    SEARCH,
    TOP_K,
    checked_search,
    checked_search_json,
    resolved,
)
from bitsift.errors import InvalidRequest, RequestOutcome
from bitsift.options import SearchOptions, SearchRequest
from bitsift.results import Answer
from bitsift.router.http.parameters import with_top_k
from bitsift.router.json_scan import has_more_parts
from bitsift.router.turns import Turns

BODY_PARTS_MAX = 10_000
"""Strings, commas and brackets of a body: twice those of a vector of 4,096 numbers. A parser builds
all of a body before anything is checked, and up to 470 bytes for each of its bytes."""
SMALL_BYTES_MAX = 16 << 10
"""Bodies so small are parsed as they are: it takes 8 MB at most. Larger ones are parsed one in each
turn of the event loop."""
_SAME = f"The same as `{TOP_K}`: give one of them."


def _url_parameters() -> dict[str, Any]:
    """Name, annotation and default of each parameter: a text is ``q``, a vector is too long."""
    annotations = get_type_hints(SearchOptions, include_extras=True)
    options = {field.name: field for field in fields(SearchOptions) if field.name != "vector"}
    del options["query"]
    found = {name: (_as_text(annotations[name]), field.default) for name, field in options.items()}
    limit = annotations[TOP_K] | None, Field(None, description=_SAME)
    return {"q": (annotations["query"], None)} | found | {LIMIT: limit}


def _as_text(annotation: Any) -> Any:
    """What is an object or a text in JSON is described as a text: a URL has nothing else."""
    kind, *rest = get_args(annotation)
    return Annotated[kind, *(each for each in rest if not isinstance(each, WithJsonSchema))]


UrlSearch = create_model("UrlSearch", **_url_parameters())
"""The parameters of ``GET /v1/search``."""
URL_LISTS = frozenset(
    name for name, field in UrlSearch.model_fields.items() if isinstance(field.default, tuple)
)
"""Those that may be given several times."""


def search_of_url(parameters: BaseModel) -> SearchOptions:
    """What ``parameters``, a UrlSearch, ask for. Raises InvalidRequest."""
    given = {name: getattr(parameters, name) for name in UrlSearch.model_fields}
    if TOP_K not in parameters.model_fields_set:
        del given[TOP_K]
    return checked_search({"query": given.pop("q"), **resolved(given)}).searches()[0]


async def read_search_request(http: Request, turns: Turns) -> SearchRequest:
    """The checked body of a search; raises InvalidRequest.

    pydantic reads the bytes itself, in one pass: 38 us for a vector of 1,024 numbers. By way of
    Python's own ``json``, as FastAPI does, it takes 211 us.
    """
    body = await http.body()
    if len(body) > SMALL_BYTES_MAX:
        await turns.take()
    check_parts(body)
    return checked_search_json(with_top_k(body))


def check_parts(body: bytes) -> None:
    """Raises InvalidRequest where too much would be built of ``body``."""
    if len(body) > SMALL_BYTES_MAX and has_more_parts(body, BODY_PARTS_MAX):
        raise InvalidRequest(f"body: over {BODY_PARTS_MAX:,} strings, commas and brackets")


def search_request_schema() -> dict[str, Any]:
    """The OpenAPI description of that body."""
    return {"required": True, "content": {"application/json": {"schema": search_schema()}}}


def search_schema() -> dict[str, Any]:
    """That of a search alone."""
    schema: dict[str, Any] = SEARCH.adapter.json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"][LIMIT] = {**schema["properties"][TOP_K], "description": _SAME}
    schema.pop("$defs")  # Mode, which GET names too: FastAPI puts it among the components
    return schema


class Answers(BaseModel):
    """The answer to ``queries``: one result per query, in order."""

    results: list[Answer]


class Problem(BaseModel):
    """An RFC 9457 problem document. ``outcome`` says what became of the request: a write of unknown
    outcome may have been done.
    """

    type: str
    title: str
    status: int
    detail: str
    outcome: RequestOutcome


class BatchAnswers(BaseModel):
    """The answer to a batch: for each search its answer, or the problem document that it would have
    had alone, in order.
    """

    results: list[Answer | Problem]
