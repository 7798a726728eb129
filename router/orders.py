"""What callers order of the set of indexes: done by the command that started the router, which owns
the folders and starts processes. It fetches orders one by one, and says what came of each.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass
from typing import Any

from bitsift.errors import BitsiftError, DeadlineExceeded, Overloaded

WAITING_MAX = 8
ORDER_TIMEOUT_S = 600.0
"""Of one order with those before it: a model may have to be loaded for it."""


@dataclass(frozen=True, slots=True)
class Order:
    """``what`` is a method of whoever does it, with these arguments."""

    number: int
    what: str
    arguments: dict[str, Any]


class Orders:
    """Lives in one event loop."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._waiting: deque[Order] = deque()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Event()

    async def ask(self, what: str, **arguments: Any) -> Any:
        """What came of it. Raises the BitsiftError that it ended with, Overloaded where too many
        wait, DeadlineExceeded.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded("too many changes of the indexes wait already; try again later")
        order = Order(next(self._numbers), what, arguments)
        answer = self._answers[order.number] = asyncio.get_running_loop().create_future()
        self._waiting.append(order)
        self._news.set()
        try:
            async with asyncio.timeout(ORDER_TIMEOUT_S):
                return await answer
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"it was not done in {ORDER_TIMEOUT_S:.0f} s; GET /v1/indexes shows what there is"
            ) from error
        finally:
            del self._answers[order.number]
            if order in self._waiting:
                self._waiting.remove(order)

    async def next(self, wait_s: float) -> Order | None:
        """The oldest that nobody has fetched; None where there is none for ``wait_s``."""
        if not self._waiting:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), wait_s)
            except TimeoutError:
                return None
        return self._waiting.popleft() if self._waiting else None

    def done(self, number: int, answer: Any, error: BitsiftError | None) -> None:
        """What came of an order. Nobody may wait for it any more."""
        waiting = self._answers.get(number)
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(answer)
        else:
            waiting.set_exception(error)
