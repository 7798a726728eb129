"""Hedges stay within their budget, and latencies say what the latest calls took."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bitsift.router.shards.hedging import BURST_MAX, RESERVED, SHARE_MAX, HedgeBudget
from bitsift.router.shards.latencies import SAMPLES_MAX, WINDOW_S, Latencies


@given(st.lists(st.sampled_from(["call", "late", "much too late"]), max_size=400))
def test_hedges_are_never_more_than_their_share_and_a_burst(steps: list[str]) -> None:
    budget, calls, hedges = HedgeBudget(), 0, 0
    for step in steps:
        if step == "call":
            budget.earn()
            calls += 1
        else:
            hedges += budget.spend(much_too_late=step == "much too late")
        assert hedges <= BURST_MAX + SHARE_MAX * calls


def test_what_is_late_by_chance_leaves_a_reserve_for_what_is_much_too_late() -> None:
    budget = HedgeBudget()
    assert sum(budget.spend(much_too_late=False) for _ in range(100)) == BURST_MAX - RESERVED
    assert sum(budget.spend(much_too_late=True) for _ in range(100)) == RESERVED
    for _ in range(math.ceil(1 / SHARE_MAX) + 1):
        budget.earn()
    assert budget.spend(much_too_late=True)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300), st.floats(0, 1))
def test_a_quantile_is_one_of_the_latest_calls_and_has_its_share_below(
    seconds: list[float], share: float
) -> None:
    latencies = Latencies()
    for one in seconds:
        latencies.add(one)
    latest = seconds[-SAMPLES_MAX:]
    found = latencies.quantile(share)
    assert len(latencies) == len(latest)
    assert found in latest
    assert sum(one <= found for one in latest) >= share * len(latest)


def test_what_is_long_ago_is_forgotten() -> None:
    now_s = 100.0
    latencies = Latencies(clock=lambda: now_s)
    latencies.add(5.0)
    now_s += 0.9 * WINDOW_S
    latencies.add(1.0)
    assert (len(latencies), latencies.quantile(0.95)) == (2, 5.0)
    now_s += 0.2 * WINDOW_S
    assert (len(latencies), latencies.quantile(0.95)) == (1, 1.0)
    now_s += WINDOW_S
    assert (len(latencies), latencies.quantile(0.5)) == (0, None)
