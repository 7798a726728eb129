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
from bitsift.shard_worker.search.facets import ValueCounts, facets
from bitsift.shard_worker.search.filtered import passing
from bitsift.shard_worker.search.sorting import Ordered, Places, first_in_order
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.ids import places_above
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.replay import living_versions
from bitsift.shard_worker.types import EVERYTHING, Document, Found, Unread, Wanted
from bitsift.sorting import SortKey
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
    facets: Sequence[str] = ()
    sort: Sequence[SortKey] = ()
    behind: Places | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """So many documents are ``matching``, in all; those ``documents`` that were listed, and the
    hashes of their ids, ascending: all that there are up to the hash ``upto``. ``facets`` are the
    counts of each field that was asked for.

    Of a sorted listing ``places`` are those of each document, and ``upto_places`` with ``upto`` how
    far it goes; None: to the end.
    """

    matching: int
    keys: Sequence[int] = ()
    documents: Sequence[Document] = ()
    upto: int = KEY_MAX
    facets: Sequence[ValueCounts] = ()
    places: Sequence[Places] = ()
    upto_places: Places | None = None


def listed(generation: Generation, listing: Listing) -> Listed:
    """What ``listing`` asks for, of one moment. Damaged documents are left out.

    Raises DeadlineExceeded.
    """
    check = listing.deadline.check
    check()
    flags = _passing(generation, listing.filter, check)
    matching = int(np.count_nonzero(flags))
    counts = facets(generation.fields, flags, listing.facets, check) if listing.facets else ()
    if not listing.limit:
        return Listed(matching, facets=counts)
    if listing.sort:
        return _sorted(generation, flags, matching, listing)
    keys, rows = _first(generation.store, flags, matching, listing)
    page, upto = _page(keys, listing.limit)
    said = keys[:page].tolist()
    sound, stop = _read(generation.store, rows[:page].tolist(), listing)
    if stop < page:
        upto = said[stop] - 1
    sound = [(at, document) for at, document in sound if said[at] <= upto]
    documents = [document for _, document in sound]
    return Listed(matching, [said[at] for at, _ in sound], documents, upto, counts)


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


def _sorted(
    generation: Generation, flags: NDArray[np.bool_], matching: int, listing: Listing
) -> Listed:
    """Those that stand first. Raises InvalidRequest where too much would have to be read."""
    check, store = listing.deadline.check, generation.store
    found = first_in_order(
        generation.fields, flags, listing.sort, listing.behind, listing.limit, check
    )
    (keys, rows, groups), ended = _ranked(store, found, len(flags), listing)
    sound, stop = _read(store, rows.tolist(), listing)
    places = [found.places[group] for group in groups.tolist()]
    documents = [document for _, document in sound]
    said = [int(keys[at]) for at, _ in sound]
    listed = Listed(matching, said, documents, places=[places[at] for at, _ in sound])
    if ended is None and stop == len(rows):
        return listed
    if not len(rows):  # all of them are damaged
        return replace(listed, upto_places=found.places[ended or 0])
    return replace(listed, upto=int(keys[stop - 1]), upto_places=places[stop - 1])


_Ranked = tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]
"""Hashes, rows, and the groups of those that stand alike."""


def _ranked(
    store: Store, found: Ordered, count: int, listing: Listing
) -> tuple[_Ranked, int | None]:
    """A page of ``found``, of ``count`` rows, in its order, and the group in which it ends: None
    where that is all there is.

    Of groups that are wholly on the page the ids are read; of the two at its ends, which may be
    large, the id map says which come first.
    """
    sizes = np.bincount(found.groups, minlength=len(found.places))
    pieces, left, group, more = list[_Ranked](), listing.limit, 0, False
    if found.places and found.places[0] == listing.behind:
        piece, more = _alike(store, found, count, 0, listing)
        pieces, left, group = [piece], left - len(piece[0]), 1
    whole = int(np.searchsorted(np.cumsum(sizes[group:]), left, "right")) if left > 0 else 0
    mine = (found.groups >= group) & (found.groups < group + whole)
    keys, rows = _named(store, found.rows[mine], listing.deadline.check)
    groups = found.groups[mine][np.isin(found.rows[mine], rows)]
    order = np.lexsort((keys, groups))
    pieces.append((keys[order], rows[order], groups[order]))
    left, group = left - int(np.count_nonzero(mine)), group + whole
    if left > 0 and group < len(sizes):
        piece, more = _alike(store, found, count, group, replace(listing, limit=left, after=-1))
        pieces, group = [*pieces, piece], group + 1
    keys, rows, groups = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    is_all = not more and group == len(sizes)
    return (keys, rows, groups), None if is_all else group - 1


def _alike(
    store: Store, found: Ordered, count: int, group: int, listing: Listing
) -> tuple[_Ranked, bool]:
    """The first of a group, and whether there are more."""
    rows = found.rows[found.groups == group]
    flags = np.zeros(count, np.bool_)
    flags[rows] = True
    keys, rows = _first(store, flags, len(rows), listing)
    page, _ = _page(keys, listing.limit)
    return (keys[:page], rows[:page], np.full(page, group)), len(keys) > page


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


def _read(
    store: Store, rows: list[int], listing: Listing
) -> tuple[list[tuple[int, Document]], int]:
    """The documents of ``rows`` that have room, always one, each with its number among them, and
    how many were gone through.
    """
    found = _with_room(store, rows, listing)
    stop = next((at for at, it in enumerate(found) if isinstance(it, Unread)), len(found))
    broken = [rows[at] for at, it in enumerate(found) if isinstance(it, BitsiftError)]
    store.reader.note_damaged(broken)
    sound = [at for at, it in enumerate(found[:stop]) if isinstance(it, Document)]
    versions = iter(living_versions(store, [rows[at] for at in sound]))
    documents = (it for it in found[:stop] if isinstance(it, Document))
    dated = [replace(it, version=next(versions)) for it in documents]
    return list(zip(sound, dated, strict=True)), stop


def _with_room(store: Store, rows: list[int], listing: Listing) -> list[Found]:
    """The first of ``rows`` whatever it takes, and as many as fit with it."""
    fields, check = listing.wanted.fields, listing.deadline.check
    found = store.reader.documents(rows[:1], Wanted(fields), check)
    used = sum(it.size_bytes for it in found if isinstance(it, Document))
    left = max(0, listing.wanted.bytes_max - used)
    return found + store.reader.documents(rows[1:], Wanted(fields, left), check)
