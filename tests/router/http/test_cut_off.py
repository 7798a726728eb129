"""A request that the server's end cuts off is told what became of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import httpx
import numpy as np
import pytest

from bitsift.errors import BitsiftError
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.types import Candidates, Query
from tests.fakes import make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64


class EndlessLink(LocalLink):
    """A real shard whose searches, writes and compactions never end; ``arrived`` counts them."""

    def __init__(self, shard: Any) -> None:
        super().__init__(shard)
        self.arrived = threading.Semaphore(0)

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        return await self._for_ever()

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        return await self._for_ever()

    async def compact(self) -> bool:
        return await self._for_ever()

    async def _for_ever(self) -> NoReturn:
        self.arrived.release()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[EndlessLink, Running]]:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    (shard,), calibration = make_shards(tmp_path, nothing, DIMENSION, 1)
    link = EndlessLink(shard)
    service, writer = make_service([link], calibration), make_writer([link], calibration)
    yield link, Running(service, writer, drain_s=1)
    shard.close()


REQUESTS = {
    "search": ("/v1/search", {"query": "x", "timeout_ms": 60_000}, "not_done"),
    "upsert": ("/v1/documents", {"documents": [{"id": "a", "text": "t"}]}, "unknown"),
    "delete": ("/v1/documents/delete", {"ids": ["a"]}, "unknown"),
    "compact": ("/v1/admin/compact", {}, "unknown"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_the_servers_end_cuts_off_is_a_503_that_says_what_became_of_it(
    endless: tuple[EndlessLink, Running], name: str
) -> None:
    (link, running), (path, body, outcome) = endless, REQUESTS[name]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{running.url}{path}", json=body, timeout=60)
        assert link.arrived.acquire(timeout=20)
        running.stop()
        answer = asked.result(60)
    told = answer.json()
    assert (answer.status_code, told["type"]) == (503, "bitsift:Unavailable")
    assert told["outcome"] == outcome
    assert answer.headers["x-content-type-options"] == "nosniff"
