"""Middleware that sees each request come and its answer go: counted and timed for /metrics."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitsift.router.http.routes import template_of
from bitsift.router.metrics import Metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})
OTHER = "other"
"""The label of all methods and routes that there are none of."""
UNANSWERED = 499
"""The status of a request whose caller went away before it was answered."""


class Observing:
    """Around all other middleware, so that what they refuse is seen as well."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status = time.monotonic(), UNANSWERED

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            method = scope["method"]
            self._metrics.request(
                template_of(scope["path"]) or OTHER,
                method if method in _METHODS else OTHER,
                status,
                time.monotonic() - started_s,
            )
