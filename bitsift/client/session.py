"""What a client remembers of its own writes, so that its later reads see them."""

from __future__ import annotations

import dataclasses
import threading

from bitsift.options import SearchRequest
from bitsift.write_results import Deletes, Updated, Updates, Upserts
from bitsift.write_token import joined_text


class Session:
    """The token of all writes of one client. Any number of threads."""

    def __init__(self, *, remembers: bool) -> None:
        """Without ``remembers`` only the tokens that a caller gives are sent."""
        self._remembers = remembers
        self._lock = threading.Lock()
        self.token: str | None = None

    def note(self, answer: object) -> None:
        """Take the token of the answer to a write; any other has none."""
        if self._remembers and isinstance(answer, Upserts | Deletes | Updated | Updates):
            with self._lock:
                self.token = joined_text([self.token, answer.token])

    def least(self, given: str | None) -> str | None:
        """The token for a read: what its caller gives goes before what is remembered."""
        return self.token if given is None else given

    def asked(self, request: SearchRequest) -> SearchRequest:
        """``request`` as it is sent."""
        token = self.least(request.read_your_writes)
        if token == request.read_your_writes:
            return request
        return dataclasses.replace(request, read_your_writes=token)
