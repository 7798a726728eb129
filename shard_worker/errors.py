"""Every error Bitsift raises on purpose, as one tree; each class says who must act.

    BitsiftError
    ├─ InvalidRequest        the caller must change the request   (HTTP 422, never retried)
    ├─ Unauthorized          the caller must present a key        (401)
    ├─ Forbidden             the caller's key does not allow it   (403)
    ├─ NotFound              there is no such thing               (404)
    ├─ Overloaded            the caller must slow down            (429 + Retry-After)
    ├─ StorageFull           the operator must add disk           (507; reads go on)
    ├─ Unavailable           try again later                      (503)
    │  ├─ ShardUnavailable   degrades coverage; raised only with require_complete
    │  ├─ WritesStopped      the operator must see to the disk; reads go on
    │  └─ DeadlineExceeded   the answer did not come in time      (504)
    └─ Corrupt               our own data contradicts itself      (500)
       ├─ FormatMismatch     another format version, index or model
       └─ ChecksumMismatch   bytes are not the bytes that were written

Every class takes one positional message and nothing else, so all of them survive pickling
across Ray processes. Messages are lowercase and carry the numbers a reader needs to act.
"""

from __future__ import annotations

from typing import ClassVar


class BitsiftError(Exception):
    """Root of the tree. ``status`` is the HTTP status the gateway answers with."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "internal error"

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        return str(self.args[0])


class InvalidRequest(BitsiftError):
    """The caller must change the request; retrying it unchanged cannot help."""

    status = 422
    title = "invalid request"


class Unauthorized(BitsiftError):
    """The caller must present a valid key."""

    status = 401
    title = "unauthorized"


class Forbidden(BitsiftError):
    """The caller's key does not allow this operation."""

    status = 403
    title = "forbidden"


class NotFound(BitsiftError):
    """There is no such document, index or route."""

    status = 404
    title = "not found"


class Overloaded(BitsiftError):
    """The caller must slow down and try again."""

    status = 429
    title = "overloaded"


class StorageFull(BitsiftError):
    """The operator must add disk; reads go on."""

    status = 507
    title = "storage full"


class Unavailable(BitsiftError):
    """Something is starting, stopping or broken; try again later."""

    status = 503
    title = "unavailable"


class ShardUnavailable(Unavailable):
    """One or more shards did not answer; degrades coverage unless completeness was required."""

    title = "shard unavailable"


class WritesStopped(Unavailable):
    """A shard takes no writes since its disk failed one; the operator must see to the disk."""

    title = "writes stopped"


class DeadlineExceeded(Unavailable):
    """The answer did not come before the request's deadline."""

    status = 504
    title = "deadline exceeded"


class Corrupt(BitsiftError):
    """Our own data contradicts itself; the operator must verify or restore the named file."""

    title = "corrupt data"


class FormatMismatch(Corrupt):
    """The directory belongs to another format version, another index or another model."""

    title = "format mismatch"


class ChecksumMismatch(Corrupt):
    """Bytes on disk are not the bytes that were written."""

    title = "checksum mismatch"
