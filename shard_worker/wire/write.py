"""Operations, and what became of them, as messages between writer and shard (parts.py)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from bitsift.errors import BitsiftError
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.operations import (
    Confirm,
    Delete,
    Documents,
    Insert,
    Operation,
    Outcome,
    Resume,
    Statuses,
    Upsert,
    has_conditions,
    versions_of,
)
from bitsift.shard_worker.wire.frames import UNSTAMPED, Kind, Stamp, body_of, framed, head_of
from bitsift.shard_worker.wire.structures import ErrorPart, Part, encode, error_of, error_part, raw
from bitsift.write_status import WriteStatus


class _DocumentsPart(Part, frozen=True, array_like=True, gc=False):
    """Documents to store, column by column; ``codes`` is int8 (n, width)."""

    ids: list[str]
    titles: list[str]
    texts: list[str]
    metadata: list[str]
    positions: list[int]
    codes: bytes
    version: int = NO_VERSION


class UpsertPart(_DocumentsPart, frozen=True, array_like=True, gc=False, tag="upsert"):
    """Documents that take the place of those that have their ids."""


class InsertPart(_DocumentsPart, frozen=True, array_like=True, gc=False, tag="insert"):
    """Documents whose ids must be free."""


class UpsertIfPart(_DocumentsPart, frozen=True, array_like=True, gc=False, tag="upsert if"):
    """The same with a condition for each: a shard of an earlier release must not pass it over."""

    expected: tuple[int | None, ...] = ()


class DeleteIfPart(Part, frozen=True, array_like=True, gc=False, tag="delete if"):
    """Ids to delete, each with a condition."""

    ids: list[str]
    version: int
    expected: list[int | None]


class DeletePart(Part, frozen=True, array_like=True, gc=False, tag="delete"):
    """Ids to delete."""

    ids: list[str]
    version: int = NO_VERSION


class ConfirmPart(Part, frozen=True, array_like=True, gc=False, tag="confirm"):
    """Ids, and the digests of the contents that they are believed to have."""

    ids: list[str]
    digests: list[bytes]
    version: int = NO_VERSION


class ResumePart(Part, frozen=True, array_like=True, gc=False, tag="resume"):
    """Ids, and the positions of the records that may have been stored under them."""

    ids: list[str]
    positions: list[int]
    version: int = NO_VERSION


class StatusesPart(Part, frozen=True, array_like=True, gc=False, tag="statuses"):
    """What became of one operation, document by document, and the versions that are there then."""

    statuses: list[WriteStatus]
    versions: tuple[int, ...] = ()


OperationPart = (
    UpsertIfPart | DeleteIfPart | UpsertPart | InsertPart | DeletePart | ConfirmPart | ResumePart
)
_operations = msgspec.msgpack.Decoder(list[OperationPart])
_outcomes = msgspec.msgpack.Decoder(list[StatusesPart | ErrorPart])


def pack_writes(
    operations: Sequence[Operation], stamp: Stamp = UNSTAMPED, kind: Kind = Kind.WRITES
) -> bytes:
    """``operations`` for one shard: to be done, or with ``Kind.HINTS`` to be foreseen."""
    return framed(kind, encode([_part(operation) for operation in operations]), stamp=stamp)


def _part(operation: Operation) -> OperationPart:
    match operation:
        case Delete(ids, version, expected):
            if has_conditions(operation):
                return DeleteIfPart(list(ids), version, list(expected))
            return DeletePart(list(ids), version)
        case Confirm(ids, digests, version):
            return ConfirmPart(list(ids), list(digests), version)
        case Resume(ids, positions, version):
            return ResumePart(list(ids), [int(position) for position in positions], version)
        case Upsert() if has_conditions(operation):
            return UpsertIfPart(*_columns(operation), tuple(operation.expected))
        case Upsert():
            return UpsertPart(*_columns(operation))
        case Insert():
            return InsertPart(*_columns(operation))


def _columns(
    documents: Documents,
) -> tuple[list[str], list[str], list[str], list[str], list[int], bytes, int]:
    d = documents
    positions = [int(position) for position in d.positions]
    codes = raw(np.ascontiguousarray(d.codes))
    texts = list(d.ids), list(d.titles), list(d.texts), list(d.metadata)
    return *texts, positions, codes, d.version


def unpack_writes(data: bytes, kind: Kind = Kind.WRITES) -> list[Operation]:
    """What ``pack_writes`` was given. Raises FormatMismatch, Corrupt."""
    head_of(data, kind)
    return [_operation(part) for part in body_of(data, _operations)]


def _operation(part: OperationPart) -> Operation:
    match part:
        case DeletePart():
            return Delete(part.ids, part.version)
        case DeleteIfPart():
            return Delete(part.ids, part.version, part.expected)
        case ConfirmPart():
            return Confirm(part.ids, part.digests, part.version)
        case ResumePart():
            return Resume(part.ids, part.positions, part.version)
        case UpsertPart() | InsertPart() | UpsertIfPart():
            p = part
            codes = np.frombuffer(p.codes, np.int8).reshape(len(p.ids), -1 if p.ids else 0)
            columns = p.ids, p.titles, p.texts, p.metadata, p.positions, codes, p.version
            if isinstance(part, InsertPart):
                return Insert(*columns)
            return Upsert(*columns, part.expected if isinstance(part, UpsertIfPart) else ())


def pack_outcomes(outcomes: Sequence[Outcome], stamp: Stamp = UNSTAMPED) -> bytes:
    """The statuses of each operation, or why it failed."""
    parts = [
        error_part(one)
        if isinstance(one, BitsiftError)
        else StatusesPart(one, tuple(versions_of(one)))
        for one in outcomes
    ]
    return framed(Kind.OUTCOMES, encode(parts), stamp=stamp)


def unpack_outcomes(data: bytes) -> list[Outcome]:
    """What ``pack_outcomes`` was given. Raises FormatMismatch, Corrupt."""
    head_of(data, Kind.OUTCOMES)
    return [
        error_of(part) if isinstance(part, ErrorPart) else Statuses(part.statuses, part.versions)
        for part in body_of(data, _outcomes)
    ]
