"""Versions grow, whatever the wall clock does."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.errors import Unavailable
from bitsift.shard_worker.clock import (
    COUNTER_BITS,
    DRIFT_MAX_S,
    HybridClock,
    milliseconds_of,
    version_at,
)
from tests.threads import ended

NOW_S = 1_800_000_000.0


class Wall:
    """A wall clock that is set by hand."""

    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def test_a_version_says_when_it_was_given() -> None:
    clock = HybridClock(wall_s=Wall())
    assert milliseconds_of(clock.tick()) == NOW_S * 1e3
    assert version_at(milliseconds_of(clock.tick())) < clock.tick()


@given(st.lists(st.one_of(st.none(), st.integers(-5_000, 5_000)), max_size=60))
def test_versions_grow_however_the_wall_clock_jumps_and_whatever_was_seen(
    steps: list[int | None],
) -> None:
    wall, given = Wall(), [0]
    clock = HybridClock(wall_s=wall)
    for step in steps:
        if step is None:
            seen = max(given[-1], version_at(int(wall.now_s * 1e3))) + 7
            clock.observe(seen)
            given.append(seen)
        else:
            wall.now_s += step / 1e3
        given.append(clock.tick())
    assert given == sorted(set(given))


def test_an_hour_back_costs_nothing_but_the_milliseconds() -> None:
    wall = Wall()
    clock = HybridClock(wall_s=wall)
    before = clock.tick()
    wall.now_s -= 3_600
    later = [clock.tick() for _ in range(3)]
    assert later == [before + 1, before + 2, before + 3]
    wall.now_s += 3_601
    assert milliseconds_of(clock.tick()) == milliseconds_of(before) + 1_000


def test_more_versions_than_a_millisecond_counts_run_into_the_next() -> None:
    clock = HybridClock(wall_s=Wall())
    first = clock.tick()
    for _ in range(1 << COUNTER_BITS):
        last = clock.tick()
    assert milliseconds_of(last) == milliseconds_of(first) + 1


def test_a_clock_goes_on_from_what_is_there_even_if_that_lies_ahead() -> None:
    newest = version_at(int((NOW_S + 2 * DRIFT_MAX_S) * 1e3))
    assert HybridClock(newest, wall_s=Wall()).tick() == newest + 1


def test_a_version_from_too_far_ahead_is_refused_and_forgotten() -> None:
    clock = HybridClock(wall_s=Wall())
    clock.observe(version_at(int((NOW_S + DRIFT_MAX_S) * 1e3)))
    before = clock.tick()
    with pytest.raises(Unavailable, match=r"set the clocks of both machines"):
        clock.observe(version_at(int((NOW_S + DRIFT_MAX_S) * 1e3) + 1))
    assert clock.tick() == before + 1


def test_a_clock_that_was_set_right_starts_over() -> None:
    wall = Wall(NOW_S + 3_600)
    clock = HybridClock(wall_s=wall)
    ahead = clock.tick()
    assert not clock.is_too_far(ahead)
    wall.now_s = NOW_S
    assert clock.is_too_far(ahead)
    assert clock.tick() > ahead
    clock.start_over()
    assert milliseconds_of(clock.tick()) == NOW_S * 1e3


def test_threads_never_get_one_version_twice() -> None:
    clock, given = HybridClock(wall_s=Wall()), list[int]()
    threads = [
        threading.Thread(target=lambda: given.extend(clock.tick() for _ in range(2_000)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        ended(thread)
    assert len(set(given)) == 8_000
