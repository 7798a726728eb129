"""Natural batching: nobody waits for a timer, all that wait go together."""

from __future__ import annotations

import asyncio

import pytest

from bitsift.errors import Overloaded, RequestOutcome, Unavailable
from bitsift.router.batching import RESULTS_PER_TURN, WAITING_MAX, Batcher


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


def test_as_many_batches_as_there_are_lanes_are_run_at_once() -> None:
    async def scenario() -> None:
        doubler, lanes = Doubler(), 2
        batcher = Batcher(doubler, limit=3, lanes=lambda: lanes)
        calls = []
        for n in range(6):  # one after the other: the first two go at once, the others wait
            calls.append(asyncio.create_task(batcher.submit(n)))
            await asyncio.sleep(0.01)
        assert doubler.batches == [[0], [1]]
        lanes = 3
        calls.append(asyncio.create_task(batcher.submit(6)))
        await asyncio.sleep(0.01)
        assert doubler.batches == [[0], [1], [2, 3, 4]]
        doubler.gate.set()
        assert await asyncio.gather(*calls) == [0, 2, 4, 6, 8, 10, 12]
        assert doubler.batches[3:] == [[5, 6]]

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


def test_what_callers_that_went_away_had_asked_for_is_not_kept() -> None:
    async def scenario() -> None:
        doubler = Doubler()
        batcher = Batcher(doubler, limit=3)
        calls = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        calls.append(asyncio.create_task(batcher.submit(3)))
        for _ in range(2):
            await asyncio.sleep(0)
            left = [batcher.enqueue(100) for _ in range(WAITING_MAX - 1)]
            with pytest.raises(Overloaded):
                await batcher.submit(100)
            for future in left:
                future.cancel()
            await asyncio.sleep(0)
            assert len(batcher._queue) == batcher.waiting == 1
        doubler.gate.set()
        assert await asyncio.gather(*calls) == [2, 4, 6]
        assert doubler.batches == [[1, 2], [3]]

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
        assert list(await asyncio.gather(first, last)) == [2, 6]
        assert doubler.batches == [[1], [3]]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(scenario())


class Panic(BaseException):
    """As compiled libraries raise them: pyo3's PanicException is no Exception."""


@pytest.mark.parametrize("raised", [Panic("boom"), SystemExit(3), asyncio.CancelledError()])
def test_whatever_is_raised_every_caller_is_answered_and_the_next_batch_is_run(
    raised: BaseException,
) -> None:
    async def scenario() -> None:
        async def run(items: list[int]) -> list[int]:
            await asyncio.sleep(0)
            if 13 in items:
                raise raised
            return [item * 2 for item in items]

        batcher = Batcher(run, limit=2)
        calls = [asyncio.create_task(batcher.submit(n)) for n in (13, 1, 2, 3)]
        async with asyncio.timeout(20):
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert await batcher.submit(4) == 8
        for failed in results[:2]:
            assert isinstance(failed, Unavailable)
            assert type(raised).__name__ in failed.message
            assert failed.outcome is RequestOutcome.UNKNOWN
        assert results[2:] == [4, 6]

    asyncio.run(scenario())


def test_an_error_in_the_place_of_a_result_is_raised_to_its_caller_alone() -> None:
    async def scenario() -> None:
        async def run(items: list[int]) -> list[int | Exception]:
            return [ValueError("odd") if item % 2 else item for item in items]

        batcher: Batcher[int, int] = Batcher(run, limit=9)
        calls = [batcher.enqueue(n) for n in range(4)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [int, ValueError, int, ValueError]

    asyncio.run(scenario())


@pytest.mark.parametrize("ends_when_left", [True, False])
def test_a_batch_that_all_callers_left_ends_if_it_may(ends_when_left: bool) -> None:
    async def scenario() -> None:
        gate, ended = asyncio.Event(), []

        async def run(items: list[int]) -> list[int]:
            if items[0] < 2:
                try:
                    await gate.wait()
                finally:
                    ended.append(items)
            return items

        batcher = Batcher(run, limit=2, ends_when_left=ends_when_left)
        first, second = batcher.enqueue(0), batcher.enqueue(1)
        last = asyncio.create_task(batcher.submit(7))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert not ended
        second.cancel()
        await asyncio.sleep(0.01)
        assert bool(ended) == ends_when_left
        assert last.done() == ends_when_left
        gate.set()
        assert await last == 7
        assert await batcher.submit(8) == 8

    asyncio.run(scenario())


def test_results_are_handed_out_a_few_at_a_time() -> None:
    """Between them the event loop does its other work."""

    async def scenario() -> None:
        turns = 0

        async def other_work() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def run(items: list[int]) -> list[int]:
            await asyncio.sleep(0.01)
            return items

        batcher = Batcher(run, limit=8 * RESULTS_PER_TURN)
        seen: list[int] = []
        for number in range(8 * RESULTS_PER_TURN):
            batcher.enqueue(number).add_done_callback(lambda _: seen.append(turns))
        working = asyncio.create_task(other_work())
        while len(seen) < 8 * RESULTS_PER_TURN:
            await asyncio.sleep(0)
        working.cancel()
        most = max(seen.count(turn) for turn in set(seen))
        assert most <= RESULTS_PER_TURN

    asyncio.run(scenario())


def test_the_wait_is_what_the_latest_batches_took_for_all_that_are_waited_for() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def run(items: list[int]) -> list[int]:
            await gate.wait()
            return items

        batcher = Batcher(run, limit=2)
        assert batcher.wait_s() == 0
        first = [batcher.enqueue(number) for number in range(2)]
        await asyncio.sleep(0.2)
        assert batcher.wait_s() == 0, "nothing was measured yet"
        gate.set()
        await asyncio.gather(*first)
        gate.clear()
        waiting = [batcher.enqueue(number) for number in range(10)]
        await asyncio.sleep(0)
        assert batcher.wait_s() >= 10 * 0.1
        for future in waiting[5:]:
            future.cancel()
        await asyncio.sleep(0)
        assert 5 * 0.1 <= batcher.wait_s() < 10 * 0.1 + 5
        assert batcher.waiting == 3
        gate.set()
        await asyncio.gather(*waiting[:5])

    asyncio.run(scenario())
