"""The routes that search."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from bitsift.options import SearchOptions
from bitsift.results import Answer
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.http.answer_json import answer_response
from bitsift.router.http.client_gone import unless_gone
from bitsift.router.http.parameters import refuse_unknown_parameters
from bitsift.router.http.schema import (
    Answers,
    UrlSearch,
    read_search_request,
    search_of_url,
    search_request_schema,
)
from bitsift.router.service import SearchService
from bitsift.router.turns import Turns

QUESTIONS_PER_TURN = 8
"""Queries, over all multi-query requests, that start in one turn of the event loop: 0.5 ms."""
_ALL = f"there are {', '.join(sorted(UrlSearch.model_fields))}"


def add_search(app: FastAPI, service: SearchService) -> None:
    """POST and GET /v1/search."""
    body = {"requestBody": search_request_schema()}
    turns, bodies = Turns(QUESTIONS_PER_TURN), Turns(1)
    known = frozenset(UrlSearch.model_fields)

    @app.post("/v1/search", response_model=Answer | Answers, openapi_extra=body)
    async def search(http: Request) -> Response:
        """Answer one query, one vector, or several queries at once."""
        refuse_unknown_parameters(http, otherwise="options of a POST are in its body")
        request = await read_search_request(http, bodies)
        several = request.queries is not None
        work = _answered(service, request.searches(), turns, several=several)
        return await unless_gone(http.receive, work)

    @app.get("/v1/search", response_model=Answer)
    async def search_by_url(
        http: Request,
        parameters: Annotated[UrlSearch, Query()],
    ) -> Response:
        """The same for one query, for links and curl."""
        refuse_unknown_parameters(http, known, _ALL)
        work = _answered(service, [search_of_url(parameters)], turns, several=False)
        return await unless_gone(http.receive, work)


async def _answered(
    service: SearchService, searches: Sequence[SearchOptions], turns: Turns, *, several: bool
) -> Response:
    held = AnswerBytes(service.memory)
    try:
        if len(searches) == 1:
            answers = [await service.search(searches[0], held)]
        else:
            answers = await _all(service, searches, held, turns)
        return await answer_response(answers, held, several=several)
    except BaseException:
        held.close()
        raise


async def _all(
    service: SearchService, searches: Sequence[SearchOptions], held: AnswerBytes, turns: Turns
) -> list[Answer]:
    """The answers, in order. If one raises, or this is cancelled, the others are cancelled.

    Short texts begin first: the encoder takes neighbours together, and of texts of like length
    little is padding.
    """
    tasks = dict[int, asyncio.Task[Answer]]()
    try:
        for place in sorted(range(len(searches)), key=lambda at: len(searches[at].query or "")):
            await turns.take()
            tasks[place] = asyncio.create_task(service.search(searches[place], held))
        return list(await asyncio.gather(*(tasks[place] for place in range(len(searches)))))
    except BaseException:
        for task in tasks.values():
            task.cancel()
        raise
