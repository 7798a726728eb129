"""How much of writing goes on at once."""

from __future__ import annotations

import pytest

from router.admission import Admission
from shard_worker.errors import Overloaded


def fail_holding(admission: Admission) -> None:
    with admission.call(60) as held:
        held.at_least(80)
        held.at_least(70)
        held.at_least(101)


def test_calls_and_bytes_are_given_back_whatever_happens() -> None:
    admission = Admission(2, 100)
    for _ in range(10):
        with pytest.raises(Overloaded, match="hold 80 bytes already, at most 100"):
            fail_holding(admission)
    with admission.call(100), admission.call(0):
        pass


def test_one_call_too_many_is_refused_and_holds_nothing() -> None:
    admission = Admission(2, 100)
    with (
        admission.call(10),
        admission.call(10),
        pytest.raises(Overloaded, match="2 writes are under way"),
        admission.call(0),
    ):
        pass
    with admission.call(100):
        pass


def test_a_call_that_announces_too_much_leaves_room_for_the_next() -> None:
    admission = Admission(2, 100)
    for _ in range(3):
        with pytest.raises(Overloaded), admission.call(101):
            pass
    with admission.call(100):
        pass
