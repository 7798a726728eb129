"""Less of a plan that breaks an invariant: what is left is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tests.simulation.plan import Plan

T = TypeVar("T")
TRIES_MAX = 300


def shrunk(plan: Plan, breaks: Callable[[Plan], bool], tries: int = TRIES_MAX) -> Plan:
    """Faults first, then operations, in halves, quarters, … and one by one."""
    left = [tries]

    def still(candidate: Plan) -> bool:
        left[0] -= 1
        return left[0] >= 0 and breaks(candidate)

    faults = _fewer(plan.faults, lambda kept: still(replace(plan, faults=kept)))
    plan = replace(plan, faults=faults)
    return replace(plan, asked=_fewer(plan.asked, lambda kept: still(replace(plan, asked=kept))))


def _fewer(parts: tuple[T, ...], still: Callable[[tuple[T, ...]], bool]) -> tuple[T, ...]:
    size = max(1, len(parts) // 2)
    while parts:
        start = 0
        while start < len(parts):
            kept = parts[:start] + parts[start + size :]
            if still(kept):
                parts = kept
            else:
                start += size
        if size == 1:
            return parts
        size //= 2
    return parts
