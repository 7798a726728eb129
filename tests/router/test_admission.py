"""How much goes on at once."""

from __future__ import annotations

import pytest

from bitsift.errors import Overloaded
from bitsift.router.admission import Admission


def fail_holding(admission: Admission) -> None:
    with admission.hold(60) as held, admission.call():
        held.resize(70)
        held.resize(80)
        held.resize(101)


def test_calls_and_bytes_are_given_back_whatever_happens() -> None:
    admission = Admission("writes", 2, 100)
    for _ in range(10):
        with pytest.raises(Overloaded, match="already take 80 bytes of at most 100"):
            fail_holding(admission)
    assert admission.is_idle
    with admission.hold(100), admission.call(), admission.call():
        assert not admission.is_idle


def test_one_call_too_many_is_refused_and_holds_nothing() -> None:
    admission = Admission("writes", 2, 100)
    with (
        admission.call(),
        admission.call(),
        pytest.raises(Overloaded, match="2 writes are already in progress"),
        admission.call(),
    ):
        pass
    assert admission.is_idle


def test_what_is_too_much_leaves_room_for_the_next() -> None:
    admission = Admission("writes", 2, 100)
    for _ in range(3):
        with pytest.raises(Overloaded, match="needs 101 more"), admission.hold(101):
            pass
    with admission.hold(100):
        pass


def test_what_is_given_back_early_is_room_for_others() -> None:
    admission = Admission("streams", 2, 100)
    with admission.hold(100) as held:
        held.resize(40)
        with admission.hold(60), pytest.raises(Overloaded, match="streams in progress"):
            held.resize(41)
        held.resize(41)
    assert admission.is_idle
