"""Answers that the protocol gives by itself, without the application.

A search that stayed unread for too long (search_places.py) is refused in one piece where nothing
else has to see it. The application takes 0.25 ms for it, nearly all of them in middleware: with
1,500 to refuse in a second that is a third of a core.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from bitsift.errors import BitsiftError, Overloaded, RequestOutcome
from bitsift.router.http.access import AccessSettings
from bitsift.router.http.hosts import HostList, host_of
from bitsift.router.http.media_types import JSON, media_type
from bitsift.router.http.observing import OTHER, REQUEST_ID_HEADER, request_id_of
from bitsift.router.http.paths import split_path
from bitsift.router.http.problems import document, problem_of
from bitsift.router.http.routes import template_of
from bitsift.router.http.shell import SECURITY_HEADERS
from bitsift.router.metrics import Metrics

Headers = Sequence[tuple[bytes, bytes]]
_OF_BROWSERS = frozenset({b"origin", b"sec-fetch-site"})
_PLAIN_PATH = re.compile(rb"/[!-$&->@-~]*(\?|$)")
"""ASCII, of which nothing is encoded."""
_SECURITY = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class Request(NamedTuple):
    """The head of one."""

    method: str
    target: bytes
    headers: Headers


class RefusedRequest(Exception):
    """Raised inside the parser's callbacks: it cannot be read."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class Refusals:
    """Those of one gateway, served on ``host``."""

    def __init__(self, metrics: Metrics, access: AccessSettings, host: str) -> None:
        self._metrics = metrics
        self._root_path = access.root_path
        self._hosts = HostList(host, access.allowed_hosts)
        is_noted = access.log.access or access.otlp_endpoint is not None
        self._is_open = access.keys is None and not is_noted

    def answer(
        self, request: Request, error: BitsiftError, unread_s: float | None, own: Headers
    ) -> bytes | None:
        """The whole answer, with the server's ``own`` headers; it is counted, and so is that it
        stayed unread for ``unread_s``, if that was not counted yet. None where the application is
        to answer: a key must be looked at, or where the page of a browser comes from, or each
        request is noted, or it would find something else to say, or the server stops.
        """
        if not (self._is_open and isinstance(error, Overloaded) and self._is_plain(request)):
            return None
        path = request.target.partition(b"?")[0].decode()
        route = template_of(split_path(request.method, path, self._root_path)[1]) or OTHER
        if unread_s is not None:
            self._metrics.unread(unread_s)
        self._metrics.request(route, request.method, error.status, 0.0)
        said, request_id = problem_of(error), request_id_of(request.headers)
        headers = *own, *said.raw_headers, *_SECURITY, (REQUEST_ID_HEADER, request_id)
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"".join([STATUS_LINE[error.status], *lines, b"\r\n", bytes(said.body)])

    def _is_plain(self, request: Request) -> bool:
        """Whether nothing in it is for the application to see first."""
        named = dict(request.headers)
        if not _OF_BROWSERS.isdisjoint(named) or not _PLAIN_PATH.match(request.target):
            return False
        if request.method == "POST" and media_type(_text(named, b"content-type")) != JSON:
            return False
        host = host_of(_text(named, b"host"))
        is_one = sum(name == b"host" for name, _ in request.headers) == 1
        return is_one and host is not None and host in self._hosts and request.method != "HEAD"


def _text(named: Mapping[bytes, bytes], name: bytes) -> str:
    return named.get(name, b"").decode("latin-1")


def closing(status: int, detail: str) -> bytes:
    """The whole answer to what cannot be read, after which the connection is closed."""
    said = document(status, "HTTPError", "request refused", detail, RequestOutcome.NOT_DONE)
    body = orjson.dumps(said)
    return (
        b"%bcontent-type: application/problem+json\r\ncontent-length: %d\r\n"
        b"connection: close\r\n\r\n%b" % (STATUS_LINE[status], len(body), body)
    )
