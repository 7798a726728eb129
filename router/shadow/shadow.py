"""Answers a few of the live searches once more, in ``exhaustive`` mode, and compares.

A sample of the searches leaves their vectors, filters and candidates in a short queue, in RAM, when
they have been answered. When nothing else is under way in this router, the newest of them is asked
again of the same replicas, where ``exhaustive`` has the lowest priority and gives way to other
queries. It is given up without a word as soon as others have to wait, or its time is over.

A pass takes at most one core of each shard. After it there is a rest, so that passes take
``ShadowSettings.cpu`` of the time at most.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from bitsift.errors import BitsiftError, DeadlineExceeded
from bitsift.options import Mode, SearchOptions
from bitsift.router.metrics import Metrics
from bitsift.router.shadow.comparison import DEPTH, Seen, compared, plan_of
from bitsift.router.shadow.estimates import Estimates
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shards.background import let_end
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.types import Candidates, Query

log = logging.getLogger(__name__)

ASKED_AGAIN = ("vector", "filter", "exclude")
"""The options that say what is searched; the others say how, and what is made of it."""
WAITING_MAX = 8
"""Searches that wait to be asked again; the oldest makes room for another."""
PATIENCE_S = 60.0
"""How long one waits for a quiet moment."""
TIMEOUT_S = 30.0
"""How long the exhaustive search may take."""
LOOK_S = 0.05
"""From an answer to the first look whether all is quiet, and from one look to the next."""


class Outcome(StrEnum):
    """What became of a search that was to be asked again."""

    COMPARED = "compared"
    CHANGED = "changed"  # rows were numbered anew, or too many of them are new
    BUSY = "busy"  # no quiet moment came, or this one ended
    LATE = "late"
    FAILED = "failed"
    DROPPED = "dropped"  # it made room for a newer one


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    """A search that was answered: what is needed to ask again, and what it found."""

    again: SearchOptions
    mode: Mode
    plan: str
    depth: int
    seen: dict[int, Seen]
    at_s: float


class Shadow:
    """Of one router. Lives in the service's event loop."""

    def __init__(
        self,
        settings: ShadowSettings,
        shards: Callable[[], FanOut],
        metrics: Metrics,
        is_encoding: Callable[[], bool],
    ) -> None:
        """``shards`` are those in use; ``is_encoding``: whether the model has texts to encode."""
        self.settings = settings
        self.estimates = Estimates()
        self._shards = shards
        self._metrics = metrics
        self._is_encoding = is_encoding
        self._waiting: deque[_Sample] = deque()
        self._work: asyncio.Task[None] | None = None
        self._rested_s = 0.0

    def answered(self, options: SearchOptions, gathered: Sequence[Candidates]) -> None:
        """A search for ``options``, with their vector, has been answered completely by what was
        ``gathered``. It may be one of the sample.
        """
        if random.random() >= self.settings.share or options.mode is Mode.EXHAUSTIVE:
            return
        if len(self._waiting) == WAITING_MAX:
            self._waiting.popleft()
            self._metrics.shadowed(Outcome.DROPPED)
        depth, seen = min(DEPTH, options.depth), {part.shard: Seen.of(part) for part in gathered}
        asked = {name: getattr(options, name) for name in ASKED_AGAIN}
        again = SearchOptions(**asked, mode=Mode.EXHAUSTIVE, top_k=DEPTH, include=())
        sample = _Sample(again, options.mode, plan_of(gathered), depth, seen, time.monotonic())
        self._waiting.append(sample)
        if self._work is None:
            self._work = asyncio.create_task(self._ask_all())
            let_end(self._work)

    @property
    def is_at_work(self) -> bool:
        """Whether a search is being asked again, or waits to be."""
        return self._work is not None

    def facts(self) -> dict[str, Any]:
        """What is asked again, and what came out, for /v1/index."""
        estimates = [asdict(estimate) for estimate in self.estimates.all()]
        return {**asdict(self.settings), "estimates": estimates}

    async def _ask_all(self) -> None:
        """One at a time, until none waits."""
        try:
            while self._waiting:
                await asyncio.sleep(max(LOOK_S, self._rested_s - time.monotonic()))
                self._give_up_old()
                if self._waiting and self._is_quiet():
                    await self._ask(self._waiting.pop())
        finally:
            self._work = None

    def _give_up_old(self) -> None:
        while self._waiting and time.monotonic() > self._waiting[0].at_s + PATIENCE_S:
            self._waiting.popleft()
            self._metrics.shadowed(Outcome.BUSY)

    def _is_quiet(self) -> bool:
        return self._shards().is_idle and not self._is_encoding()

    async def _ask(self, sample: _Sample) -> None:
        started_s = time.monotonic()
        try:
            outcome = await self._outcome(sample)
        finally:
            took_s = time.monotonic() - started_s
            self._rested_s = started_s + took_s / self.settings.cpu
        self._metrics.shadowed(outcome, took_s)

    async def _outcome(self, sample: _Sample) -> Outcome:
        query = Query(sample.again, deadline=Deadline(time.monotonic() + TIMEOUT_S))
        origins = {shard: seen.origin for shard, seen in sample.seen.items()}
        asking = asyncio.ensure_future(self._shards().search_again(query, origins))
        try:
            if not await self._while_quiet(asking):
                return Outcome.BUSY
            found = compared(sample.seen, asking.result(), sample.depth)
        except (TimeoutError, DeadlineExceeded):
            return Outcome.LATE
        except BitsiftError:
            return Outcome.FAILED
        except Exception:
            log.exception("a search could not be asked again")
            return Outcome.FAILED
        finally:
            query.deadline.cancel()
            asking.cancel()
        if found is None:
            return Outcome.CHANGED
        self.estimates.add(sample.mode, sample.plan, found)
        return Outcome.COMPARED

    async def _while_quiet(self, asking: asyncio.Future[Any]) -> bool:
        """Whether it ended before others had to wait, at two looks, or for the same thread."""
        waited = False
        while not (await asyncio.wait({asking}, timeout=LOOK_S))[0]:
            shards = self._shards()
            wait_now = any(shards.waiting().values())
            if shards.has_slow_queries or (wait_now and waited):
                return False
            waited = wait_now
        return True
