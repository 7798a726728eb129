"""Work for a client that went away ends: Starlette itself goes on to the last byte."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import Response
from starlette.types import Receive

WATCHED_AFTER_S = 0.02
"""A quick answer is not worth a watcher, which takes some 20 us; a timer takes one."""
CLIENT_CLOSED_REQUEST = 499
"""The status that nginx uses for it. Nobody receives it."""


async def unless_gone(receive: Receive, work: Awaitable[Response]) -> Response:
    """The response that ``work`` makes; when the client goes away before, ``work`` is cancelled.

    ``receive`` is the request's, whose body has been read.
    """
    watch = _Watch(receive)
    try:
        return await work
    except asyncio.CancelledError:
        if not watch.saw_it_leave:
            raise
        watch.working.uncancel()
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    finally:
        watch.end()


class _Watch:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        task = asyncio.current_task()
        assert task is not None
        self.working = task
        self.saw_it_leave = False
        self._watcher: asyncio.Task[None] | None = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WATCHED_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._watcher = asyncio.create_task(self._until_it_leaves())

    async def _until_it_leaves(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.saw_it_leave = True
        self.working.cancel()

    def end(self) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None  # its error knows this object: a cycle
