"""What became of writes, document by document. Frozen; no I/O, no libraries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class WriteStatus(StrEnum):
    """What became of one document, or of one id to delete.

    ``rejected``: the caller must change it. ``failed``: its shard, or the model, could not do it
    now; whether it was stored is unknown, and sending it again is safe.
    """

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    """It changed nothing: this very content was there, or a later document of the same call has
    this id and counts instead."""
    DELETED = "deleted"
    MISSING = "missing"
    REJECTED = "rejected"
    FAILED = "failed"


UPSERT_STATUSES = ("created", "updated", "unchanged", "rejected", "failed")
DELETE_STATUSES = ("deleted", "missing", "failed")


@dataclass(frozen=True, slots=True)
class WriteError:
    """Why: ``type`` is the class of the error, as in a problem document."""

    type: str
    detail: str


@dataclass(frozen=True, slots=True)
class WriteResult:
    """``id`` is None where the document has none that could be one."""

    id: str | None
    status: WriteStatus
    error: WriteError | None = None


@dataclass(frozen=True, slots=True)
class Upserts:
    """One result per document, in order, and how many there are of each kind."""

    results: tuple[WriteResult, ...]
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Deletes:
    """One result per id, in order, and how many there are of each kind."""

    results: tuple[WriteResult, ...]
    deleted: int = 0
    missing: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as it is stored, and in which shard."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any]
    shard: int
