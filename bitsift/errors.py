"""Every error that Bitsift raises on purpose, as one tree. Each class says who must act and what
became of the request, unless the error itself says otherwise (``with_outcome``).

    BitsiftError                                                  (HTTP 500)             unknown
    ├─ InvalidRequest        the caller must change the request   (422, never retried)   not done
    │  ├─ RequestTooLarge    the caller must send less            (413)                  not done
    │  └─ UnsupportedMediaType  another content type or encoding  (415)                  not done
    ├─ Unauthorized          the caller must present a key        (401)                  not done
    ├─ Forbidden             the caller's key does not allow it   (403)                  not done
    ├─ NotFound              there is no such thing               (404)                  not done
    ├─ Conflict              the condition of a write does not hold (409)               not done
    │  └─ PreconditionFailed  the same of a header                (412)                  not done
    ├─ Overloaded            the caller must slow down            (429 + Retry-After)    not done
    ├─ StorageFull           the operator must add disk           (507; reads go on)     not done
    ├─ Unavailable           try again later                      (503 + Retry-After)    not done
    │  ├─ ShardUnavailable   degrades coverage; raised only with require_complete        unknown
    │  ├─ Fenced            a newer replica table is in force: its holder writes        not done
    │  ├─ ReplicaBehind     it has not applied the write that the read must see         not done
    │  ├─ WritesStopped     the operator must check the disk; reads go on               unknown
    │  └─ DeadlineExceeded   the answer did not come in time      (504 + Retry-After)    unknown
    └─ Corrupt               our own data contradicts itself      (500)                  unknown
       ├─ FormatMismatch     another format version, index or model                      not done
       └─ ChecksumMismatch   bytes are not the bytes that were written                   unknown

Unknown is the default wherever the error can come after something was sent or written: code that
knows better says so. StorageFull is raised before the commit. WritesStopped may come from the very
write that the disk failed, whose bytes may still be there after a restart. Corrupt data may be
found when a request is half done.

Every class takes one positional message and nothing else, so all of them survive pickling
across Ray processes, together with their outcome. Messages are lowercase and carry the numbers a
reader needs to act.
"""

from __future__ import annotations

import copy
from enum import StrEnum
from typing import ClassVar, Self

REASON_CHARACTERS_MAX = 300


class RequestOutcome(StrEnum):
    """What became of the request that an error answers. Reads change nothing: it matters to writes.

    A write of unknown outcome must not be repeated blindly: it may have been done, and a second
    copy would undo what others have written since.
    """

    NOT_DONE = "not_done"
    """Nothing was changed, and nothing will be."""
    UNKNOWN = "unknown"
    """All, some or nothing of it was done, or still will be."""
    DONE = "done"
    """All of it was done, durably; the failure came afterwards."""


class BitsiftError(Exception):
    """Root of the tree. ``status`` is the HTTP status the gateway answers with.

    ``outcome`` is what became of the request. ``retry_after_s`` is how long to wait before the same
    request may succeed without anyone acting; None: it is not expected to.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "internal error"
    outcome: RequestOutcome = RequestOutcome.UNKNOWN
    retry_after_s: float | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)

    @property
    def message(self) -> str:
        return str(self.args[0])

    def with_outcome(self, outcome: RequestOutcome) -> Self:
        """A copy with ``outcome``; the original, which other callers may share, is unchanged."""
        error = copy.copy(self)
        error.outcome = outcome
        return error


def said_by(error: BaseException) -> str:
    """The message of an error of ours; the ``reason`` of any other."""
    return error.message if isinstance(error, BitsiftError) else reason(error)


def reason(error: BaseException) -> str:
    """The class of any exception and the first line that it says, if it says anything.

    At most 300 characters on one line, whatever the exception: some have no message
    (``MemoryError()``), some contain a whole traceback, and some fail when converted to a string.
    """
    name = type(error).__name__
    try:
        lines = str(error).splitlines()
    except Exception:  # __str__ of a class that was not initialized, or unpickled halfway
        return name
    said = next((line.strip() for line in lines if line.strip()), "")
    return f"{name}: {said}"[:REASON_CHARACTERS_MAX] if said else name


class InvalidRequest(BitsiftError):
    """The caller must change the request; retrying it unchanged cannot help."""

    status = 422
    title = "invalid request"
    outcome = RequestOutcome.NOT_DONE


class RequestTooLarge(InvalidRequest):
    """The caller must send less in one request."""

    status = 413
    title = "request too large"
    outcome = RequestOutcome.NOT_DONE


class UnsupportedMediaType(InvalidRequest):
    """The caller must send another content type, or no content encoding."""

    status = 415
    title = "unsupported media type"
    outcome = RequestOutcome.NOT_DONE


class Unauthorized(BitsiftError):
    """The caller must present a valid key."""

    status = 401
    title = "unauthorized"
    outcome = RequestOutcome.NOT_DONE


class Forbidden(BitsiftError):
    """The caller's key does not allow this operation."""

    status = 403
    title = "forbidden"
    outcome = RequestOutcome.NOT_DONE


class NotFound(BitsiftError):
    """There is no such document, index or route."""

    status = 404
    title = "not found"
    outcome = RequestOutcome.NOT_DONE


class Conflict(BitsiftError):
    """The condition of a write does not hold; the caller must read what is there now."""

    status = 409
    title = "conflict"
    outcome = RequestOutcome.NOT_DONE


class PreconditionFailed(Conflict):
    """The same where a header has the condition."""

    status = 412
    title = "precondition failed"
    outcome = RequestOutcome.NOT_DONE


class Overloaded(BitsiftError):
    """The caller must slow down and try again."""

    status = 429
    title = "overloaded"
    outcome = RequestOutcome.NOT_DONE
    retry_after_s: float | None = 1.0


class StorageFull(BitsiftError):
    """The operator must add disk; reads go on."""

    status = 507
    title = "storage full"
    outcome = RequestOutcome.NOT_DONE


class Unavailable(BitsiftError):
    """Something is starting, stopping or broken; try again later."""

    status = 503
    title = "unavailable"
    outcome = RequestOutcome.NOT_DONE
    retry_after_s: float | None = 1.0


class ShardUnavailable(Unavailable):
    """One or more shards did not answer; degrades coverage unless completeness was required."""

    title = "shard unavailable"
    outcome = RequestOutcome.UNKNOWN


class Fenced(Unavailable):
    """The sender's replica table has been replaced: whoever has the newer one writes."""

    title = "fenced"
    outcome = RequestOutcome.NOT_DONE


class ReplicaBehind(Unavailable):
    """A replica has not applied the write that a read must see (bitsift/write_token.py)."""

    title = "replica behind"
    outcome = RequestOutcome.NOT_DONE


class WritesStopped(Unavailable):
    """A shard refuses writes because its disk failed one; the operator must check the disk."""

    title = "writes stopped"
    outcome = RequestOutcome.UNKNOWN
    retry_after_s = None


class DeadlineExceeded(Unavailable):
    """The answer did not come before the request's deadline."""

    status = 504
    title = "deadline exceeded"
    outcome = RequestOutcome.UNKNOWN


class Corrupt(BitsiftError):
    """Our own data contradicts itself; the operator must verify or restore the named file."""

    title = "corrupt data"
    outcome = RequestOutcome.UNKNOWN


class FormatMismatch(Corrupt):
    """The directory belongs to another format version, another index or another model."""

    title = "format mismatch"
    outcome = RequestOutcome.NOT_DONE


class ChecksumMismatch(Corrupt):
    """Bytes on disk are not the bytes that were written."""

    title = "checksum mismatch"
    outcome = RequestOutcome.UNKNOWN
