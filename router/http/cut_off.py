"""A request that a server shutdown cuts off is answered with its outcome.

uvicorn cancels requests that outlast its shutdown timeout, and answers them with a bare 500.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitsift.errors import RequestOutcome, Unavailable
from bitsift.router.http.problems import problem_of
from bitsift.router.http.routes import is_read


class CutOff:
    """Answers 503 instead of what was cancelled. An answer that has begun is cut short, which its
    reader notices.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Nobody but the server cancels the task of a request from outside."""
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if has_begun or scope["type"] != "http":
                raise
            await problem_of(_cut_off(scope))(scope, receive, send)


def _cut_off(scope: Scope) -> Unavailable:
    if is_read(scope["method"], scope["path"]):
        return Unavailable("the server is shutting down; try again later")
    said = (
        "the server shut down before it answered; whether this was done is unknown: check "
        "before sending it again"
    )
    return Unavailable(said).with_outcome(RequestOutcome.UNKNOWN)
