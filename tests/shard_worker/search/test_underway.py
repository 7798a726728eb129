"""Calls are stopped from outside, by name: while they run, and before they begin."""

from __future__ import annotations

from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.search import underway
from bitsift.shard_worker.search.underway import Underway


def test_a_running_call_is_told_which_of_its_questions_are_given_up() -> None:
    calls, deadlines = Underway(), [Deadline.after(60) for _ in range(3)]
    with calls.call("one", deadlines):
        calls.cancel("one", [0, 2])
        calls.cancel("another", [1])
        assert [deadline.is_open() for deadline in deadlines] == [False, True, False]


def test_what_was_given_up_before_it_began_is_over_when_it_begins() -> None:
    calls, deadlines = Underway(), [Deadline.after(60) for _ in range(2)]
    calls.cancel("one", [1])
    with calls.call("one", deadlines):
        assert [deadline.is_open() for deadline in deadlines] == [True, False]


def test_calls_that_never_begin_are_forgotten_at_last() -> None:
    calls = Underway()
    for number in range(underway.EARLY_MAX + 5):
        calls.cancel(str(number), [0])
    deadlines = [Deadline.after(60)]
    with calls.call("0", deadlines):
        assert deadlines[0].is_open()
    with calls.call(str(underway.EARLY_MAX), deadlines):
        assert not deadlines[0].is_open()
    assert len(calls._early) == underway.EARLY_MAX - 1
