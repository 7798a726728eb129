"""The answer to a job that takes minutes: lines of JSON, how far it is, and at the end its report.

The job lives as long as its caller listens: one that hangs up ends it, so none is left behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bitsift.errors import BitsiftError, reason
from bitsift.router.http.documents_schema import NDJSON

log = logging.getLogger(__name__)

EVERY_S = 1.0


class ProgressStream(Response):
    """``{"done": …, "total": …}`` once a second, and last ``{"report": …}`` or ``{"error": …}``, a
    problem document.
    """

    media_type = NDJSON

    def __init__(
        self,
        http: Request,
        turn: AbstractAsyncContextManager[None],
        work: Callable[[], Awaitable[Any]],
        progress: Callable[[], tuple[int, int]],
    ) -> None:
        """``turn`` is held while it runs; what that raises is raised before the answer starts."""
        super().__init__()
        del self.headers["content-length"]
        self._http = http
        self._turn = turn
        self._work = work
        self._progress = progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._turn:
            working = asyncio.ensure_future(self._work())
            leaving = asyncio.ensure_future(_until_it_leaves(receive))
            try:
                start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
                await send(start)
                last = await self._last_line(send, working, leaving)
            finally:
                for task in (working, leaving):
                    task.cancel()
                await asyncio.wait((working, leaving))
        if last is not None:  # whoever reads it may ask for the next job
            await _send(send, last, more=False)

    async def _last_line(
        self, send: Send, working: asyncio.Future[Any], leaving: asyncio.Future[None]
    ) -> dict[str, Any] | None:
        """When the job has ended; None where its caller has left. Sends the lines before it."""
        while True:
            await asyncio.wait(
                (working, leaving), timeout=EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            if leaving.done():
                log.info("%s ended: its caller went away", self._http.url.path)
                return None
            if working.done():
                return _outcome(working)
            done, total = self._progress()
            await _send(send, {"done": done, "total": total}, more=True)


async def _until_it_leaves(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _outcome(working: asyncio.Future[Any]) -> dict[str, Any]:
    error = working.exception()
    if error is None:
        return {"report": working.result()}
    if not isinstance(error, BitsiftError):
        log.error("a job failed", exc_info=error)
        error = BitsiftError(f"the job failed ({reason(error)})")
    kind = type(error).__name__
    return {
        "error": {"type": f"bitsift:{kind}", "title": error.title, "status": error.status,
                  "detail": error.message, "outcome": error.outcome}
    }  # fmt: skip


async def _send(send: Send, line: dict[str, Any], *, more: bool) -> None:
    body = orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    await send({"type": "http.response.body", "body": body, "more_body": more})
