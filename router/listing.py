"""Pages of documents over all shards, in the order of the hashes of their ids, or of fields of
their metadata and then of those hashes.

Each shard gives its first ones behind the cursor, and up to which hash it goes; what all of them
have reached is the page. So a document is listed once, however many are written between two pages,
wherever a replica answers, and even where a reshard spreads them anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bitsift.errors import InvalidRequest, RequestOutcome
from bitsift.listing import Counted, CountOptions, ListOptions, Page
from bitsift.results import Coverage
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.cursors import CursorKind, cursor, reached
from bitsift.router.facets import merged, paths_of, text_of
from bitsift.router.multi_get import stored_document
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.missing import of_missing
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.search.listing import KEY_MAX, Listed, Listing
from bitsift.shard_worker.search.sorting import Places
from bitsift.shard_worker.types import Wanted
from bitsift.shard_worker.wire.listing import PlacePart
from bitsift.sorting import SortKey, sort_key_of, standing
from bitsift.write_results import StoredDocument
from bitsift.write_token import WriteToken

PAGE_BYTES_MAX = 4 << 20
"""Documents of a page, as they are stored, of all shards together; but one of each at least."""


async def count(
    asked: FanOut, written: WriteToken | None, options: CountOptions, deadline_s: float
) -> Counted:
    """How many documents pass. Raises as ``page``."""
    listing = Listing(
        text_of(options.filter), deadline=Deadline(deadline_s), facets=paths_of(options.facets)
    )
    parts = await _all(asked, listing, written)
    counted = await merged(options, parts, is_whole=True)
    return Counted(sum(listed.matching for listed in parts), counted)


async def page(
    asked: FanOut,
    written: WriteToken | None,
    options: ListOptions,
    deadline_s: float,
    answer: AnswerBytes,
) -> Page:
    """The page that ``options`` ask for; its documents are counted in ``answer``.

    Raises InvalidRequest (a cursor of another filter), Overloaded, and as ``of_missing`` unless
    every shard answers: a page has no gaps.
    """
    filter_text, keys = text_of(options.filter), [sort_key_of(text) for text in options.sort]
    behind, after = _reached(options)
    wanted = Wanted(frozenset(options.include), PAGE_BYTES_MAX // len(asked))
    listing = Listing(
        filter_text,
        after,
        options.limit,
        wanted,
        deadline=Deadline(deadline_s),
        sort=keys,
        behind=behind,
    )
    parts = await _all(asked, listing, written)
    ends = [at for listed in parts if (at := _end(listed, keys)) is not None]
    end = min(ends) if ends else None
    ordered = sorted(
        (at, shard, place)
        for shard, listed in enumerate(parts)
        for place, at in enumerate(_positions(listed, keys))
        if end is None or not end < at
    )
    kept, is_cut = _cut(ordered, options.limit, parts)
    documents = tuple(_stored(parts[shard], shard, place) for _, shard, place in kept)
    following = None
    if is_cut:
        _, shard, place = kept[-1]
        following = _cursor(_places(parts[shard], place), parts[shard].keys[place], options)
    elif end is not None:
        last = parts[[_end(listed, keys) for listed in parts].index(end)]
        following = _cursor(last.upto_places or (), last.upto, options)
    answer.take(sum(parts[shard].documents[place].size_bytes for _, shard, place in kept))
    return Page(documents, following, sum(listed.matching for listed in parts))


_Position = tuple[tuple[Any, ...], int]
"""Where a document stands in the order: by its places, and by the hash of its id."""
_Place = tuple[_Position, int, int]
"""That, the number of the shard, and where in what it lists."""


def _places(listed: Listed, place: int) -> Places:
    return listed.places[place] if listed.places else ()


def _positions(listed: Listed, keys: Sequence[SortKey]) -> Iterator[_Position]:
    for place, key in enumerate(listed.keys):
        yield standing(_places(listed, place), keys), key


def _end(listed: Listed, keys: Sequence[SortKey]) -> _Position | None:
    """How far what is listed goes; None: to the end."""
    if listed.upto_places is not None:
        return standing(listed.upto_places, keys), listed.upto
    return None if keys or listed.upto == KEY_MAX else ((), listed.upto)


def _cut(
    ordered: Sequence[_Place], limit: int, parts: Sequence[Listed]
) -> tuple[Sequence[_Place], bool]:
    """Those that are on the page, by number and by bytes, and whether others are not."""
    size_bytes = 0
    for at, (position, shard, place) in enumerate(ordered):
        size_bytes += parts[shard].documents[place].size_bytes
        full = at >= limit or (at and size_bytes > PAGE_BYTES_MAX)
        if full and position != ordered[at - 1][0]:
            return ordered[:at], True
    return ordered, False


def _stored(listed: Listed, shard: int, place: int) -> StoredDocument:
    document = listed.documents[place]
    return stored_document(document, shard)


async def _all(asked: FanOut, listing: Listing, written: WriteToken | None) -> list[Listed]:
    """What every shard lists. Raises where one of them does not."""
    found, failures = await asked.listed(listing, written)
    for failure in failures:
        if failure.error == InvalidRequest.__name__:  # so it is whoever else answers
            raise InvalidRequest(failure.message).with_outcome(RequestOutcome.NOT_DONE)
    if failures:
        raise of_missing(Coverage(len(asked), len(found), tuple(failures)))
    return found


_payloads = msgspec.msgpack.Decoder(tuple[list[PlacePart], int])


def _cursor(places: Places, key: int, options: ListOptions) -> str:
    payload = msgspec.msgpack.encode((places, key))
    return cursor(CursorKind.LISTING, payload, _asked(options))


def _reached(options: ListOptions) -> tuple[Places | None, int]:
    """Where the page begins: behind which places, none without an order, and which hash.

    Raises InvalidRequest.
    """
    if options.cursor is None:
        return None, -1
    data = reached(CursorKind.LISTING, options.cursor, _asked(options), "filter or sort")
    places, key = _payloads.decode(data)
    return tuple(places) if options.sort else None, key


def _asked(options: ListOptions) -> bytes:
    return "\0".join([text_of(options.filter) or "", *options.sort]).encode()
