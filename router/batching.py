"""Natural batching: while one batch runs, arrivals wait; then all that wait go together.

No timers. An idle system adds no delay to a single call; a busy one pays one call per batch.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Run ``run`` on batches of at most ``limit`` items, one batch at a time, in arrival order.

    Lives in one event loop. An exception from ``run`` reaches every caller of that batch.
    """

    def __init__(
        self, run: Callable[[list[Item]], Awaitable[Sequence[Result]]], limit: int
    ) -> None:
        self._run = run
        self._limit = limit
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Result:
        """The result for ``item``. A caller that is cancelled while waiting leaves the queue."""
        return await self.enqueue(item)

    def enqueue(self, item: Item) -> asyncio.Future[Result]:
        """The same as a future, for callers that wait for several; cancelled, it leaves too."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return future

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch = self._take()
                if batch:
                    await self._run_batch(batch)
        finally:
            self._worker = None

    def _take(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._limit:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _run_batch(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            assert len(results) == len(batch), (len(results), len(batch))
        except Exception as error:  # handed to every caller of this batch
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
