"""The event loop's lag is measured where it arises, and told from the machine's."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bitsift.router.loop_lag import EVERY_S, LoopLag, Moment, Sample, queued_s

BLOCK_S = 6 * EVERY_S


def compute() -> None:
    ended = time.thread_time() + BLOCK_S
    while time.thread_time() < ended:
        pass


def measured(fault: Callable[[], object]) -> dict[str, float | int]:
    async def scenario() -> dict[str, float | int]:
        lag = LoopLag()
        task = asyncio.create_task(lag.run())
        await asyncio.sleep(3 * EVERY_S)
        fault()
        await asyncio.sleep(3 * EVERY_S)
        task.cancel()
        return lag.facts()

    return asyncio.run(scenario())


def test_a_handler_that_computes_shows_as_lag_and_as_block() -> None:
    facts = measured(compute)
    assert facts["lag_max_ms"] >= 4 * EVERY_S * 1e3
    assert facts["block_max_ms"] >= 4 * EVERY_S * 1e3
    assert facts["lag_p50_ms"] < facts["lag_max_ms"]
    assert facts["samples"] >= 4


def test_a_call_that_keeps_pythons_lock_shows_as_block() -> None:
    """The thread that asks cannot run either: what is late then counts from when it should."""
    numbers = list(range(3_000_000))[::-1]
    numbers.sort()  # sorted: fast, and in one call

    def keep() -> None:
        started = time.thread_time()
        while time.thread_time() - started < BLOCK_S:
            sorted(numbers, key=None)

    facts = measured(keep)
    assert facts["block_max_ms"] >= 2 * EVERY_S * 1e3


def test_a_loop_that_is_kept_from_the_cpu_is_late_but_not_blocked() -> None:
    """A sleeping call uses as much CPU as a process that the system does not run: none."""
    facts = measured(lambda: time.sleep(BLOCK_S))
    assert facts["lag_max_ms"] >= 4 * EVERY_S * 1e3
    assert facts["block_max_ms"] < facts["lag_max_ms"] / 2


@pytest.mark.parametrize(
    ("woken", "answered", "lag_s", "block_s"),
    [
        (Moment(EVERY_S, 0.0), Moment(EVERY_S, 0.0), 0.0, 0.0),
        (Moment(EVERY_S, 0.01), Moment(EVERY_S + 0.03, 0.04), 0.03, 0.03),  # computed
        (Moment(EVERY_S, 0.01), Moment(EVERY_S + 0.03, 0.03), 0.03, 0.02),  # off the CPU for 10 ms
        (Moment(EVERY_S, 0.01), Moment(EVERY_S + 0.03, 0.07), 0.03, 0.03),  # two threads
        (Moment(EVERY_S + 0.02, 0.07), Moment(EVERY_S + 0.02, 0.07), 0.02, 0.02),  # kept the lock
        (Moment(EVERY_S + 0.02, 0.0), Moment(EVERY_S + 0.02, 0.0), 0.02, 0.0),  # the thread waited
        # others of its threads computed, while the loop's, and then the asker's, had no CPU
        (Moment(EVERY_S, 0.01), Moment(EVERY_S + 0.03, 0.07, 0.0, 0.025), 0.03, 0.005),
        (Moment(EVERY_S + 0.02, 0.07, 0.015), Moment(EVERY_S + 0.02, 0.07), 0.02, 0.005),
        (Moment(EVERY_S, 0.01), Moment(EVERY_S + 0.03, 0.07, 0.0, 0.04), 0.03, 0.0),
    ],
)
def test_a_block_is_the_lag_in_which_the_process_computed(
    woken: Moment, answered: Moment, lag_s: float, block_s: float
) -> None:
    sample = Sample(EVERY_S, Moment(0.0, 0.0), woken, answered)
    assert sample.lag_s == pytest.approx(lag_s)
    assert sample.block_s == pytest.approx(block_s)


def test_a_thread_that_shares_its_cpu_waits_for_it() -> None:
    """Also where the kernel does not say, and the answer is 0: less than all of it."""
    mine, ended = threading.get_native_id(), threading.Event()
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            ended.wait(0.2)
            started_s, before_s = time.monotonic(), queued_s(mine)
            compute()
            waited_s, passed_s = queued_s(mine) - before_s, time.monotonic() - started_s
        finally:
            other.kill()
            other.wait(10)
    finally:
        os.sched_setaffinity(0, cpus)
    assert 0 <= waited_s <= passed_s
    if Path("/proc/self/schedstat").read_text().split()[1] != "0":
        assert waited_s > 0


def test_nothing_measured_is_no_lag() -> None:
    facts = LoopLag().facts()
    assert not any(facts.values())
    assert set(facts) == {
        "samples",
        "lag_p50_ms",
        "lag_p99_ms",
        "lag_max_ms",
        "block_p99_ms",
        "block_max_ms",
    }
