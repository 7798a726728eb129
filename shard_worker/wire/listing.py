"""Listings and what was listed, as messages between router and shard."""

from __future__ import annotations

import msgspec

from bitsift.filters.dates import Date
from bitsift.shard_worker.deadline import arrived
from bitsift.shard_worker.search.facets import ValueCounts
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
from bitsift.sorting import SortKey
from bitsift.write_token import Reached

PlacePart = tuple[int, bool | int | float | bytes] | None
"""Where a value stands in an order (bitsift/sorting.py); None where there is none."""


class ListingPart(Part, frozen=True, array_like=True, gc=False):
    """A Listing; ``least`` as its two numbers."""

    filter: str | None
    after: int
    limit: int
    fields: list[str]
    bytes_max: int
    term: int
    version: int
    facets: list[str] = msgspec.field(default_factory=list)
    sort: list[tuple[str, bool]] = msgspec.field(default_factory=list)
    behind: list[PlacePart] | None = None


class FacetPart(Part, frozen=True, array_like=True, gc=False):
    """A ValueCounts: a date is a list with its instant."""

    values: list[str | int | float | bool | list[int]]
    counts: list[int]
    is_exact: bool


class ListedPart(Part, frozen=True, array_like=True, gc=False):
    """A Listed."""

    matching: int
    keys: list[int]
    documents: list[DocumentPart]
    upto: int
    facets: list[FacetPart] = msgspec.field(default_factory=list)
    places: list[list[PlacePart]] = msgspec.field(default_factory=list)
    upto_places: list[PlacePart] | None = None


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
        list(listing.facets),
        [(key.path, key.descending) for key in listing.sort],
        None if listing.behind is None else list(listing.behind),
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
        part.facets,
        [SortKey(path, descending) for path, descending in part.sort],
        None if part.behind is None else tuple(part.behind),
    )


def pack_listed(listed: Listed, stamp: Stamp = UNSTAMPED) -> bytes:
    """What was listed."""
    documents = [document_part(document) for document in listed.documents]
    facets = [_facet_part(counts) for counts in listed.facets]
    part = ListedPart(
        listed.matching,
        list(listed.keys),
        documents,
        listed.upto,
        facets,
        [list(places) for places in listed.places],
        None if listed.upto_places is None else list(listed.upto_places),
    )
    return framed(Kind.LISTED, encode(part), stamp=stamp)


def unpack_listed(data: bytes) -> Listed:
    """What ``pack_listed`` was given."""
    head_of(data, Kind.LISTED)
    part = body_of(data, _listed)
    documents = [document_of(document) for document in part.documents]
    facets = [_facet_of(facet) for facet in part.facets]
    places = [tuple(each) for each in part.places]
    upto_places = None if part.upto_places is None else tuple(part.upto_places)
    return Listed(part.matching, part.keys, documents, part.upto, facets, places, upto_places)


def _facet_part(facet: ValueCounts) -> FacetPart:
    values = [[it.instant_us] if isinstance(it, Date) else it for it, _ in facet.counts]
    return FacetPart(values, [count for _, count in facet.counts], facet.is_exact)


def _facet_of(part: FacetPart) -> ValueCounts:
    values = [Date(it[0]) if isinstance(it, list) else it for it in part.values]
    return ValueCounts(list(zip(values, part.counts, strict=True)), part.is_exact)
