"""The routes that search."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from starlette.types import Scope

from bitsift.errors import BitsiftError, InvalidRequest, Overloaded, RequestOutcome
from bitsift.options import SearchOptions
from bitsift.problem_lines import problem_document
from bitsift.results import Answer
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.http.answer_json import Result, answer_response
from bitsift.router.http.client_gone import unless_gone
from bitsift.router.http.parameters import refuse_unknown_parameters
from bitsift.router.http.problems import internal_error
from bitsift.router.http.schema import (
    URL_LISTS,
    Answers,
    BatchAnswers,
    UrlSearch,
    read_search_request,
    search_of_url,
    search_request_schema,
)
from bitsift.router.http.search_batch import batch_schema, read_batch
from bitsift.router.http.search_places import in_the_time_left
from bitsift.router.liked import Liked
from bitsift.router.service import SearchService
from bitsift.router.turns import Turns

log = logging.getLogger(__name__)
T = TypeVar("T")

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
        searches = [in_the_time_left(http.scope, search) for search in request.searches()]
        work = _answered(service, searches, turns, several=several)
        return await unless_gone(http.receive, work)

    @app.get("/v1/search", response_model=Answer)
    async def search_by_url(
        http: Request,
        parameters: Annotated[UrlSearch, Query()],  # type: ignore[valid-type] # made of the options
    ) -> Response:
        """The same for one query, for links and curl."""
        refuse_unknown_parameters(http, known, _ALL, URL_LISTS)
        search = in_the_time_left(http.scope, search_of_url(parameters))
        work = _answered(service, [search], turns, several=False)
        return await unless_gone(http.receive, work)

    batch = {"requestBody": batch_schema()}

    @app.post("/v1/search/batch", response_model=BatchAnswers, openapi_extra=batch)
    async def search_batch(http: Request) -> Response:
        """Answer several searches, each with its own options and deadline: one that fails has its
        problem document in its place.
        """
        refuse_unknown_parameters(http, otherwise="options are in the body")
        asked = [_in_time(http.scope, one) for one in await read_batch(http, bodies)]
        return await unless_gone(http.receive, _each_answered(service, asked, turns))


async def _answered(
    service: SearchService, searches: Sequence[SearchOptions], turns: Turns, *, several: bool
) -> Response:
    held, liked = AnswerBytes(service.memory), Liked()

    async def answer(search: SearchOptions) -> Answer:
        try:
            return await service.search(search, held, liked, together=True)
        except InvalidRequest as error:
            said = error.message.removeprefix("query: ")
            raise InvalidRequest(f"queries.{searches.index(search)}: {said}") from error

    try:
        answers: list[Result] = []
        if len(searches) == 1:
            answers.append(await service.search(searches[0], held))
        else:
            answers += await _all(searches, answer, turns)
        return await answer_response(answers, held, several=several)
    except BaseException:
        held.close()
        raise


def _in_time(scope: Scope, asked: SearchOptions | InvalidRequest) -> SearchOptions | BitsiftError:
    """One search of a batch, or why it is none."""
    try:
        return in_the_time_left(scope, asked) if isinstance(asked, SearchOptions) else asked
    except Overloaded as error:
        return error


async def _each_answered(
    service: SearchService, asked: Sequence[SearchOptions | BitsiftError], turns: Turns
) -> Response:
    """An answer or a problem document for each; documents of all answers are counted together."""
    held = AnswerBytes(service.memory)

    async def answer(search: SearchOptions) -> Result:
        try:
            return await service.search(search, held, together=True)
        except BitsiftError as error:
            return problem_document(error.with_outcome(RequestOutcome.NOT_DONE))
        except Exception:
            log.exception("a search of a batch failed")
            return internal_error(RequestOutcome.NOT_DONE)

    try:
        searches = [each for each in asked if isinstance(each, SearchOptions)]
        found = iter(await _all(searches, answer, turns))
        results = [
            next(found) if isinstance(one, SearchOptions) else problem_document(one)
            for one in asked
        ]
        return await answer_response(results, held, several=True)
    except BaseException:
        held.close()
        raise


async def _all(
    searches: Sequence[SearchOptions],
    ask: Callable[[SearchOptions], Coroutine[Any, Any, T]],
    turns: Turns,
) -> list[T]:
    """What ``ask`` gives for each, in order. If one raises, or this is cancelled, the others are
    cancelled.

    Short texts begin first: the encoder takes neighbours together, and of texts of like length
    little is padding.
    """
    tasks = dict[int, asyncio.Task[T]]()
    try:
        for place in sorted(range(len(searches)), key=lambda at: len(searches[at].query or "")):
            await turns.take()
            tasks[place] = asyncio.create_task(ask(searches[place]))
        return list(await asyncio.gather(*(tasks[place] for place in range(len(searches)))))
    except BaseException:
        for task in tasks.values():
            task.cancel()
        raise
