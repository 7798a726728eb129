"""Listings and what was listed, as messages between router and shard."""

from __future__ import annotations

import msgspec

from bitsift.shard_worker.deadline import arrived
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.shard_worker.types import Wanted
from bitsift.shard_worker.wire.frames import UNSTAMPED, Kind, Stamp, body_of, framed, head_of
from bitsift.shard_worker.wire.structures import (
    DocumentPart,
    Part,
    document_of,
    document_part,
    encode,
)
from bitsift.write_token import Reached


class ListingPart(Part, frozen=True, array_like=True, gc=False):
    """A Listing; ``least`` as its two numbers."""

    filter: str | None
    after: int
    limit: int
    fields: list[str]
    bytes_max: int
    term: int
    version: int


class ListedPart(Part, frozen=True, array_like=True, gc=False):
    """A Listed."""

    matching: int
    keys: list[int]
    documents: list[DocumentPart]
    upto: int


_listing = msgspec.msgpack.Decoder(ListingPart)
_listed = msgspec.msgpack.Decoder(ListedPart)


def pack_listing(listing: Listing, stamp: Stamp = UNSTAMPED) -> bytes:
    """``listing`` with the time that it has left."""
    wanted, least = listing.wanted, listing.least
    part = ListingPart(
        listing.filter,
        listing.after,
        listing.limit,
        sorted(wanted.fields),
        wanted.bytes_max,
        least.term,
        least.version,
    )
    return framed(Kind.LISTING, encode(part), listing.deadline.remaining_s(), stamp)


def unpack_listing(data: bytes) -> Listing:
    """What ``pack_listing`` was given; its deadline is of this process's clock."""
    head, part = head_of(data, Kind.LISTING), body_of(data, _listing)
    return Listing(
        part.filter,
        part.after,
        part.limit,
        Wanted(frozenset(part.fields), part.bytes_max),
        Reached(part.term, part.version),
        arrived(head.left_s, head.sent),
    )


def pack_listed(listed: Listed, stamp: Stamp = UNSTAMPED) -> bytes:
    """What was listed."""
    documents = [document_part(document) for document in listed.documents]
    part = ListedPart(listed.matching, list(listed.keys), documents, listed.upto)
    return framed(Kind.LISTED, encode(part), stamp=stamp)


def unpack_listed(data: bytes) -> Listed:
    """What ``pack_listed`` was given."""
    head_of(data, Kind.LISTED)
    part = body_of(data, _listed)
    documents = [document_of(document) for document in part.documents]
    return Listed(part.matching, part.keys, documents, part.upto)
