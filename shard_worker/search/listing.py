"""Listing and counting the documents that pass a filter, a page at a time.

Their order is that of the hashes of their ids. Where few pass, the ids of all of them are read;
else the id map is walked from where the page begins, until it is full: whatever takes less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError
from bitsift.filters.forms import tree_of
from bitsift.shard_worker.deadline import Check, Deadline
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.search.filtered import passing
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.ids import places_above
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.replay import living_versions
from bitsift.shard_worker.types import EVERYTHING, Document, Found, Unread, Wanted
from bitsift.write_token import NOTHING, Reached

WALKED_PER_ID = 20
"""Entries of the id map that are walked in the time in which the id of a document is read."""
KEY_MAX = (1 << 64) - 1
"""The last hash of an id."""
_ONLY_IDS = Wanted(frozenset())
_Columns = tuple[NDArray[np.uint64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class Listing:
    """Documents in the order of the hashes of their ids (``id_keys``), which no write changes, nor
    a compaction, and which is the same on every replica.

    Of those that pass ``filter`` (its canonical text; None: all) what is ``wanted`` of the first
    ``limit`` behind the hash ``after`` (-1: from the beginning), as many as have room, but one at
    least. A ``limit`` of 0 counts. The replica must be as far as ``least``.
    """

    filter: str | None = None
    after: int = -1
    limit: int = 0
    wanted: Wanted = EVERYTHING
    least: Reached = NOTHING
    deadline: Deadline = field(default_factory=Deadline)


@dataclass(frozen=True, slots=True)
class Listed:
    """So many documents are ``matching``, in all; those ``documents`` that were listed, and the
    hashes of their ids, ascending: all that there are up to the hash ``upto``.
    """

    matching: int
    keys: Sequence[int] = ()
    documents: Sequence[Document] = ()
    upto: int = KEY_MAX


def listed(generation: Generation, listing: Listing) -> Listed:
    """What ``listing`` asks for, of one moment. Damaged documents are left out.

    Raises DeadlineExceeded.
    """
    check = listing.deadline.check
    check()
    flags = _passing(generation, listing.filter, check)
    matching = int(np.count_nonzero(flags))
    if not listing.limit:
        return Listed(matching)
    keys, rows = _first(generation.store, flags, matching, listing)
    page, upto = _page(keys, listing.limit)
    return _read(generation.store, matching, (keys[:page], rows[:page]), upto, listing)


def _passing(generation: Generation, filter_text: str | None, check: Check) -> NDArray[np.bool_]:
    """Which rows are those of documents that pass: bool (rows,)."""
    if filter_text is None:
        parts = generation.index.moment()
        return parts.is_alive(np.arange(len(parts), dtype=np.int64))
    parts, bits = passing(generation, tree_of(filter_text), check)
    flags = np.unpackbits(bits, count=len(parts), bitorder="little").view(np.bool_)
    rows = np.flatnonzero(flags)
    flags[rows] = parts.is_alive(rows)
    return flags


def _first(store: Store, flags: NDArray[np.bool_], matching: int, listing: Listing) -> _Columns:
    """The hashes and rows of more than a page, ascending; fewer where there are no more."""
    check = listing.deadline.check
    walked = len(flags) * listing.limit / max(1, matching)
    if matching * WALKED_PER_ID <= walked:
        keys, rows = _named(store, np.flatnonzero(flags), check)
        order = np.argsort(keys, kind="stable")
        order = order[places_above(keys[order], listing.after) :]
        return keys[order], rows[order]
    keys, rows = np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    for more_keys, more_rows in _walk(store, flags, listing.after, check):
        keys, rows = np.concatenate([keys, more_keys]), np.concatenate([rows, more_rows])
        if len(keys) > listing.limit and keys[listing.limit - 1] < keys[-1]:
            break
    return keys, rows


def _named(store: Store, rows: NDArray[np.int64], check: Check) -> _Columns:
    """The hashes of the ids of ``rows`` (n,), by their documents."""
    found = store.reader.documents(rows.tolist(), _ONLY_IDS, check)
    named = [(it.id, row) for it, row in zip(found, rows, strict=True) if isinstance(it, Document)]
    kept = np.array([row for _, row in named], dtype=np.int64)
    return id_keys([name for name, _ in named]), kept


def _walk(store: Store, flags: NDArray[np.bool_], after: int, check: Check) -> Iterator[_Columns]:
    for keys, rows in store.ids.ascending(store.ids.lookup(), after):
        check()
        kept = rows < len(flags)
        kept[kept] = flags[rows[kept]]
        yield keys[kept], rows[kept]


def _page(keys: NDArray[np.uint64], limit: int) -> tuple[int, int]:
    """How many are on the page, and up to which hash it goes: ids with one hash are on one page."""
    if len(keys) <= limit:
        return len(keys), KEY_MAX
    last = keys[limit - 1]
    return int(keys.searchsorted(last, "right")), int(last)


def _read(store: Store, matching: int, page: _Columns, upto: int, listing: Listing) -> Listed:
    """The documents of ``page``, which goes up to the hash ``upto``, that have room: always one."""
    keys, rows = page[0].tolist(), page[1].tolist()
    found = _with_room(store, rows, listing)
    unread = [key for key, it in zip(keys, found, strict=True) if isinstance(it, Unread)]
    if unread:
        stop, upto = keys.index(unread[0]), unread[0] - 1
        keys, rows, found = keys[:stop], rows[:stop], found[:stop]
    broken = [row for row, it in zip(rows, found, strict=True) if isinstance(it, BitsiftError)]
    store.reader.note_damaged(broken)
    sound = [place for place, it in enumerate(found) if isinstance(it, Document)]
    versions = iter(living_versions(store, [rows[place] for place in sound]))
    documents = [replace(it, version=next(versions)) for it in found if isinstance(it, Document)]
    return Listed(matching, [keys[place] for place in sound], documents, upto)


def _with_room(store: Store, rows: list[int], listing: Listing) -> list[Found]:
    """The first of ``rows`` whatever it takes, and as many as fit with it."""
    fields, check = listing.wanted.fields, listing.deadline.check
    found = store.reader.documents(rows[:1], Wanted(fields), check)
    used = sum(it.size_bytes for it in found if isinstance(it, Document))
    left = max(0, listing.wanted.bytes_max - used)
    return found + store.reader.documents(rows[1:], Wanted(fields, left), check)
