"""Writes can be held for a moment: by the writer while a replica joins the table or other shards
take over, by a router while another writer takes the place of one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

HOLD_MAX_S = 60.0


class WriteGate:
    """Where writes wait while they are held. Lives in one event loop."""

    def __init__(self) -> None:
        self._held: asyncio.Event | None = None
        self._under_way = 0
        self._idle = asyncio.Event()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A write, begun when none are held."""
        while self._held is not None:
            await self._held.wait()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def hold(self, seconds: float) -> None:
        """New writes wait from now on, until ``release`` or for ``seconds``, ``HOLD_MAX_S`` at
        most. Returns when those that were under way have ended.
        """
        self.release()
        self._held = held = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.call_later(min(seconds, HOLD_MAX_S), self._end_of, held)
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()

    def release(self) -> None:
        """Writes that were held go on."""
        if self._held is not None:
            self._end_of(self._held)

    def _end_of(self, held: asyncio.Event) -> None:
        held.set()
        if self._held is held:
            self._held = None
