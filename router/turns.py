"""A few at a time: work that is begun all at once would stop the event loop, however short each is.

Thirty-two requests of a hundred questions are 3,200 tasks; each runs 60 us before it first waits.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turns:
    """At most ``each`` callers go on in one turn of the event loop, in the order they came."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._left = each
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._renewing = False

    async def take(self) -> None:
        """Returns at once where this turn has room, else in a later one."""
        self._renew_later()
        if self._left and not self._waiting:
            self._left -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine

    def _renew_later(self) -> None:
        if not self._renewing:
            self._renewing = True
            asyncio.get_running_loop().call_soon(self._renew)

    def _renew(self) -> None:
        self._renewing = False
        self._left = self._each
        while self._waiting and self._left:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._left -= 1
        if self._waiting:
            self._renew_later()
