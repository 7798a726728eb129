"""Searches that are refused by their heads alone, while as many requests are answered as may be.

Whoever asks more than a server can do must cost it little, or the answers to others become fewer:
a refusal that takes the way of a request (a task, the middleware, the body) takes several times as
long as one that the protocol sends by itself. It is the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from bitsift.errors import Overloaded
from bitsift.router.admission import Admission
from bitsift.router.http.observing import HEADER, OTHER, request_id_of
from bitsift.router.http.problems import problem_of
from bitsift.router.http.routes import template_of
from bitsift.router.http.shell import SECURITY_HEADERS
from bitsift.router.logs import note_request
from bitsift.router.metrics import Metrics
from bitsift.shard_worker.logs import REQUEST_ID

_MORE_TO_SAY = frozenset({b"origin", b"expect"})
"""Headers whose answer has more than this one: for pages of other sites, and for senders that wait
to be told to go on. They take the usual way."""
_POST = "POST"


class EarlyRefusal:
    """Of the requests that ``admission`` counts."""

    def __init__(self, admission: Admission, metrics: Metrics, *, logs: bool) -> None:
        self._admission = admission
        self._metrics = metrics
        self._logs = logs

    def answer(
        self, method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> tuple[bytes, bytes] | None:
        """Header lines and body of the refusal of a search; None where it has a place, or is
        something else. What is refused is counted, and noted in the log if that is wanted.
        """
        error = self._admission.refusal
        if error is None or method != b"POST":
            return None
        path = url.partition(b"?")[0]
        if not path.endswith(b"/search") or any(name in _MORE_TO_SAY for name, _ in headers):
            return None
        request_id = request_id_of(headers)
        self._note(path, error.status, request_id)
        lines, body = _said(error.message)
        return b"%b%b: %b\r\n" % (lines, HEADER, request_id), body

    def _note(self, path: bytes, status: int, request_id: bytes) -> None:
        known = path[max(0, path.find(b"/v1/")) :]  # without what a proxy put before it
        route = template_of(known.decode("latin-1")) or OTHER
        self._metrics.request(route, _POST, status, 0.0)
        if self._logs:
            before = REQUEST_ID.set(request_id.decode())
            note_request(route, _POST, status, 0.0, None)
            REQUEST_ID.reset(before)


@lru_cache(1)
def _said(message: str) -> tuple[bytes, bytes]:
    """It names how many are in progress, which are all that may be."""
    answer = problem_of(Overloaded(message))
    answer.headers.update(SECURITY_HEADERS)
    lines = (b"%b: %b\r\n" % pair for pair in answer.raw_headers)
    return b"".join(lines), bytes(answer.body)
