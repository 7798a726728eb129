"""Natural batching: nobody waits for a timer, all that wait go together."""

from __future__ import annotations

import asyncio

import pytest

from router.batching import Batcher


class Doubler:
    """Doubles numbers, one batch at a time, each batch when ``gate`` is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        await self.gate.wait()
        if 13 in items:
            raise ValueError("thirteen")
        return [item * 2 for item in items]


def test_one_call_alone_goes_at_once_and_what_waits_goes_together() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        batcher = Batcher(doubler, limit=3)
        calls = [asyncio.create_task(batcher.submit(n)) for n in range(6)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        doubler.gate.set()
        assert await asyncio.gather(*calls) == [0, 2, 4, 6, 8, 10]
        assert doubler.batches == [[0, 1, 2], [3, 4, 5]]
        assert await batcher.submit(21) == 42

    asyncio.run(scenario())


def test_an_error_reaches_every_caller_of_its_batch_and_no_other() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        doubler.gate.set()
        batcher = Batcher(doubler, limit=2)
        calls = [batcher.submit(n) for n in (13, 1, 2, 3)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [ValueError, ValueError, int, int]

    asyncio.run(scenario())


def test_a_caller_that_went_away_leaves_the_queue() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        batcher = Batcher(doubler, limit=1)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        gone = asyncio.create_task(batcher.submit(2))
        last = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        gone.cancel()
        doubler.gate.set()
        assert await asyncio.gather(first, last) == [2, 6]
        assert doubler.batches == [[1], [3]]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(scenario())
