"""The loop of the simulation runs what asyncio's own does, in the same order, and never waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from benchmarks.simulated_loop import simulate
from tests.simulation.loop import STARTED_S, VirtualLoop, pause


async def story() -> list[tuple[float, str]]:
    """Tasks, timers, timeouts, locks and cancellations, and when each of them got on."""
    said, lock = list[tuple[float, str]](), asyncio.Lock()

    def say(what: str) -> None:
        said.append((round(time.monotonic() - STARTED_S, 6), what))

    async def worker(name: str, seconds: float) -> str:
        async with lock:
            await asyncio.sleep(seconds)
            say(name)
        return name

    tasks = [asyncio.ensure_future(worker(f"worker {n}", 0.5 * n)) for n in range(4)]
    asyncio.get_running_loop().call_later(0.2, say, "timer")
    asyncio.get_running_loop().call_later(0.1, say, "never").cancel()
    try:
        async with asyncio.timeout(0.7):
            await asyncio.Event().wait()
    except TimeoutError:
        say("timeout")
    tasks[3].cancel()
    say(str(await asyncio.gather(*tasks, return_exceptions=True)))
    done, waiting = await asyncio.wait(
        [asyncio.ensure_future(worker("a", 1.0)), asyncio.ensure_future(worker("b", 9.0))],
        timeout=3.0,
    )
    say(f"{len(done)} {len(waiting)}")
    return said


def test_it_does_what_asyncio_does() -> None:
    assert VirtualLoop().run(story()) == simulate(story())


def test_the_clock_jumps_and_all_clocks_agree() -> None:
    async def main() -> tuple[float, float]:
        await pause(3_600.0)
        return asyncio.get_running_loop().time(), time.monotonic()

    assert VirtualLoop().run(main()) == (STARTED_S + 3_600.0,) * 2


def test_what_was_not_awaited_has_ended_when_it_returns() -> None:
    ended = list[str]()

    async def on_and_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    async def main() -> asyncio.Task[None]:
        task = asyncio.ensure_future(on_and_on())
        await pause(1.0)
        return task

    assert VirtualLoop().run(main()).cancelled()
    assert ended == ["cancelled"]


def test_errors_end_it() -> None:
    async def fails() -> None:
        raise KeyError("it")

    async def waits_for_nothing() -> None:
        await asyncio.Event().wait()

    async def in_a_thread() -> None:
        await asyncio.to_thread(print)

    def ends_with(main: Coroutine[Any, Any, None], error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            VirtualLoop().run(main)

    ends_with(fails(), KeyError, "it")
    ends_with(waits_for_nothing(), RuntimeError, "no timer")
    ends_with(in_a_thread(), RuntimeError, "one thread")
