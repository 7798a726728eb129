"""The routes that read several documents: by their ids, counted, listed."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response

from bitsift.checked import COUNT, GET, LIST, Asked
from bitsift.listing import Counted, CountOptions, GetOptions, ListOptions, Page
from bitsift.router.admission import Admission
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.http.answer_json import as_json
from bitsift.router.http.client_gone import unless_gone
from bitsift.router.http.parameters import refuse_unknown_parameters
from bitsift.router.http.schema import Problem
from bitsift.router.service import SearchService
from bitsift.write_results import StoredDocuments

CALLS_MAX = 16
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (408, 413, 422, 429, 503, 504)
}


def add_listing(app: FastAPI, service: SearchService) -> None:
    """POST /v1/documents/get, /v1/documents/count and /v1/documents/list."""
    admission = Admission("counts and listings", CALLS_MAX, 0)

    @app.post(
        "/v1/documents/get",
        response_model=StoredDocuments,
        responses=_PROBLEMS,
        openapi_extra={"requestBody": _schema(GET)},
    )
    async def several(http: Request) -> Response:
        """Documents by their `ids`, as stored, in the order of the ids; those that there are not
        are `missing`.
        """
        refuse_unknown_parameters(http)
        options = GET.by_json(await http.body() or b"{}")
        with admission.call():
            return await unless_gone(http.receive, _several(service, options))

    @app.post(
        "/v1/documents/count",
        response_model=Counted,
        responses=_PROBLEMS,
        openapi_extra={"requestBody": _schema(COUNT)},
    )
    async def count(http: Request) -> Response:
        """How many documents there are, or how many pass a `filter`; with `facets`, how many of
        them have each value of a field.
        """
        refuse_unknown_parameters(http)
        options = COUNT.by_json(await http.body() or b"{}")
        with admission.call():
            return await unless_gone(http.receive, _count(service, options))

    @app.post(
        "/v1/documents/list",
        response_model=Page,
        responses=_PROBLEMS,
        openapi_extra={"requestBody": _schema(LIST)},
    )
    async def page(http: Request) -> Response:
        """Documents, or those that pass a `filter`, a page at a time.

        Their order means nothing, but no write changes it: with the `cursor` of a page, and the
        same filter, the next one goes on behind it, so each document that is there from the first
        page to the last is listed once. A page may hold fewer than `limit`: the last has no cursor.
        """
        refuse_unknown_parameters(http)
        options = LIST.by_json(await http.body() or b"{}")
        with admission.call():
            return await unless_gone(http.receive, _page(service, options))


async def _count(service: SearchService, options: CountOptions) -> Response:
    return _json(orjson.dumps(await service.count(options)))


async def _several(service: SearchService, options: GetOptions) -> Response:
    held = AnswerBytes(service.memory)
    try:
        found = await service.documents(options, held)
        return _json(await asyncio.to_thread(as_json, found))
    finally:
        held.close()


async def _page(service: SearchService, options: ListOptions) -> Response:
    held = AnswerBytes(service.memory)
    try:
        found = await service.page(options, held)
        return _json(await asyncio.to_thread(orjson.dumps, found))
    finally:
        held.close()


def _schema(asked: Asked[Any]) -> dict[str, Any]:
    schema = asked.adapter.json_schema()
    return {"required": asked is GET, "content": {"application/json": {"schema": schema}}}


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
