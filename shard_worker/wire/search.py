"""Queries, candidates and documents as messages between router and shard.

A batch is a few arrays, not many small objects (parts.py). benchmarks/wire.py compares it with
pickle.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError
from bitsift.options import SearchOptions
from bitsift.shard_worker.deadline import arrived
from bitsift.shard_worker.types import (
    Candidates,
    Document,
    FilterPlan,
    Found,
    Origin,
    Plan,
    Query,
    Read,
    ShardStatus,
    Unread,
    Wanted,
    spare_hits,
)
from bitsift.shard_worker.wire.frames import UNSTAMPED, Kind, Stamp, body_of, framed, head_of
from bitsift.shard_worker.wire.structures import (
    DocumentPart,
    ErrorPart,
    Part,
    document_of,
    document_part,
    encode,
    error_of,
    error_part,
    raw,
    unpack_fact,
)

# --- queries -------------------------------------------------------------------------------------

_OPTIONS = tuple(field for field in fields(SearchOptions) if field.name != "vector")
_values_of = operator.attrgetter(*(field.name for field in _OPTIONS))
_hints = get_type_hints(SearchOptions)
OptionsPart: Any = msgspec.defstruct(
    "OptionsPart",
    [(field.name, _hints[field.name], field.default) for field in _OPTIONS],
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    gc=False,
)
"""SearchOptions without the vector, by name; what has its default is not sent. So a new option
needs no new version: a shard that does not know it refuses the messages that use it, no others."""


class QueryPart(Part, frozen=True, array_like=True, gc=False):
    """One query, whose vector lies with the others."""

    left_s: float
    documents_bytes_max: int
    options: OptionsPart
    documents_max: int | None = None


class QueriesPart(Part, frozen=True, array_like=True, gc=False):
    """Queries with vectors of one width: ``vectors`` is float32 (n, width)."""

    queries: list[QueryPart]
    vectors: bytes


_queries = msgspec.msgpack.Decoder(QueriesPart)


MESSAGE_S = 0.005
"""For so long a message is sent as it is. Where clocks are not shared it gives that much more time
than there is (deadline.py)."""


def pack_queries(queries: Sequence[Query], stamp: Stamp = UNSTAMPED) -> bytes:
    """``queries``, at least one, all of one width, each with the time that it has left."""
    message = queries[0].message
    if message is None or len(queries) > 1 or stamp is not UNSTAMPED:
        return _packed(queries, stamp)
    now_s = time.monotonic()
    if now_s - message.packed_s > MESSAGE_S:
        message.packed, message.packed_s = _packed(queries, stamp), now_s
    return message.packed


def _packed(queries: Sequence[Query], stamp: Stamp) -> bytes:
    parts = [
        QueryPart(
            query.deadline.remaining_s(),
            query.documents_bytes_max,
            OptionsPart(*_values_of(query.options)),
            query.documents_max,
        )
        for query in queries
    ]
    vectors = raw(np.concatenate([query.vector for query in queries]))
    left_s = max(part.left_s for part in parts)
    return framed(Kind.QUERIES, encode(QueriesPart(parts, vectors)), left_s, stamp)


def unpack_queries(data: bytes) -> list[Query]:
    """What ``pack_queries`` was given; their deadlines are of this process's clock."""
    head = head_of(data, Kind.QUERIES)
    body = body_of(data, _queries)
    vectors = np.frombuffer(body.vectors, np.float32).reshape(len(body.queries), -1)
    return [
        Query(
            _options_of(part.options, vector),
            part.documents_bytes_max,
            arrived(part.left_s, head.sent),
            part.documents_max,
        )
        for part, vector in zip(body.queries, vectors, strict=True)
    ]


def _options_of(part: OptionsPart, vector: NDArray[np.float32]) -> SearchOptions:
    """They were checked before they were sent: to call the constructor takes twice as long."""
    options = object.__new__(SearchOptions)
    options.__dict__.update(msgspec.structs.asdict(part), vector=vector)
    return options


# --- candidates ----------------------------------------------------------------------------------


class PlanPart(Part, frozen=True, array_like=True, gc=False):
    """A FilterPlan."""

    kind: str
    matching: int
    least: int | None = None


class AnswerPart(Part, frozen=True, array_like=True, gc=False, tag="answer"):
    """The candidates of one query, but for their columns."""

    shard: int
    replica: int
    generation: int
    count: int
    corrupt: int
    documents: dict[int, DocumentPart]
    plan: PlanPart | None = None
    rows_there: int | None = None


class CandidatesPart(Part, frozen=True, array_like=True, gc=False):
    """Answers in order, and the columns of all of them, one behind the other."""

    answers: list[AnswerPart | ErrorPart]
    columns: list[bytes]


_candidates = msgspec.msgpack.Decoder(CandidatesPart)
_COLUMNS = {
    "rows": np.int64,
    "distances": np.int32,
    "hamming_ranks": np.int32,
    "estimates": np.float32,
    "scores": np.float32,
}
"""The columns of Candidates that are sent, and their types."""
_PLANS = frozenset(Plan)


def pack_candidates(
    answers: Sequence[Candidates | BitsiftError], stamp: Stamp = UNSTAMPED
) -> bytes:
    """``answers`` of one shard without their codes, and errors in the place of those that failed.

    The router orders by the scores: 40 codes of 1,024 dimensions are forty times their size.
    """
    good = [answer for answer in answers if isinstance(answer, Candidates)]
    columns = [_column([getattr(answer, name) for answer in good]) for name in _COLUMNS]
    parts = [
        error_part(answer)
        if isinstance(answer, BitsiftError)
        else AnswerPart(
            answer.shard,
            answer.origin.replica,
            answer.origin.generation,
            len(answer),
            answer.corrupt,
            {row: document_part(document) for row, document in answer.documents.items()},
            _plan_part(answer.plan),
            answer.rows_there,
        )
        for answer in answers
    ]
    return framed(Kind.CANDIDATES, encode(CandidatesPart(parts, columns)), stamp=stamp)


def pack_answers(
    queries: Sequence[Query], answers: Sequence[Candidates | BitsiftError], stamp: Stamp
) -> bytes:
    """The same of what answers ``queries``: without rows that can be no hits, unless these are to
    be explained.
    """
    pairs = zip(queries, answers, strict=True)
    return pack_candidates([_likely(query, answer) for query, answer in pairs], stamp)


def _likely(query: Query, answer: Candidates | BitsiftError) -> Candidates | BitsiftError:
    if query.options.explain or isinstance(answer, BitsiftError):
        return answer
    return answer.leading(spare_hits(query.options.depth))


def _plan_part(plan: FilterPlan | None) -> PlanPart | None:
    return None if plan is None else PlanPart(plan.kind.value, plan.matching, plan.least)


def _plan_of(part: PlanPart | None) -> FilterPlan | None:
    """None too for a way that is not known here: it explains, and decides nothing."""
    if part is None or part.kind not in _PLANS:
        return None
    return FilterPlan(Plan(part.kind), part.matching, part.least)


def _column(parts: Sequence[NDArray[Any]]) -> bytes:
    return raw(np.concatenate(parts)) if parts else b""


def unpack_candidates(data: bytes) -> list[Candidates | BitsiftError]:
    """What ``pack_candidates`` was given, as views of the same memory."""
    head_of(data, Kind.CANDIDATES)
    body = body_of(data, _candidates)
    columns = [
        np.frombuffer(column, kind)
        for column, kind in zip(body.columns, _COLUMNS.values(), strict=True)
    ]
    found: list[Candidates | BitsiftError] = []
    end = 0
    for part in body.answers:
        if isinstance(part, ErrorPart):
            found.append(error_of(part))
            continue
        start, end = end, end + part.count
        rows, distances, hamming_ranks, estimates, scores = (c[start:end] for c in columns)
        documents = {row: document_of(document) for row, document in part.documents.items()}
        codes = np.empty((part.count, 0), dtype=np.int8)
        found.append(
            Candidates(
                part.shard, Origin(part.replica, part.generation), rows, distances, hamming_ranks,
                estimates, scores, codes, part.corrupt, documents, _plan_of(part.plan),
                part.rows_there,
            )
        )  # fmt: skip
    return found


# --- documents -----------------------------------------------------------------------------------


class ReadPart(Part, frozen=True, array_like=True, gc=False):
    """A Read."""

    left_s: float
    replica: int
    generation: int
    rows: list[int]
    fields: list[str]
    bytes_max: int


class UnreadPart(Part, frozen=True, array_like=True, gc=False, tag="unread"):
    """An Unread."""

    size_bytes: int


class FoundPart(Part, frozen=True, array_like=True, gc=False, tag="found"):
    """What one read found, in order."""

    items: list[DocumentPart | UnreadPart | ErrorPart]


_reads = msgspec.msgpack.Decoder(list[ReadPart])
_found = msgspec.msgpack.Decoder(list[FoundPart | ErrorPart])


def pack_reads(reads: Sequence[Read], stamp: Stamp = UNSTAMPED) -> bytes:
    """``reads``, at least one, each with the time that it has left."""
    parts = [
        ReadPart(
            read.deadline.remaining_s(),
            read.origin.replica,
            read.origin.generation,
            list(read.rows),
            list(read.wanted.fields),
            read.wanted.bytes_max,
        )
        for read in reads
    ]
    return framed(Kind.READS, encode(parts), max(part.left_s for part in parts), stamp)


def unpack_reads(data: bytes) -> list[Read]:
    """What ``pack_reads`` was given; their deadlines are of this process's clock."""
    head = head_of(data, Kind.READS)
    return [
        Read(
            Origin(part.replica, part.generation),
            part.rows,
            Wanted(frozenset(part.fields), part.bytes_max),
            arrived(part.left_s, head.sent),
        )
        for part in body_of(data, _reads)
    ]


def pack_documents(
    found: Sequence[Sequence[Found] | BitsiftError], stamp: Stamp = UNSTAMPED
) -> bytes:
    """For each read its documents, or why it failed."""
    parts = [
        error_part(one) if isinstance(one, BitsiftError) else FoundPart([_part(i) for i in one])
        for one in found
    ]
    return framed(Kind.DOCUMENTS, encode(parts), stamp=stamp)


def _part(item: Found) -> DocumentPart | UnreadPart | ErrorPart:
    if isinstance(item, Document):
        return document_part(item)
    return UnreadPart(item.size_bytes) if isinstance(item, Unread) else error_part(item)


def unpack_documents(data: bytes) -> list[list[Found] | BitsiftError]:
    """What ``pack_documents`` was given."""
    head_of(data, Kind.DOCUMENTS)
    return [
        error_of(part) if isinstance(part, ErrorPart) else [_item(item) for item in part.items]
        for part in body_of(data, _found)
    ]


def _item(part: DocumentPart | UnreadPart | ErrorPart) -> Found:
    if isinstance(part, DocumentPart):
        return document_of(part)
    return Unread(part.size_bytes) if isinstance(part, UnreadPart) else error_of(part)


def statuses_of(packed: Sequence[bytes]) -> list[ShardStatus]:
    """What each of several shards says of itself."""
    return [unpack_fact(one, ShardStatus) for one in packed]
