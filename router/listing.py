"""Pages of documents over all shards, in the order of the hashes of their ids.

Each shard gives its first ones behind the cursor, and up to which hash it goes; what all of them
have reached is the page. So a document is listed once, however many are written between two pages,
wherever a replica answers, and even where a reshard spreads them anew.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Sequence

from bitsift.errors import InvalidRequest
from bitsift.listing import ListOptions, Page
from bitsift.results import Coverage
from bitsift.router.answer_bytes import AnswerBytes
from bitsift.router.multi_get import stored_document
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.missing import of_missing
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.search.listing import KEY_MAX, Listed, Listing
from bitsift.shard_worker.types import Wanted
from bitsift.write_results import StoredDocument
from bitsift.write_token import WriteToken

PAGE_BYTES_MAX = 4 << 20
"""Documents of a page, as they are stored, of all shards together; but one of each at least."""
_FORMAT = b"\x01"
_KEY_BYTES, _MARK_BYTES = 8, 8
_BROKEN = "cursor: this is no cursor of an earlier page: send it unchanged, or leave it out"


async def count(
    asked: FanOut, written: WriteToken | None, filter_text: str | None, deadline_s: float
) -> int:
    """How many documents pass. Raises as ``page``."""
    listing = Listing(filter_text, deadline=Deadline(deadline_s))
    return sum(listed.matching for listed in await _all(asked, listing, written))


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
    filter_text = None if options.filter is None else str(options.filter)
    after = _after(options.cursor, filter_text)
    wanted = Wanted(frozenset(options.include), PAGE_BYTES_MAX // len(asked))
    deadline = Deadline(deadline_s)
    listing = Listing(filter_text, after, options.limit, wanted, deadline=deadline)
    parts = await _all(asked, listing, written)
    upto = min(listed.upto for listed in parts)
    ordered = sorted(
        (key, shard, place)
        for shard, listed in enumerate(parts)
        for place, key in enumerate(listed.keys)
        if key <= upto
    )
    kept, upto = _cut(ordered, options.limit, upto, parts)
    documents = tuple(_stored(parts[shard], shard, place) for _, shard, place in kept)
    answer.take(sum(parts[shard].documents[place].size_bytes for _, shard, place in kept))
    cursor = None if upto == KEY_MAX else _cursor(upto, filter_text)
    return Page(documents, cursor, sum(listed.matching for listed in parts))


_Place = tuple[int, int, int]
"""The hash of an id, the number of the shard, and where in what it lists."""


def _cut(
    ordered: Sequence[_Place], limit: int, upto: int, parts: Sequence[Listed]
) -> tuple[Sequence[_Place], int]:
    """Those that are on the page, and up to which hash it goes: by number and by bytes."""
    size_bytes = 0
    for at, (key, shard, place) in enumerate(ordered):
        size_bytes += parts[shard].documents[place].size_bytes
        full = at >= limit or (at and size_bytes > PAGE_BYTES_MAX)
        if full and key != ordered[at - 1][0]:
            return ordered[:at], ordered[at - 1][0]
    return ordered, upto


def _stored(listed: Listed, shard: int, place: int) -> StoredDocument:
    document = listed.documents[place]
    return stored_document(document, shard)


async def _all(asked: FanOut, listing: Listing, written: WriteToken | None) -> list[Listed]:
    """What every shard lists. Raises where one of them does not."""
    found, failures = await asked.listed(listing, written)
    if failures:
        raise of_missing(Coverage(len(asked), len(found), tuple(failures)))
    return found


def _mark(filter_text: str | None) -> bytes:
    return hashlib.blake2b((filter_text or "").encode(), digest_size=_MARK_BYTES).digest()


def _cursor(upto: int, filter_text: str | None) -> str:
    data = _FORMAT + upto.to_bytes(_KEY_BYTES, "big") + _mark(filter_text)
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _after(cursor: str | None, filter_text: str | None) -> int:
    """Behind which hash the page begins. Raises InvalidRequest."""
    if cursor is None:
        return -1
    data = b""
    with contextlib.suppress(ValueError):
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    if len(data) != 1 + _KEY_BYTES + _MARK_BYTES or data[:1] != _FORMAT:
        raise InvalidRequest(_BROKEN)
    if data[1 + _KEY_BYTES :] != _mark(filter_text):
        raise InvalidRequest("cursor: it is of another filter: send the filter of the first page")
    return int.from_bytes(data[1 : 1 + _KEY_BYTES], "big")
