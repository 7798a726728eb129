"""Middleware around the whole application: limits on requests, and headers on every answer.

Plain ASGI: a middleware of Starlette's BaseHTTPMiddleware kind costs a task and a queue a request.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitsift.errors import BitsiftError
from bitsift.router.admission import Admission
from bitsift.router.http.bodies import whole_body
from bitsift.router.http.gate import values_of
from bitsift.router.http.parameters import refuse_other_encodings
from bitsift.router.http.problems import problem, problem_of
from bitsift.router.http.unpacking import RAM_BYTES_MAX as UNPACKING_RAM_BYTES_MAX
from bitsift.router.http.unpacking import Unpacked, UnsupportedCoding, coding_of
from bitsift.router.turns import Turns

REQUESTS_MAX = 512
"""Requests that are answered at once; those whose bodies are still being sent are not counted."""
RAM_BYTES_MAX = 256 << 20
REQUESTS_PER_TURN = 2
"""Requests that begin in one turn of the event loop: each takes some 0.25 ms until it first waits,
and many clients may send theirs at the same moment."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
}
_BODILESS = ("GET", "HEAD", "DELETE")
"""Methods whose bodies are not read."""
_UNCOUNTED = ("/livez", "/readyz", "/metrics")
"""They are answered, too, when there are too many requests."""


class AnswerHeaders:
    """Security headers everywhere but on /docs (its page has inline scripts); no stale page.

    HEAD is answered as GET is, on every route: the server leaves the body out.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the headers when the answer starts."""
        path = scope.get("path", "")
        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET"}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if not path.startswith("/docs"):
                    headers.update(SECURITY_HEADERS)
                if path == "/" or path.startswith("/static/"):
                    headers["Cache-Control"] = "no-cache"  # an upgrade never mixes versions
            await send(message)

        await self._app(scope, receive, with_headers)


class RequestLimits:
    """Bounds the requests under way, and the size, time and RAM of their bodies.

    A body is read whole before its request counts and the application sees it, so a slow sender
    takes no place. Bodies of GET, HEAD and DELETE are not read. ``apart`` has the paths of routes
    that see to their own bodies, and to how many there are.
    """

    def __init__(
        self, app: ASGIApp, body_bytes_max: int, smaller: Mapping[str, int], apart: Collection[str]
    ) -> None:
        """``smaller``: limits of bodies by the beginnings of paths."""
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._smaller = smaller
        self._apart = apart
        self.admission = Admission("requests", REQUESTS_MAX, RAM_BYTES_MAX)
        self._unpacking = Admission("compressed bodies", 0, UNPACKING_RAM_BYTES_MAX)
        self._turns = Turns(REQUESTS_PER_TURN)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        try:
            await self._admitted(scope, receive, send)
        except ClientDisconnect:
            return
        except UnsupportedCoding as error:
            await error.answer()(scope, receive, send)
        except BitsiftError as error:  # of this class: the application answers its own
            await problem_of(error)(scope, receive, send)
        except HTTPException as late:  # of the body
            answer = problem(late.status_code, "HTTPError", "request refused", late.detail)
            await answer(scope, receive, send)

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ClientDisconnect, BitsiftError, HTTPException."""
        refuse_other_encodings(scope)
        coding = coding_of(scope)
        if coding is None or scope["method"] in _BODILESS:
            await self._begun(scope, receive, send)
            return
        with self._unpacking.hold() as held:
            await self._begun(scope, Unpacked(receive, coding, held), send)

    async def _begun(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in self._apart:
            await self._app(scope, receive, send)
            return
        if scope["method"] in _BODILESS:
            await self._turns.take()
            with self.admission.call():
                await self._app(scope, receive, send)
            return
        with self.admission.hold() as held:
            limit = self._limit(scope["path"])
            announced = "".join(values_of(scope["headers"], b"content-length"))
            body = await whole_body(receive, announced, limit, held)
            await self._turns.take()
            with self.admission.call():
                await self._app(scope, _replayed(body, receive), send)

    def _limit(self, path: str) -> int:
        smaller = (size for start, size in self._smaller.items() if path.startswith(start))
        return next(smaller, self._body_bytes_max)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """``body`` as one message, then whatever ``receive`` says."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
