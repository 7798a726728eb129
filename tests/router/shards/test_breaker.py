"""A silent shard costs a few searches their time; then answers come at once, and say so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import NotFound, Overloaded, RequestOutcome, ShardUnavailable
from bitsift.options import Mode, SearchOptions
from bitsift.router.shards import breaker as breakers
from bitsift.router.shards.breaker import MISSES_MAX, RETRY_S, Breaker
from bitsift.router.shards.fanout import FanOut
from bitsift.router.write import shard_writes
from bitsift.router.write.shard_writes import ShardWrites
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.operations import Delete, Operation, Outcome
from bitsift.shard_worker.types import Candidates, Origin, Query, ShardStatus
from bitsift.write_status import WriteStatus

TIMEOUT_S = 60.0


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class StoppableLink:
    """A shard that answers while ``running`` is set, and all that it was asked when it is again."""

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.running.set()
        self.calls = 0
        self.writes = 0

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        self.calls += 1
        await self.running.wait()
        none = np.empty(0, np.int32)
        scores = none.astype(np.float32)
        rows, codes = none.astype(np.int64), np.empty((0, 8), np.int8)
        found = Candidates(0, Origin(1, 0), rows, none, none, scores, scores, codes)
        return [found for _ in queries]

    async def status(self) -> ShardStatus:
        await self.running.wait()
        return ShardStatus(0, "READY")

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        self.calls += 1
        await self.running.wait()
        return [[WriteStatus.MISSING] * len(operation) for operation in operations]

    async def write(self, operations: Sequence[Operation], epoch: int = 0) -> Sequence[Outcome]:
        self.writes += 1
        await self.running.wait()
        return [[WriteStatus.DELETED] * len(operation) for operation in operations]


async def answer() -> str:
    return "answer"


async def silence() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def opened(clock: Clock) -> Breaker:
    breaker = Breaker("shard 7", clock=clock)
    for _ in range(MISSES_MAX):
        assert not breaker.is_open
        clock.now_s += 1
        breaker.missed(1.0)
    assert breaker.is_open
    return breaker


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await scenario()

    asyncio.run(limited())


def test_it_opens_after_misses_in_a_row_and_says_why() -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker = await opened(clock)
        calls = 0

        async def ask() -> str:
            nonlocal calls
            calls += 1
            return "answer"

        with pytest.raises(ShardUnavailable, match=r"shard 7: breaker open: no answer for 3\.0 s"):
            await breaker.call(ask, 5.0)
        assert calls == 0
        assert breaker.error().outcome is RequestOutcome.NOT_DONE
        assert breaker.state == "open"

    run(scenario)


def test_what_comes_in_between_begins_the_count_again_and_impatience_counts_for_nothing() -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker = Breaker("shard 0", clock=clock)
        for _ in range(5 * MISSES_MAX):
            clock.now_s += 1
            breaker.missed(1.0)
            clock.now_s += 0.1
            assert await breaker.call(answer, 5.0) == "answer"
        for _ in range(5 * MISSES_MAX):  # others were answered while these waited
            breaker.missed(5.0)
        clock.now_s += 50
        for _ in range(5 * MISSES_MAX):
            breaker.missed(breakers.MISS_S_MIN / 2)
        assert breaker.state == "closed"

    run(scenario)


@pytest.mark.parametrize(("error", "closes"), [(NotFound("x"), True), (Overloaded("x"), False)])
def test_an_error_is_an_answer_unless_it_was_never_sent(error: Exception, closes: bool) -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker = await opened(clock)
        clock.now_s += RETRY_S

        async def fail() -> None:
            raise error

        with pytest.raises(type(error)):
            await breaker.call(fail, 5.0)
        assert breaker.is_open is not closes

    run(scenario)


def test_a_trial_costs_its_caller_little_goes_on_and_closes_it_when_it_is_answered() -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker = await opened(clock)
        link = StoppableLink()
        link.running.clear()

        async def ask() -> Any:
            return await link.foresee([])

        clock.now_s += RETRY_S
        with pytest.raises(ShardUnavailable):  # long before its 50 s
            await breaker.call(ask, 50.0)
        assert (link.calls, breaker.state) == (1, "half-open")
        clock.now_s += 10 * RETRY_S
        with pytest.raises(ShardUnavailable):  # one trial at a time
            await breaker.call(ask, 50.0)
        assert link.calls == 1
        link.running.set()
        while breaker.is_open:
            await asyncio.sleep(0)
        assert await breaker.call(answer, 5.0) == "answer"

    run(scenario)


def test_a_trial_that_fails_is_followed_by_another() -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker = await opened(clock)
        clock.now_s += RETRY_S
        with pytest.raises((ShardUnavailable, TimeoutError)):
            await breaker.call(silence, 0.01)
        while breaker.state == "half-open":
            await asyncio.sleep(0.01)
        with pytest.raises(ShardUnavailable):
            await breaker.call(answer, 5.0)  # too soon
        clock.now_s += RETRY_S
        assert await breaker.call(answer, 5.0) == "answer"
        assert not breaker.is_open

    run(scenario)


def test_opening_ends_the_calls_that_wait() -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker = Breaker("shard 0", clock=clock)
        waiting = asyncio.ensure_future(breaker.call(silence, 1e6))
        await asyncio.sleep(0)
        for _ in range(MISSES_MAX):
            clock.now_s += 1
            breaker.missed(1.0)
        with pytest.raises(ShardUnavailable) as raised:
            await waiting
        assert raised.value.outcome is RequestOutcome.UNKNOWN  # it was sent

    run(scenario)


def test_opening_in_the_turn_in_which_a_call_runs_out_of_time_raises_nothing() -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker = Breaker("shard 0", clock=clock)
        waiting = asyncio.ensure_future(breaker.call(silence, 0.05))
        await asyncio.sleep(0)
        (limit,) = breaker._waiting
        while not limit.expired():  # the call itself has not been told yet
            await asyncio.sleep(0)
        for _ in range(MISSES_MAX):
            clock.now_s += 1
            breaker.missed(1.0)
        assert not waiting.done()
        with pytest.raises(ShardUnavailable):
            await waiting

    run(scenario)


@given(st.lists(st.sampled_from(["miss", "answer", "wait"]), max_size=40))
def test_it_is_open_exactly_when_the_last_misses_were_enough_without_an_answer(
    steps: list[str],
) -> None:
    async def scenario() -> None:
        clock = Clock()
        breaker, misses = Breaker("shard 0", clock=clock), 0
        for step in steps:
            clock.now_s += 1.5
            if step == "miss":
                breaker.missed(1.0)
                misses += 1
            elif step == "answer":
                breaker.answered()
                misses = 0
            assert breaker.is_open == (misses >= MISSES_MAX)

    run(scenario)


async def states(shards: FanOut) -> list[str]:
    return [state.replicas[0].breaker for state in await shards.states(0.01)]


def query(timeout_s: float, mode: Mode = Mode.AUTO) -> Query:
    options = SearchOptions(vector=np.ones(8, np.float32), mode=mode)
    return Query(options, deadline=Deadline.after(timeout_s))


def test_searches_of_a_stopped_shard_are_partial_at_once_and_whole_again_when_it_goes_on() -> None:
    async def scenario() -> None:
        well, stopped = StoppableLink(), StoppableLink()
        shards = FanOut([well, stopped])  # type: ignore[list-item]
        stopped.running.clear()
        for _ in range(MISSES_MAX):
            _, coverage = await shards.search(query(1.2 * breakers.MISS_S_MIN))
            assert [failure.error for failure in coverage.failures] == ["DeadlineExceeded"]
        _, coverage = await shards.search(query(1e3))  # would wait for ever
        (failure,) = coverage.failures
        assert (coverage.answered, failure.shard) == (1, 1)
        assert "breaker open: no answer for" in failure.message
        assert await states(shards) == ["closed", "open"]
        stopped.running.set()
        answered = 0
        while answered < 2:  # until the next trial
            _, coverage = await shards.search(query(1e3))
            answered = coverage.answered
            await asyncio.sleep(0.01)
        assert await states(shards) == ["closed", "closed"]

    run(scenario)


def test_exhaustive_searches_that_are_late_open_nothing() -> None:
    async def scenario() -> None:
        link = StoppableLink()
        link.running.clear()
        shards = FanOut([link])  # type: ignore[list-item]
        late = [shards.search(query(1.2 * breakers.MISS_S_MIN, Mode.EXHAUSTIVE)) for _ in range(9)]
        await asyncio.gather(*late)
        assert await states(shards) == ["closed"]

    run(scenario)


def test_writes_to_a_silent_shard_fail_at_once_and_are_never_a_trial(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shard_writes, "WRITE_TIMEOUT_S", breakers.MISS_S_MIN)

    async def scenario() -> None:
        link = StoppableLink()
        writes = ShardWrites([link])  # type: ignore[list-item]
        link.running.clear()
        first = (await writes.write({0: Delete(["a"])}))[0]
        assert isinstance(first, Exception)
        assert first.outcome is RequestOutcome.UNKNOWN
        for _ in range(3):
            refused = (await writes.write({0: Delete(["a"])}))[0]
            assert isinstance(refused, ShardUnavailable)
            assert "breaker open" in refused.message
            assert refused.outcome is RequestOutcome.NOT_DONE
            await asyncio.sleep(RETRY_S / 2)  # so that one of them is a trial
        assert (link.writes, link.calls) == (1, 1)
        link.running.set()
        found: Outcome = refused
        while isinstance(found, Exception):
            found = (await writes.write({0: Delete(["a"])}))[0]
            await asyncio.sleep(0.01)
        assert found == [WriteStatus.DELETED]

    run(scenario)
