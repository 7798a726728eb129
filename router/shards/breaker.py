"""A circuit breaker for the link to one copy of a shard: a silent copy delays only a few searches.

While it is closed, calls pass. After ``MISSES_MAX`` deadlines in a row without a sign of life it
opens, and calls fail at once. Then one call at a time is let through as a trial: its caller waits
for at most ``TRIAL_WAIT_S``, while the call itself goes on; any response closes the breaker.

Only silence counts. An error is an answer, and calls to a shard whose process died fail in Ray. If
another replica can be asked (replica_set.py), one long silence opens it, and no caller waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from bitsift.errors import Overloaded, RequestOutcome, ShardUnavailable
from bitsift.router.shards.background import let_end

log = logging.getLogger(__name__)

MISSES_MAX = 3
"""Deadlines in a row that a link may miss."""
MISS_S_MIN = 0.5
"""A caller that waits for less than this says nothing about the shard."""
RETRY_S = 1.0
"""From the opening, or the end of a trial, to the next trial."""
TRIAL_WAIT_S = 0.25
"""How long the caller of a trial waits when the shard is still silent."""
T = TypeVar("T")


class Breaker:
    """Lives in one event loop."""

    def __init__(
        self,
        name: str,
        misses_max: int = MISSES_MAX,
        clock: Callable[[], float] = lambda: time.monotonic(),
    ) -> None:
        self._name = name
        self._misses_max = misses_max
        self._clock = clock
        self._misses = 0
        self._heard_s = clock()
        self._silent_since_s = 0.0
        self._retry_at_s: float | None = None
        """When the next trial may begin; None while it is closed."""
        self._trial: asyncio.Future[Any] | None = None
        self._waiting: set[asyncio.Timeout] = set()

    @property
    def is_open(self) -> bool:
        return self._retry_at_s is not None

    @property
    def is_due(self) -> bool:
        """Whether the next call would be a trial."""
        due = self._retry_at_s is not None and self._clock() >= self._retry_at_s
        return due and self._trial is None

    def has_spoken_since(self, moment_s: float) -> bool:
        """Whether the shard gave a sign of life after ``moment_s`` of the breaker's clock."""
        return self._heard_s > moment_s

    async def call(self, ask: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """The result of ``ask``. Raises its errors, TimeoutError after ``timeout_s``, and
        ShardUnavailable, not done, at once while the breaker is open.
        """
        if self._retry_at_s is not None:
            if self._trial is not None or self._clock() < self._retry_at_s:
                raise self.error()
            return await self._try(ask, timeout_s)
        return await self.until_opened(ask, timeout_s)

    async def until_opened(self, ask: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """The same, without asking whether it is open: it ends where it opens meanwhile."""
        try:
            async with asyncio.timeout(timeout_s) as limit:
                with self._ended_by_opening(limit), self._hearing():
                    return await ask()
        except TimeoutError as error:
            if self.is_open:
                raise self.error(RequestOutcome.UNKNOWN) from error
            raise

    def missed(self, waited_s: float) -> None:
        """A caller waited ``waited_s`` seconds in vain: a miss, unless others got an answer."""
        asked_s = self._clock() - waited_s
        if waited_s < MISS_S_MIN or self._heard_s > asked_s or self.is_open:
            return
        if not self._misses:
            self._silent_since_s = asked_s
        self._misses += 1
        if self._misses >= self._misses_max:
            self._open()

    def silent_since(self, asked_s: float) -> None:
        """No sign of life since ``asked_s``, and others can be asked: open at once."""
        if not self.is_open:
            self._silent_since_s = asked_s
            self._misses += 1
            self._open()

    def _open(self) -> None:
        self._retry_at_s = self._clock() + RETRY_S
        log.warning("%s", self.error())
        now = asyncio.get_running_loop().time()
        for limit in self._waiting:
            if not limit.expired():  # it may end in this very turn of the loop
                limit.reschedule(now)

    def answered(self) -> None:
        """The shard answered, perhaps with an error."""
        if self.is_open:
            silent_s = self._clock() - self._silent_since_s
            log.warning("%s: breaker closed: it answers again after %.1f s", self._name, silent_s)
        self._misses, self._retry_at_s, self._heard_s = 0, None, self._clock()

    def error(self, outcome: RequestOutcome = RequestOutcome.NOT_DONE) -> ShardUnavailable:
        """The error of calls while it is open."""
        said = f"{self._name}: breaker open: {self._silence()}, retried every {RETRY_S:.0f} s"
        return ShardUnavailable(said).with_outcome(outcome)

    @property
    def state(self) -> str:
        """closed, open or half-open (a trial is in flight)."""
        trial = "half-open" if self._trial is not None else "open"
        return trial if self.is_open else "closed"

    def _silence(self) -> str:
        return f"no answer for {self._clock() - self._silent_since_s:.1f} s"

    @contextlib.contextmanager
    def _ended_by_opening(self, limit: asyncio.Timeout) -> Iterator[None]:
        self._waiting.add(limit)
        try:
            yield
        finally:
            self._waiting.discard(limit)

    @contextlib.contextmanager
    def _hearing(self) -> Iterator[None]:
        """Any response is an answer, except the error of a call that was never sent."""
        try:
            yield
        except (TimeoutError, Overloaded):
            raise
        except Exception:
            self.answered()
            raise
        self.answered()

    async def _try(self, ask: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """A trial, which outlives its caller and ends after ``timeout_s``."""

        async def trial() -> T:
            try:
                async with asyncio.timeout(timeout_s):
                    with self._hearing():
                        return await ask()
            finally:
                self._trial = None
                if self._retry_at_s is not None:
                    self._retry_at_s = self._clock() + RETRY_S

        self._trial = task = asyncio.ensure_future(trial())
        let_end(task)
        done, _ = await asyncio.wait({task}, timeout=min(timeout_s, TRIAL_WAIT_S))
        if not done:
            raise self.error()
        return task.result()
