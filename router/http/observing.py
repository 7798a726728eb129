"""Middleware that sees each request come and its answer go: it is given an id, counted and timed,
and noted in the log if that is wanted.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitsift.router import tracing
from bitsift.router.http.routes import template_of
from bitsift.router.http.search_places import UNREAD
from bitsift.router.logs import note_request
from bitsift.router.metrics import Metrics
from bitsift.shard_worker.logs import REQUEST_ID

OTHER = "other"
"""The label of all methods and routes that there are none of."""
UNANSWERED = 499
"""The status of a request whose caller went away before it was answered."""
REQUEST_ID_CHARACTERS_MAX = 64
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
REQUEST_ID_HEADER = b"x-request-id"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,%d}" % REQUEST_ID_CHARACTERS_MAX)


class Observing:
    """Around all other middleware, so that what they refuse is seen as well.

    The id is what the caller sent as X-Request-Id, if that is one, and a random one otherwise; the
    answer has it as well.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, logs: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status = time.monotonic(), UNANSWERED
        request_id = request_id_of(scope["headers"])
        REQUEST_ID.set(request_id.decode())  # a request is a task with a context of its own
        state = scope.setdefault("state", {})
        if UNREAD in state:
            self._metrics.unread(state[UNREAD])

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (REQUEST_ID_HEADER, request_id)]
                message = {**message, "headers": headers}
            await send(message)

        route = template_of(scope["path"]) or OTHER
        try:
            with tracing.request(scope, route) as traced:
                try:
                    await self._app(scope, receive, noting)
                finally:
                    tracing.answered(traced, status, request_id.decode())
        finally:
            seconds = time.monotonic() - started_s
            method = scope["method"] if scope["method"] in _METHODS else OTHER
            self._metrics.request(route, method, status, seconds)
            if self._logs:
                note_request(route, method, status, seconds, state.get("key"))


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What the caller named its request, or a random id."""
    for name, value in headers:
        if name == REQUEST_ID_HEADER and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return os.urandom(8).hex().encode()
