"""The check of histories: against all orders of a few operations, and on histories with a fault."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.linearizable import UNKNOWN_END, Call, violation


def has_an_order(calls: Sequence[Call]) -> bool:
    """The same question, answered by trying all orders of all that may have happened."""
    sure = [call for call in calls if call.end < math.inf]
    unsure = [call for call in calls if call.end == math.inf]
    for count in range(len(unsure) + 1):
        for some in itertools.combinations(unsure, count):
            if any(map(_explains, itertools.permutations([*sure, *some]))):
                return True
    return False


def _explains(order: Sequence[Call]) -> bool:
    value = None
    for place, call in enumerate(order):
        if any(later.end < call.begin for later in order[place:]):
            return False
        if call.is_write:
            value = call.value
        elif call.value != value:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Call]:
    """Up to six calls of small times, so that many touch and overlap."""
    calls = []
    for number in range(draw(st.integers(1, 6))):
        begin = draw(st.integers(0, 8))
        end: float = begin + draw(st.integers(0, 5))
        kind = draw(st.sampled_from(["write", "delete", "read", "read"]))
        if kind == "read":
            value = draw(st.sampled_from([None, *(f"t{n}" for n in range(6))]))
        else:
            value = None if kind == "delete" else f"t{number}"
            end = draw(st.sampled_from([end, end, UNKNOWN_END]))
        calls.append(Call(kind != "read", value, begin, end))
    return calls


def write(text: str | None, begin: float, end: float = UNKNOWN_END) -> Call:
    return Call(True, text, begin, end)


def read(text: str | None, begin: float, end: float) -> Call:
    return Call(False, text, begin, end)


@settings(max_examples=300)
@given(histories())
@example([write("t0", 0, 1), write(None, 0), read(None, 2, 8), read("t0", 3, 4)])
@example([write("t0", 0, 1), write(None, 0), read(None, 2, 8), write("t3", 4, 5), read("t3", 6, 7)])
def test_it_says_what_trying_all_orders_says(calls: list[Call]) -> None:
    assert (violation(calls) is None) == has_an_order(calls)


POSSIBLE = {
    "a write that is read before it is acknowledged": [
        write("a", 0, 9), read("a", 1, 2), read("a", 3, 4)
    ],
    "a write of unknown outcome that comes late": [
        write("a", 0), read(None, 1, 2), write("b", 3, 4), read("b", 5, 6), read("a", 7, 8)
    ],
    "a deletion of unknown outcome that comes late, and another": [
        write(None, 0), write(None, 0), write("a", 1, 2), read("a", 3, 4), read(None, 5, 6),
        write("b", 7, 8), read(None, 9, 10),
    ],
    "two writes at once, in either order": [write("a", 0, 5), write("b", 0, 5), read("a", 6, 7)],
}  # fmt: skip
IMPOSSIBLE = {
    "a lost write": [write("a", 0, 1), read(None, 2, 3)],
    "a deletion undone": [write("a", 0, 1), write(None, 2, 3), read("a", 4, 5)],
    "an older value after a newer": [
        write("a", 0, 1), write("b", 2, 9), read("b", 3, 4), read("a", 5, 6)
    ],
    "a write of unknown outcome that comes twice": [
        write("a", 0), read("a", 1, 2), write("b", 3, 4), read("a", 5, 6)
    ],
    "one deletion of unknown outcome that comes twice": [
        write(None, 0), write("a", 1, 2), read(None, 3, 4), write("b", 5, 6), read(None, 7, 8)
    ],
    "a text that nobody wrote": [write("a", 0, 1), read("b", 2, 3)],
    "a text that is written later": [read("a", 0, 1), write("a", 2, 3)],
    "two readers that disagree about two writes": [
        write("a", 0, 9), write("b", 0, 9), read("a", 1, 2), read("b", 3, 4), read("a", 5, 6)
    ],
}  # fmt: skip


@pytest.mark.parametrize("calls", POSSIBLE.values(), ids=list(POSSIBLE))
def test_what_can_have_been_is_no_violation(calls: list[Call]) -> None:
    assert violation(calls) is None


@pytest.mark.parametrize("calls", IMPOSSIBLE.values(), ids=list(IMPOSSIBLE))
def test_what_cannot_have_been_is_found(calls: list[Call]) -> None:
    assert "no order explains it" in str(violation(calls))


def test_two_writes_of_one_text_are_a_mistake_of_the_test() -> None:
    with pytest.raises(AssertionError, match="same text"):
        violation([write("a", 0, 1), write("a", 2, 3)])


def register(seed: int, count: int, clients: int) -> list[Call]:
    """A history of a real register with ``clients``, one call each at a time."""
    random, value, free = Random(seed), None, [0.0] * clients
    moments = []
    for number in range(count):
        client = min(range(clients), key=free.__getitem__)
        begin = free[client] + random.random()
        moment = begin + random.random()
        free[client] = moment + random.random()
        moments.append((moment, begin, free[client], number, random.random()))
    calls = []
    for _, begin, end, number, kind in sorted(moments):
        if kind < 0.5:
            calls.append(read(value, begin, end))
            continue
        is_unknown = random.random() < 0.2
        text = None if kind < 0.6 else f"t{number}"
        if not is_unknown or random.random() < 0.5:
            value = text
        calls.append(write(text, begin, UNKNOWN_END if is_unknown else end))
    return calls


@pytest.mark.parametrize("seed", range(2))
def test_a_long_history_with_one_wrong_read_is_told_from_that_without(seed: int) -> None:
    calls = register(seed, 4_000, 8)
    assert violation(calls) is None
    texts = [call for call in calls if call.is_write and call.value is not None]
    old = next(call for call in texts if call.end < 500)
    assert violation([*calls, read(old.value, 1_000.0, 1_000.1)]) is not None
