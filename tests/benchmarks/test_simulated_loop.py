"""The clock of a simulation: it jumps, repeats itself, and counts only this machine's work."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.simulated_loop import STARTED_S, simulate, simulated_loop
from bitsift.shard_worker.deadline import Deadline

HOUR_S = 3_600.0


def compute(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


def test_an_hour_passes_at_once_and_everything_sees_it() -> None:
    async def main() -> tuple[float, float, float]:
        deadline = Deadline.after(2 * HOUR_S)
        await asyncio.sleep(HOUR_S)
        return asyncio.get_running_loop().time(), time.monotonic(), deadline.remaining_s()

    before = time.monotonic
    at_s, monotonic_s, left_s = simulate(main())
    assert at_s == monotonic_s == pytest.approx(STARTED_S + HOUR_S)
    assert left_s == pytest.approx(HOUR_S)
    assert time.monotonic is before, "the clock of the process stays simulated"


def test_timers_end_in_their_order_and_late_work_is_cut_off() -> None:
    async def main() -> list[str]:
        ended: list[str] = []

        async def after(seconds: float, name: str) -> None:
            await asyncio.sleep(seconds)
            ended.append(name)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await asyncio.gather(after(2, "second"), after(1, "first"), after(3, "never"))
        return ended

    assert simulate(main()) == ["first", "second"]


def test_computing_takes_time_only_where_it_is_counted_and_is_our_own() -> None:
    async def main() -> tuple[float, float]:
        loop, started_s = simulated_loop(), time.monotonic()
        with loop.elsewhere():
            compute(0.2)
        compute(0.05)
        loop.charge(0.5)
        return time.monotonic() - started_s, loop.cpu_s

    elapsed_s, cpu_s = simulate(main())
    assert elapsed_s == 0
    assert 0.55 <= cpu_s < 0.74
    elapsed_s, cpu_s = simulate(main(), counts_cpu=True)
    assert 0.55 <= elapsed_s < 0.74


def test_looking_at_the_clock_takes_less_than_it_takes_and_never_turns_it_back() -> None:
    async def main() -> tuple[list[float], float]:
        before_s = time.thread_time()
        seen = [time.monotonic() for _ in range(50_000)]
        return seen, time.thread_time() - before_s

    seen, took_s = simulate(main(), counts_cpu=True)
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] < 0.8 * took_s


def test_what_computes_makes_timers_late() -> None:
    async def main() -> float:
        loop, woken = simulated_loop(), asyncio.Event()
        started_s = time.monotonic()
        loop.call_later(0.1, woken.set)
        loop.charge(5.0)
        await woken.wait()
        return time.monotonic() - started_s

    assert simulate(main()) == pytest.approx(0.1)
    assert 5.0 <= simulate(main(), counts_cpu=True) < 5.5


def test_waiting_for_nothing_and_threads_are_errors() -> None:
    async def for_nothing() -> None:
        await asyncio.Event().wait()

    async def in_a_thread() -> None:
        await asyncio.to_thread(compute, 0)

    with pytest.raises(RuntimeError, match="no timer will bring"):
        simulate(for_nothing())
    with pytest.raises(RuntimeError, match="one thread"):
        simulate(in_a_thread())
