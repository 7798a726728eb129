"""One replica of a shard as this process sees it: its link, and its recent behaviour."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bitsift.errors import BitsiftError, DeadlineExceeded, ReplicaBehind, Unavailable
from bitsift.router.shards.background import let_end
from bitsift.router.shards.breaker import Breaker
from bitsift.router.shards.latencies import Latencies
from bitsift.router.shards.link import ReplicaLink
from bitsift.router.shards.standing import Digest, Standing
from bitsift.shard_worker.types import ShardStatus
from bitsift.write_token import NOTHING, Reached

SILENCE_MIN_S = 0.5
"""How long a replica may be silent, or three times what another usually takes if longer."""
LOOK_S = 0.05
"""The shortest interval between two looks at a silent replica."""
PING_S = 1.0
"""How long a replica that is silent during a slow call may take to answer a ping."""
LATE = 3
"""A call that takes this many times as long as others is much too late."""
LACKS_S = 0.05
"""How long a replica that has not applied a write is not asked for it again."""
FAILED_S = 1.0
"""How long a replica that could not be reached is asked only if no other is left."""
_numbers = itertools.count()
T = TypeVar("T")
Ask = Callable[["Replica"], Awaitable[T]]
"""A call to the given replica."""
Latest = Callable[["Replica"], Latencies]
"""A replica's latencies for one kind of call."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica in /v1/cluster. ``p50_ms``, ``p95_ms`` of the latest searches; None without any.

    ``breaker`` is closed, open or half-open. ``outstanding`` calls are in flight. ``hedges`` and
    ``retries`` are calls sent here second: before another replica answered, or after it failed.
    ``lag_ms`` and ``digest`` compare it with the others (standing.py).
    """

    node: str
    state: str
    reason: str | None
    breaker: str
    outstanding: int
    p50_ms: float | None
    p95_ms: float | None
    hedges: int
    retries: int
    pid: int
    lag_ms: int | None
    digest: Digest | None


class Replica:
    """Lives in one event loop. ``node`` is "" if there is only one machine."""

    def __init__(self, shard: int, node: str, link: ReplicaLink) -> None:
        self.shard = shard
        self.node = node
        self.link = link
        self.name = f"shard {shard} on {node}" if node else f"shard {shard}"
        self.breaker = Breaker(self.name)
        self.searches, self.exhaustive, self.reads = Latencies(), Latencies(), Latencies()
        self.hedges = self.retries = 0
        self._started_s: dict[int, float] = {}
        """When the calls in flight began, oldest first."""
        self._slow = 0
        self._watch: asyncio.TimerHandle | None = None
        """One for all calls in flight: a timer for each would cost more than the rest of a call."""
        self._pinging: asyncio.Task[None] | None = None
        self._failed_s = -math.inf
        self._lacked = NOTHING, -math.inf
        """What it had not reached, and when."""

    @property
    def outstanding(self) -> int:
        """The number of calls in flight."""
        return len(self._started_s) + self._slow

    @property
    def silent_s(self) -> float:
        """How long a call in flight has waited without a sign of life; 0 if none waits."""
        for started_s in self._started_s.values():
            if not self.breaker.has_spoken_since(started_s):
                return time.monotonic() - started_s
        return 0.0

    @property
    def is_well(self) -> bool:
        """Whether it may be asked first, before other replicas."""
        return not self.breaker.is_open and time.monotonic() > self._failed_s + FAILED_S

    def note_lack(self, least: Reached) -> None:
        """It is not as far as ``least``."""
        self._lacked = least, time.monotonic()

    def may_have(self, least: Reached) -> bool:
        """Whether it may be as far: it did not just say that it is not."""
        lacked, at_s = self._lacked
        return least < lacked or time.monotonic() > at_s + LACKS_S

    def work(self, latencies: Latencies, usual_s: float) -> float:
        """Its load with one more call, by the calls in flight.

        Each counts as 1, unless calls take much longer than usual, or it has been silent for
        longer: differences by chance mean nothing.
        """
        each_s = max(latencies.typical_s() or 0.0, self.silent_s)
        return (self.outstanding + 1) * max(1.0, each_s / (LATE * usual_s))

    async def call(
        self,
        ask: Ask[T],
        timeout_s: float,
        latest: Latest,
        others: Sequence[Replica] = (),
    ) -> T:
        """The result of ``ask``. Raises its errors, TimeoutError, and ShardUnavailable at once
        while the breaker is open.

        ``latest`` are the latencies that such calls belong to. If the replica gives no sign of life
        for a while and one of ``others`` is well, its breaker opens, so that they are asked.
        """
        number, started_s = next(_numbers), time.monotonic()
        self._started_s[number] = started_s
        if others and self._watch is None:
            self._begin_watch(latest, others)
        try:
            with self._measured(latest(self)):
                return await self.breaker.call(lambda: ask(self), timeout_s)
        except (TimeoutError, asyncio.CancelledError):
            self.breaker.missed(time.monotonic() - started_s)
            raise
        finally:
            del self._started_s[number]

    async def pinged_call(
        self, ask: Ask[T], timeout_s: float, latest: Latest, others: Sequence[Replica]
    ) -> T:
        """The same for calls that may take any time. Silence during them means nothing, so the
        replica is pinged: where it does not answer that either, its breaker opens.
        """
        self._slow += 1
        if self._pinging is None:
            self._pinging = asyncio.ensure_future(self._ping(others))
            let_end(self._pinging)
        try:
            with self._measured(latest(self)):
                return await self.breaker.until_opened(lambda: ask(self), timeout_s)
        finally:
            self._slow -= 1

    @contextlib.contextmanager
    def _measured(self, latencies: Latencies) -> Iterator[None]:
        """Notes how long a call takes, and that the replica could not be reached."""
        started_s = time.monotonic()
        try:
            yield
        except (TimeoutError, asyncio.CancelledError):
            waited_s = time.monotonic() - started_s
            if waited_s > (latencies.quantile(0.5) or 0.0):  # it would have taken longer
                latencies.add(waited_s)
            raise
        except Unavailable as error:
            if not isinstance(error, DeadlineExceeded | ReplicaBehind):
                self._failed_s = time.monotonic()
            raise
        latencies.add(time.monotonic() - started_s)

    async def _ping(self, others: Sequence[Replica]) -> None:
        """Ping it while slow calls are in flight and its breaker is closed."""
        try:
            await asyncio.sleep(SILENCE_MIN_S)
            while self._slow and not self.breaker.is_open:
                pinged_s = time.monotonic()
                with contextlib.suppress(BitsiftError):  # an answer, or the end of its process
                    await self.status(PING_S)
                await asyncio.sleep(SILENCE_MIN_S)
        except TimeoutError:
            is_silent = not self.breaker.has_spoken_since(pinged_s)
            if is_silent and any(other.is_well for other in others):
                self.breaker.silent_since(pinged_s)
        finally:
            self._pinging = None

    async def slow_call(self, ask: Ask[T], timeout_s: float = math.inf) -> T:
        """The same where no other replica can take its place: it is waited for."""
        self._slow += 1
        try:
            async with asyncio.timeout(None if timeout_s == math.inf else timeout_s):
                return await ask(self)
        finally:
            self._slow -= 1

    def _begin_watch(self, latest: Latest, others: Sequence[Replica]) -> None:
        patience_s = max(SILENCE_MIN_S, LATE * min(latest(other).usual_s() for other in others))
        after_s = max(patience_s - self.silent_s, LOOK_S)
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(after_s, self._look, latest, others, patience_s)

    def _look(self, latest: Latest, others: Sequence[Replica], patience_s: float) -> None:
        self._watch = None
        silent_s = self.silent_s
        if silent_s >= patience_s and any(other.is_well for other in others):
            self.breaker.silent_since(time.monotonic() - silent_s)
        elif self._started_s:
            self._begin_watch(latest, others)

    async def status(self, timeout_s: float) -> ShardStatus:
        """The status of its shard. Raises as ``call`` does."""
        return await self.breaker.call(self.link.status, timeout_s)

    def facts(self, status: ShardStatus, standing: Standing) -> ReplicaStatus:
        """Its entry in /v1/cluster, given the ``status`` of its shard."""
        return ReplicaStatus(
            node=self.node or status.node,
            state=status.state,
            reason=status.reason,
            breaker=self.breaker.state,
            outstanding=self.outstanding,
            p50_ms=_ms(self.searches.quantile(0.5)),
            p95_ms=_ms(self.searches.quantile(0.95)),
            hedges=self.hedges,
            retries=self.retries,
            pid=status.pid,
            lag_ms=standing.lag_ms,
            digest=standing.digest,
        )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)
