"""From what was measured of some numbers of lists to the number that a search visits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitsift.shard_worker.bits.tuning import lists_for

CURVE = {64: 0.969, 96: 0.975, 144: 0.981, 216: 0.987}


@pytest.mark.parametrize(
    ("recall", "lists"),
    [(0.5, 64), (0.969, 64), (0.97, 69), (0.975, 96), (0.985, 189), (0.987, 216), (0.988, None)],
)
def test_between_two_that_were_measured_it_is_interpolated(
    recall: float, lists: int | None
) -> None:
    assert lists_for(CURVE, recall) == lists


def test_nothing_is_known_where_nothing_was_measured() -> None:
    assert lists_for({}, 0.5) is None
    assert lists_for({8: 0.9, 12: 0.9}, 0.9) == 8


@given(st.dictionaries(st.integers(1, 40_000), st.floats(0, 1)), st.floats(0.5, 0.999))
def test_it_lies_where_the_measured_recall_first_reaches_what_is_wanted(
    curve: dict[int, float], recall: float
) -> None:
    found = lists_for(curve, recall)
    enough = min((lists for lists, there in curve.items() if there >= recall), default=None)
    if enough is None or found is None:
        assert found == enough
        return
    below = max((lists for lists in curve if lists < enough), default=enough - 1)
    assert below < found <= enough
    more = lists_for(curve, min(0.999, recall + 0.001))
    assert more is None or more >= found
