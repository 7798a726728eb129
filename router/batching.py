"""Natural batching: while one batch runs, arrivals wait; then all that wait go together.

No timers. An idle system adds no delay to a single call; a busy one pays one call per batch. Items
that nobody waits for any more leave the queue unprocessed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar, cast

from bitsift.errors import Overloaded, RequestOutcome, Unavailable, reason

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING_MAX = 4_096
"""Items that wait in one queue."""
RESULTS_PER_TURN = 2
"""Results handed out before other work of the event loop has its turn: each wakes a caller, who
goes on at once; sixty-four of them together would stop the loop for some 10 ms."""
_NEWEST_SHARE = 0.2
"""Weight of the newest batch in the measured time of an item."""


class Batcher(Generic[Item, Result]):
    """Run ``run`` on batches that weigh ``limit`` at most, in arrival order, one at a time or as
    many as there are ``lanes``.

    An item weighs 1, or what ``weigh`` says; one that is heavier than ``limit`` goes alone.

    Lives in one event loop. An exception in the place of a result is raised to its caller. What
    ``run`` raises, whatever it is, reaches every caller of that batch; then the next one is run.
    """

    def __init__(
        self,
        run: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        limit: int,
        *,
        weigh: Callable[[Item], int] = lambda _: 1,
        ends_when_left: bool = False,
        lanes: Callable[[], int] = lambda: 1,
        observe: Callable[[int, float], None] = lambda _size, _waited_s: None,
    ) -> None:
        """``ends_when_left`` cancels a ``run`` that no caller waits for any more.

        Not for writes: the next batch would begin while the shard is still at this one.
        ``lanes`` says how many batches may be run at once at the moment. ``observe`` is told of
        each how many items it has, and how many seconds the first of them has waited.
        """
        self._run = run
        self._limit = limit
        self._weigh = weigh
        self._ends_when_left = ends_when_left
        self._queue: OrderedDict[asyncio.Future[Result], tuple[Item, float]] = OrderedDict()
        """With the moment of each on the monotonic clock. Who is cancelled leaves it at once."""
        self.waiting = 0
        """Of those in the queue, how many are still waited for."""
        self._batches: set[_Batch] = set()
        self._item_s = 0.0
        self._lanes = lanes
        self._observe = observe
        self._workers: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """The result for ``item``. A caller that is cancelled while waiting leaves the queue."""
        return await self.enqueue(item)

    def enqueue(self, item: Item) -> asyncio.Future[Result]:
        """The same as a future, for callers that wait for several; cancelled, it leaves too.

        Overloaded is its exception where ``WAITING_MAX`` wait already.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if self.waiting >= WAITING_MAX:
            future.set_exception(
                Overloaded(f"{self.waiting:,} calls are already waiting; try again later")
            )
            return future
        future.add_done_callback(self._left_queue)
        self._queue[future] = item, time.monotonic()
        self.waiting += 1
        if len(self._workers) < self._lanes():
            work = asyncio.create_task(self._work(), context=Context())  # it is for many requests
            self._workers.add(work)
        return future

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and no batch is under way."""
        return not self._workers

    def wait_s(self) -> float:
        """How long an item that arrives now would wait for its result, judging by recent
        batches.
        """
        awaited = sum(batch.awaited for batch in self._batches)
        return (self.waiting + awaited) * self._item_s / max(1, self._lanes())

    def _left_queue(self, future: asyncio.Future[Result]) -> None:
        self.waiting -= 1
        self._queue.pop(future, None)

    async def _work(self) -> None:
        try:
            while self._queue:
                await self._run_batch(self._take())
        finally:
            self._workers.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            for future in self._queue:  # none, unless the event loop ends
                future.cancel()

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        taken: list[tuple[Item, asyncio.Future[Result]]] = []
        weight, first_s = 0, 0.0
        while self._queue:
            future, (item, since_s) = next(iter(self._queue.items()))
            if not future.done():
                weight += self._weigh(item)
                if taken and weight > self._limit:
                    break
                future.remove_done_callback(self._left_queue)
                self.waiting -= 1
                first_s = first_s or since_s
                taken.append((item, future))
            del self._queue[future]
        if taken:
            self._observe(len(taken), time.monotonic() - first_s)
        return taken

    async def _run_batch(self, taken: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not taken:
            return
        futures = [future for _, future in taken]
        batch = _Batch(futures, ends_when_left=self._ends_when_left)
        self._batches.add(batch)
        try:
            await self._answer(batch, taken)
        finally:
            self._batches.discard(batch)

    async def _answer(
        self, batch: _Batch, taken: list[tuple[Item, asyncio.Future[Result]]]
    ) -> None:
        results: Sequence[Result | Exception]
        started = time.monotonic()
        try:
            with batch:
                results = await self._run([item for item, _ in taken])
            if batch.was_left:
                return
            assert len(results) == len(taken), (len(results), len(taken))
        except BaseException as error:
            if batch.is_cancelled_from_outside(error):
                batch.cancel()
                raise
            log.debug("a batch of %d failed", len(taken), exc_info=error)
            results = [_as_exception(error)] * len(taken)
        else:
            newest_s = (time.monotonic() - started) / len(taken)
            weight = _NEWEST_SHARE if self._item_s else 1.0
            self._item_s += weight * (newest_s - self._item_s)
        await batch.hand_out(results)


class _Batch:
    """The callers of one batch. As a context: its run, which may end when all of them have left."""

    def __init__(self, futures: list[asyncio.Future[Any]], *, ends_when_left: bool) -> None:
        self._futures = futures
        self._ends_when_left = ends_when_left
        self._task: asyncio.Task[Any] | None = None
        self.awaited = len(futures)
        self.was_left = False
        for future in futures:
            future.add_done_callback(self._one_less)

    def _one_less(self, _: asyncio.Future[Any]) -> None:
        self.awaited -= 1
        if not self.awaited and self._task is not None and self._ends_when_left:
            self.was_left = True
            self._task.cancel()

    def __enter__(self) -> None:
        self._task = asyncio.current_task()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        """Swallows the cancellation of its own making."""
        task, self._task = self._task, None
        assert task is not None
        return self.was_left and kind is asyncio.CancelledError and task.uncancel() == 0

    def is_cancelled_from_outside(self, error: BaseException) -> bool:
        """Whether the event loop ends; ``run`` may raise CancelledError of its own as well."""
        task = asyncio.current_task()
        cancelled = isinstance(error, asyncio.CancelledError)
        return cancelled and task is not None and task.cancelling() > 0

    def cancel(self) -> None:
        for future in self._futures:
            future.cancel()

    async def hand_out(self, results: Sequence[Any]) -> None:
        """Answer every caller that is still there, a few at a time."""
        for place, (future, result) in enumerate(zip(self._futures, results, strict=True)):
            if place and place % RESULTS_PER_TURN == 0:
                await asyncio.sleep(0)
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


def _as_exception(error: BaseException) -> Exception:
    """``error`` in a form that callers can raise: SystemExit or the like would end their event
    loop.
    """
    if isinstance(error, Exception):
        return error
    failed = Unavailable(f"the call ended with {reason(error)}")
    return failed.with_outcome(RequestOutcome.UNKNOWN)
