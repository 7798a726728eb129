"""Intervals contain the truth as often as they say, and only the latest searches count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.router.shadow.comparison import Compared
from bitsift.router.shadow.estimates import WINDOW, Estimates, wilson


def test_the_interval_is_wilsons() -> None:
    """By R: binom::binom.confint(81, 263, method = "wilson"), Newcombe's (1998) example."""
    found = wilson(81 / 263, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_it_lies_round_the_mean_and_within_0_and_1(mean: float, trials: int) -> None:
    found = wilson(mean, trials)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert found.high > found.low


@pytest.mark.parametrize("recall", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("together", [False, True])
def test_it_contains_the_recall_of_all_searches_19_times_of_20(
    recall: float, together: bool
) -> None:
    """Whether the hits of a search are missed one by one or all together."""
    random = np.random.default_rng(1)
    right, trials, samples = 0, 200, 1_000
    for _ in range(samples):
        if together:
            values = (random.random(trials) < recall).astype(np.float64)
        else:
            values = random.binomial(10, recall, trials) / 10
        found = wilson(float(np.mean(values)), trials)
        right += found.low <= recall <= found.high
    assert right / samples >= 0.93


def test_only_the_latest_of_each_kind_are_kept() -> None:
    estimates = Estimates()
    for _ in range(WINDOW):
        estimates.add("auto", "unfiltered", Compared(0.0, 0.0))
    for _ in range(WINDOW // 2):
        estimates.add("auto", "unfiltered", Compared(1.0, 0.5))
    estimates.add("approximate", "scan", Compared(0.7, 0.6))
    other, one = estimates.all()
    assert (one.mode, one.plan, one.searches) == ("auto", "unfiltered", WINDOW)
    assert one.recall_at_10.mean == 0.5
    assert one.rank_biased_overlap.mean == 0.25
    assert (other.mode, other.plan, other.searches) == ("approximate", "scan", 1)
    assert other.recall_at_10.mean == pytest.approx(0.7)
