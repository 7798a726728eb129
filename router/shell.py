"""What stands round the whole application: a limit on bodies, and headers on every answer.

Plain ASGI: a middleware of Starlette's BaseHTTPMiddleware kind costs a task and a queue a request.
"""

from __future__ import annotations

from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.problems import problem

_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
}


class AnswerHeaders:
    """Security headers everywhere but on /docs (its page has inline scripts); no stale page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers when the answer starts."""
        path = scope.get("path", "")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if not path.startswith("/docs"):
                    headers.update(_SECURITY_HEADERS)
                if path == "/" or path.startswith("/static/"):
                    headers["Cache-Control"] = "no-cache"  # an upgrade never mixes versions
            await send(message)

        await self._app(scope, receive, with_headers)


class _BodyTooLarge(HTTPException):
    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is larger than {limit} bytes")


class BodyLimit:
    """Refuse a body over ``limit`` bytes with 413, however it is sent; memory stays flat.

    The route at the path ``unlimited`` sees to its own bodies.
    """

    def __init__(self, app: ASGIApp, limit: int, unlimited: str) -> None:
        self._app = app
        self._limit = limit
        self._unlimited = unlimited

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == self._unlimited:
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._limit:
            await problem(
                413, "HTTPError", "request refused", f"the body is larger than {self._limit} bytes"
            )(scope, receive, send)
            return
        received = 0

        async def limited() -> Message:
            nonlocal received
            message: Any = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise _BodyTooLarge(self._limit)
            return dict(message)

        await self._app(scope, limited, send)
