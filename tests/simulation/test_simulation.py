"""A simulated cluster keeps its promises whatever befalls it; with a bug in it, it does not."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.history import History, Read, Write
from tests.simulation.plan import FAULTS, Asked, Fault, Kind, Plan, plan_of
from tests.simulation.shrink import shrunk
from tests.simulation.world import run, run_seeds

FOUND_BY = {
    "no_majority": 1,
    "tombstones_dropped": 6,
    "no_fencing": 13,
    "clock_not_advanced": 2,
    "acknowledged_before_sync": 17,
    "served_too_early": 390,
    "hint_lost": 23,
    "duplicate_applied": 14,
    "epoch_ignored": 499,
    "stale_read": 23,
    "token_ignored": 42,
    "term_ignored": 3011,
    "forgotten_unsaid": 558,
    "shard_missing_untold": 5,
    "condition_ignored": 28,
    "decided_by_one": 76,
}
"""For each planted bug a seed that finds it: ``python -m tests.simulation --bug NAME``."""
PLANS = {
    "old_table_read": Plan(
        0,
        asked=(
            Asked(1.0, "g0", Kind.WRITE, ("a",)),
            *(Asked(8.0 + n / 4, "g0", Kind.WRITE, ("a",)) for n in range(12)),
            *(Asked(9.5 + n / 4, "g1", Kind.READ, ("a",)) for n in range(12)),
        ),
        faults=(
            Fault(2.56, "extra", for_s=10.0),
            Fault(3.74, "part", "g1 n3 n1", for_s=10.7),
        ),
    ),
}
"""Bugs that were real, and that one seed in a thousand meets: what is left of the seeds that did,
shrunk.
"""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A replica that is behind is said in the log, thousands of times here."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    plan = PLANS.get(bug.__name__) or plan_of(FOUND_BY[bug.__name__])
    with bug():
        assert run(plan).broken is not None
    assert run(plan).broken is None


def test_a_seed_is_always_the_same() -> None:
    assert run(plan_of(7)) == run(plan_of(7))
    assert plan_of(7) != plan_of(8)


def test_a_seed_is_the_same_in_every_process() -> None:
    """Whatever order its sets have."""
    said = "from tests.simulation.world import run_seeds; print(*run_seeds(range(2)), sep=chr(10))"
    found = {
        subprocess.run(
            [sys.executable, "-c", said],
            env=os.environ | {"PYTHONHASHSEED": number, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True, capture_output=True, text=True, timeout=250,
        ).stdout
        for number in ("1", "2")
    }  # fmt: skip
    assert found == {"".join(f"{one}\n" for one in run_seeds(range(2)))}


def test_every_fault_is_planned_and_every_operation() -> None:
    """And each of them befalls somebody: who runs a plan has a method for each."""
    plans = [plan_of(seed) for seed in range(100)]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(FAULTS)
    assert {asked.kind for plan in plans for asked in plan.asked} == set(Kind)


def test_a_plan_that_fails_is_shrunk_to_what_is_needed() -> None:
    plan = plan_of(3)
    needed = replace(plan.faults[2], kind="crash", what="n1"), plan.asked[40], plan.asked[90]

    def breaks(candidate: Plan) -> bool:
        crashes = any(fault.kind == "crash" and fault.what == "n1" for fault in candidate.faults)
        return crashes and {needed[1], needed[2]} <= set(candidate.asked)

    plan = replace(plan, faults=(Fault(1.0, "full", "n2"), needed[0]))
    small = shrunk(plan, breaks)
    assert small.faults == (needed[0],)
    assert small.asked == (needed[1], needed[2])


def acknowledged(text: str | None, start: float, end: float) -> Write:
    return Write("a", text, start, end, is_acknowledged=True)


@pytest.mark.parametrize(
    ("writes", "allowed"),
    [
        ([], {None}),
        ([acknowledged("x", 1, 2)], {"x"}),
        ([acknowledged("x", 1, 2), acknowledged("y", 3, 4)], {"y"}),
        ([acknowledged("x", 1, 3), acknowledged("y", 2, 4)], {"x", "y"}),
        ([acknowledged("x", 1, 2), acknowledged(None, 3, 4)], {None}),
        ([acknowledged("x", 1, 2), Write("a", "y", 3)], {"x", "y"}),
        ([Write("a", "y", 1), acknowledged("x", 3, 4)], {"x", "y"}),
        ([acknowledged("x", 1, 2), Write("a", "y", 3, is_not_done=True)], {"x"}),
        ([acknowledged("x", 1, 2), acknowledged("y", 9, 14)], {"x", "y"}),
        ([acknowledged("x", 1, 2), Write("a", "y", 12)], {"x"}),
        ([Write("b", "x", 1, 2, is_acknowledged=True)], {None}),
    ],
)
def test_a_history_allows_what_can_have_been(writes: list[Write], allowed: set[str | None]) -> None:
    """A read from 10 to 11."""
    history = History(writes)
    for text in ("x", "y", None):
        broken = history.broken_by(Read("a", text, 10.0, 11.0))
        assert (broken is None) == (text in allowed), (text, broken)


def test_unknown_is_for_ever() -> None:
    assert Write("a", "x", 1.0).end == math.inf
