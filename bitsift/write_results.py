"""What became of writes, document by document. Frozen; no I/O, no libraries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitsift.errors import BitsiftError, RequestOutcome
from bitsift.results import Vector
from bitsift.write_status import WriteStatus

_DELETE = (WriteStatus.DELETED, WriteStatus.MISSING, WriteStatus.CONFLICT, WriteStatus.FAILED)
DELETE_STATUSES = tuple(status.value for status in _DELETE)
_INTERNAL = (*_DELETE[:2], WriteStatus.SUPERSEDED)
_UPDATE = (WriteStatus.UPDATED, WriteStatus.UNCHANGED, WriteStatus.MISSING, WriteStatus.CONFLICT)
UPDATE_STATUSES = (*(status.value for status in _UPDATE), "rejected", "failed")
UPSERT_STATUSES = tuple(status.value for status in WriteStatus if status not in _INTERNAL)
"""What each kind of call counts, in the order of its answer."""


@dataclass(frozen=True, slots=True)
class WriteError:
    """Why: ``type`` is the class of the error, as in a problem document.

    ``outcome`` says what became of the document. ``not_done``: it was not written and may be sent
    again. ``unknown``: it may have been written, or may still be; sending it again is safe unless
    somebody else writes the same id.
    """

    type: str
    detail: str
    outcome: RequestOutcome = RequestOutcome.UNKNOWN

    @classmethod
    def of(cls, error: BitsiftError) -> WriteError:
        return cls(type(error).__name__, error.message, error.outcome)


@dataclass(frozen=True, slots=True)
class WriteResult:
    """``id`` is None if the document has no valid one. ``version`` is that of the document which is
    there now: after ``conflict`` always (None: there is none), and after ``created`` and
    ``updated``; ``unchanged`` says it where the write had a condition.
    """

    id: str | None
    status: WriteStatus
    error: WriteError | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Upserts:
    """One result per document, in order, and how many there are of each kind.

    ``token`` has a later read see them: pass it as ``read_your_writes``. None where nothing was
    acknowledged.
    """

    results: tuple[WriteResult, ...]
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    conflict: int = 0
    rejected: int = 0
    failed: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Deletes:
    """One result per id, in order, and how many there are of each kind; ``token`` as above."""

    results: tuple[WriteResult, ...]
    deleted: int = 0
    missing: int = 0
    conflict: int = 0
    failed: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class DeletedPage(Deletes):
    """The same of some of the documents that a filter names; ``cursor`` leads to the rest, None
    where nothing is left.
    """

    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Updated:
    """What became of the metadata of one document, and the version that it is then."""

    id: str
    status: WriteStatus
    version: str | None
    token: str | None


@dataclass(frozen=True, slots=True)
class Updates:
    """One result for each document whose metadata was to be changed, in order, and how many there
    are of each kind; ``token`` as above.
    """

    results: tuple[WriteResult, ...]
    updated: int = 0
    unchanged: int = 0
    missing: int = 0
    conflict: int = 0
    rejected: int = 0
    failed: int = 0
    token: str | None = None


@dataclass(frozen=True, slots=True)
class UpdatedPage(Updates):
    """The same of some of the documents that a filter names: ``count`` passed it in all, when the
    call began. ``cursor`` leads to the rest, None where nothing is left.
    """

    cursor: str | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is stored, and in which shard.

    ``vector`` is there where it was asked for, decoded from the int8 code. ``version`` changes
    whenever the document is written; None where a store in format 1 keeps none.
    """

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    shard: int
    vector: Vector | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class StoredDocuments:
    """Those of the documents asked for that there are, in the order asked for, and the ids of
    those that are ``missing``.
    """

    documents: tuple[StoredDocument, ...]
    missing: tuple[str, ...]
