"""Cycles of references are collected seldom, which is right as long as answers leave none."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from fastapi import Response

from bitsift.options import SearchOptions
from bitsift.router import collector
from bitsift.router.http.client_gone import WATCHED_AFTER_S, unless_gone
from bitsift.router.http.search_routes import QUESTIONS_PER_TURN, _answered
from bitsift.router.service import SearchService
from bitsift.router.shards.local import LocalLink
from bitsift.router.turns import Turns
from tests.fakes import HashEncoder, make_service, make_shards

DIMENSION = 64
TEXTS = [f"a text about number {i}" for i in range(200)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SearchService]:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2, TEXTS)
    yield make_service([LocalLink(shard) for shard in shards], calibration)
    for shard in shards:
        shard.close()


@pytest.fixture
def settings() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
    gc.enable()


def cycles(request: Callable[[], Awaitable[object]]) -> int:
    """Objects that ``request`` leaves for the collector, the second time that it is made."""

    async def scenario() -> int:
        await request()
        gc.collect()
        gc.disable()
        await request()
        await asyncio.sleep(0)  # what the request cancelled has ended
        return gc.collect()

    return asyncio.run(scenario())


async def receive() -> dict[str, object]:
    await asyncio.Event().wait()
    return {}


@pytest.mark.slow
@pytest.mark.usefixtures("settings")
def test_many_questions_leave_no_cycles(service: SearchService) -> None:
    async def request() -> Response:
        questions = [SearchOptions(query=text, timeout_ms=60_000.0) for text in TEXTS[:100]]
        return await _answered(service, questions, Turns(QUESTIONS_PER_TURN), several=True)

    assert cycles(request) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("settings")
def test_a_slow_request_leaves_no_cycles() -> None:
    async def slow() -> Response:
        await asyncio.sleep(3 * WATCHED_AFTER_S)
        return Response()

    assert cycles(lambda: unless_gone(receive, slow())) == 0


@pytest.mark.usefixtures("settings")
def test_what_is_there_when_it_settles_is_never_walked_again() -> None:
    collector.settle()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[2] == collector.MIDDLE_TO_ALL
