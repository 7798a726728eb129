"""Ctrl-C and SIGTERM: raised, deferred, ignored, as the block says."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from bitsift.cluster.interrupts import deferred, shielded, terminable
from tests.threads import ended

ALL = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


@pytest.fixture(autouse=True)
def is_of_a_terminal() -> Iterator[None]:
    """Under nohup it is ignored, as it should be."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@ALL
def test_each_raises_in_a_terminable_block_and_are_as_before_after_it(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), terminable():
        send(number)
    assert signal.getsignal(number) is before


@ALL
def test_what_swallows_the_exception_is_told_at_the_next_sleep(number: int) -> None:
    with terminable() as ending:
        with contextlib.suppress(KeyboardInterrupt):
            send(number)
        with pytest.raises(KeyboardInterrupt):
            ending.sleep(0)


def work(number: int, times: int, done: list[str]) -> None:
    with terminable():
        with deferred():
            for _ in range(times):
                send(number)
            done.append("whole")
        done.append("beyond")


@ALL
def test_the_first_waits_for_the_end_of_a_deferred_block(number: int) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(number, 1, done)
    assert done == ["whole"]


@ALL
def test_the_second_interrupts_a_deferred_block(number: int) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work(number, 2, done)
    assert not done


@ALL
def test_an_ending_is_not_interrupted(number: int) -> None:
    done = []
    with terminable(), shielded():
        send(number)
        done.append("whole")
    assert done == ["whole"]


def test_other_threads_are_left_alone() -> None:
    done = []

    def all_three() -> None:
        with terminable(), deferred(), shielded():
            done.append("whole")

    thread = threading.Thread(target=all_three)
    thread.start()
    ended(thread)
    assert done == ["whole"]


class Interrupted:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_inside_of_a_destructor_is_not_lost() -> None:
    reached = []

    def work() -> None:
        with terminable():
            thing = Interrupted()
            del thing
            reached.append("the exception was raised where Python only prints it")
            time.sleep(20)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached


def test_a_lost_terminal_stays_ignored_where_it_is() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
