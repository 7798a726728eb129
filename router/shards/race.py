"""One query to the replicas of a shard, until one has answered it.

If a replica cannot be reached, goes silent or fails, the next one is asked (a retry); if it is only
late, and the budget allows it, the next one is asked as well (a hedge). The slower call is
cancelled, but its end is still awaited: how long it takes shows how well its replica is.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bitsift.errors import (
    BitsiftError,
    InvalidRequest,
    NotFound,
    ReplicaBehind,
    RequestOutcome,
    ShardUnavailable,
    said_by,
)
from bitsift.router.shards.background import let_end
from bitsift.router.shards.hedging import HedgeBudget
from bitsift.router.shards.replica import LATE, Ask, Latest, Replica
from bitsift.write_token import NOTHING, Reached

ASKED_MAX = 3
"""Replicas that one query is sent to: a query that kills one must not kill all."""
LEFT_MIN_S = 0.001
"""With less time left, no other replica is asked."""
UNMEASURED_P50_S = 0.01
SLOW_SHARE = 0.25
"""Of the time of a slow call: after that it is late, whatever such calls usually take."""
P50_MIN_S = 0.001
"""Shorter calls count as equally fast."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """One attempt at a query, and how to cancel it."""

    ask: Ask[T]
    cancel: Callable[[], None] = lambda: None


def better_of_two(replicas: Sequence[Replica], latest: Latest) -> Replica:
    """The less busy of two random replicas, chosen among the healthy ones if there are any."""
    well = [replica for replica in replicas if replica.is_well] or list(replicas)
    if len(well) == 1:
        return well[0]
    pair = random.sample(well, 2)
    known = [typical_s for it in pair if (typical_s := latest(it).typical_s()) is not None]
    usual_s = max(P50_MIN_S, min(known, default=UNMEASURED_P50_S))
    return min(pair, key=lambda replica: replica.work(latest(replica), usual_s))


class Race(Generic[T]):
    """One query to the replicas of one shard, at least one. Lives for one ``run``."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        attempt: Callable[[], Attempt[T]],
        latest: Latest,
        budget: HedgeBudget | None,
        *,
        slow: bool = False,
        least: Reached = NOTHING,
    ) -> None:
        """``attempt`` makes an attempt. ``budget`` None: no hedges. ``slow`` calls may take any
        time: silence during them means nothing. Those that have just said that they lack the write
        that ``least`` is of are asked last.
        """
        self._replicas = replicas
        self._untried = list(replicas)
        self._attempt = attempt
        self._latest = latest
        self._budget = budget
        self._slow = slow
        self._least = least
        self._running: dict[asyncio.Future[T], Attempt[T]] = {}
        self._asked_of: dict[asyncio.Future[T], Replica] = {}
        self._failures: list[tuple[Replica, BaseException]] = []

    async def run(self, timeout_s: float) -> T:
        """The first answer. Raises TimeoutError, or if all fail, the error that they had."""
        end_s = time.monotonic() + timeout_s
        if self._budget is not None:
            self._budget.earn()
        try:
            self._start(end_s)
            while True:
                hedges = self._hedge_moments(end_s)
                winner = await self._answered(end_s, hedges)
                if winner is not None:
                    return winner.result()
                if not self._can_ask() or end_s - time.monotonic() < LEFT_MIN_S:
                    raise self._failure()
                self._start(end_s).retries += 1
        finally:
            for task in self._running:
                task.cancel()

    async def _answered(
        self, end_s: float, hedges: list[tuple[float, bool]]
    ) -> asyncio.Future[T] | None:
        """The attempt that answered, or None when all that were started have failed."""
        while self._running:
            late = hedges[0] if hedges and self._can_ask() and len(self._running) == 1 else None
            wake_s = end_s if late is None else min(end_s, late[0])
            await asyncio.wait(
                self._running,
                timeout=max(0.0, wake_s - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            winner = self._take_ended()
            if winner is not None:
                return winner
            if time.monotonic() >= end_s:
                raise TimeoutError
            if late is not None and self._running and time.monotonic() >= late[0]:
                hedges.pop(0)
                if self._budget is not None and self._budget.spend(much_too_late=late[1]):
                    self._start(end_s).hedges += 1
        return None

    def _can_ask(self) -> bool:
        asked = len(self._replicas) - len(self._untried)
        return bool(self._untried) and asked < ASKED_MAX

    def _start(self, end_s: float) -> Replica:
        """Ask another replica; returns which."""
        fit = [it for it in self._untried if it.may_have(self._least)]
        replica = better_of_two(fit or self._untried, self._latest)
        self._untried.remove(replica)
        others = [other for other in self._replicas if other is not replica]
        attempt = self._attempt()
        left_s = end_s - time.monotonic()
        call = replica.pinged_call if self._slow else replica.call
        task = asyncio.ensure_future(call(attempt.ask, left_s, self._latest, others))
        self._running[task] = attempt
        self._asked_of[task] = replica
        return replica

    def _hedge_moments(self, end_s: float) -> list[tuple[float, bool]]:
        """When the attempt just started is late, and when much too late, by the time in which
        another replica usually answers; a slow one by the time that is left, if that is sooner.
        """
        well = [replica for replica in self._untried if replica.is_well]
        if self._budget is None or not well:
            return []
        now_s = time.monotonic()
        share_s = SLOW_SHARE * (end_s - now_s)
        if not self._slow:
            usual_s = min(self._latest(replica).usual_s() for replica in well)
            return [(now_s + usual_s, False), (now_s + LATE * usual_s, True)]
        usual_s = min(self._latest(replica).usual_s(share_s) for replica in well)
        late_s, much_too_late_s = min(usual_s, share_s), min(LATE * usual_s, 2 * share_s)
        return [(now_s + late_s, False), (now_s + much_too_late_s, True)]

    def _take_ended(self) -> asyncio.Future[T] | None:
        """Collects attempts that have ended: the winner is returned, failures are kept."""
        for task in [task for task in self._running if task.done()]:
            del self._running[task]
            error = _error(task)
            if error is None or isinstance(error, InvalidRequest | NotFound):
                self._leave_the_others()
                return task
            self._failures.append((self._asked_of[task], error))
        return None

    def _leave_the_others(self) -> None:
        for task, attempt in self._running.items():
            attempt.cancel()
            let_end(task)
        self._running.clear()

    def _failure(self) -> BaseException:
        """The error of the query, when no replica is left to ask."""
        (_, first), *others = self._failures
        if not others:
            return first
        kinds = {type(error) for _, error in self._failures}
        kind = type(first) if len(kinds) == 1 else ShardUnavailable
        if ReplicaBehind in kinds:  # which it may not be for long
            kind = ReplicaBehind
        said = "; ".join(f"{replica.node}: {said_by(error)}" for replica, error in self._failures)
        shard = self._failures[0][0].shard
        if not issubclass(kind, BitsiftError):
            kind = ShardUnavailable
        found = kind(f"no replica of shard {shard} answered ({said})")
        return found.with_outcome(RequestOutcome.NOT_DONE)


def _error(task: asyncio.Future[Any]) -> BaseException | None:
    """The error of an attempt; a call that was cancelled remotely is a failure too."""
    return asyncio.CancelledError() if task.cancelled() else task.exception()
