"""Searches that are refused before anything is made of them, while more is asked than can be done.

Whoever asks too much must cost little, or the answers to others become fewer: a refusal that takes
the way of a request (a task, the middleware, validation) takes several times as long as one that
the protocol sends by itself. It is the same answer. Where all places are taken the head of a
request is enough; where texts wait for the encoder, the body says whether this is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import orjson

from bitsift.errors import Overloaded
from bitsift.options import Mode, SearchOptions
from bitsift.router.admission import Admission
from bitsift.router.http.observing import HEADER, OTHER, request_id_of
from bitsift.router.http.problems import problem_of
from bitsift.router.http.routes import template_of
from bitsift.router.http.shell import SECURITY_HEADERS
from bitsift.router.logs import note_request
from bitsift.router.service import SearchService
from bitsift.shard_worker.logs import REQUEST_ID

BODY_BYTES_MAX = 8 << 10
"""Of a body that is looked at: most texts are far smaller, and most embeddings larger."""
_MORE_TO_SAY = frozenset({b"origin", b"expect"})
"""Headers whose answer has more than this one: for pages of other sites, and for senders that wait
to be told to go on. They take the usual way."""
_POST = "POST"
_SEARCH, _TARGET = "/v1/search", b"/v1/search"
_TIMEOUT_MS = SearchOptions.timeout_ms
Headers = Iterable[tuple[bytes, bytes]]
Refusal = tuple[bytes, bytes]
"""Header lines, and the body."""


class EarlyRefusal:
    """Of searches by ``service``, and of all that ``admission`` counts.

    What is refused is counted, and noted in the log if that is wanted (``logs``).
    """

    def __init__(self, service: SearchService, admission: Admission, *, logs: bool) -> None:
        self._service = service
        self._admission = admission
        self._logs = logs

    def of_head(self, method: bytes, url: bytes, headers: Headers) -> Refusal | None:
        """The refusal of a search for which there is no place; None of anything else."""
        error = self._admission.refusal
        if error is None or method != b"POST":
            return None
        path = url.partition(b"?")[0]
        if not path.endswith(b"/search") or any(name in _MORE_TO_SAY for name, _ in headers):
            return None
        known = path[max(0, path.find(b"/v1/")) :]  # without what a proxy put before it
        return self._noted(error, template_of(known.decode("latin-1")) or OTHER, headers)

    def wants_body(self, method: bytes, url: bytes, headers: Headers) -> bool:
        """Whether ``of_body`` is to be asked: texts wait, and this may be one."""
        if (method, url) != (b"POST", _TARGET) or self._of_text("", _TIMEOUT_MS) is None:
            return False
        size = 0
        for name, value in headers:
            if name in _MORE_TO_SAY or name == b"content-encoding":
                return False
            if name == b"content-length" and value.isdigit():
                size = int(value)
        return 0 < size <= BODY_BYTES_MAX

    def of_body(self, body: bytes, headers: Headers) -> Refusal | None:
        """The refusal of a search for a text that would wait for too long."""
        try:
            asked = orjson.loads(body)
            query, timeout_ms = asked["query"], asked.get("timeout_ms", _TIMEOUT_MS)
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, IndexError):
            return None
        if not isinstance(query, str) or not isinstance(timeout_ms, int | float):
            return None
        error = self._of_text(query, timeout_ms)
        if error is None:
            return None
        self._service.metrics.search_failed(Mode.AUTO, type(error).__name__)
        return self._noted(error, _SEARCH, headers)

    def _of_text(self, query: str, timeout_ms: float) -> Overloaded | None:
        return self._service.refusal(query, Mode.AUTO, timeout_ms / 1e3)

    def _noted(self, error: Overloaded, route: str, headers: Headers) -> Refusal:
        request_id = request_id_of(headers)
        self._service.metrics.request(route, _POST, error.status, 0.0)
        if self._logs:
            before = REQUEST_ID.set(request_id.decode())
            note_request(route, _POST, error.status, 0.0, None)
            REQUEST_ID.reset(before)
        lines, body = _said(error.message)
        return b"%b%b: %b\r\n" % (lines, HEADER, request_id), body


@lru_cache(16)
def _said(message: str) -> Refusal:
    answer = problem_of(Overloaded(message))
    answer.headers.update(SECURITY_HEADERS)
    lines = (b"%b: %b\r\n" % pair for pair in answer.raw_headers)
    return b"".join(lines), bytes(answer.body)
