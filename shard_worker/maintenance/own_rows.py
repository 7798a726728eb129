"""Checking the rows of a shard while it is served: some rows at a time, each against its checksums.

What is derived (bits, lists, hints, the id map) is checked by ``bitsift verify INDEX`` alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.types import Document

ROWS_AT_ONCE = 4_096
_DOCUMENTS_AT_ONCE = 64
"""They are in RAM together, and may have 4 MiB each."""


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row that does not pass its checksums. ``key`` is the hash of its document's id, None where
    nothing leads to it any more; ``id`` is known where the document is sound, and ``version``, else
    0, where that is.
    """

    row: int
    key: int | None
    id: str | None
    version: int


@dataclass(frozen=True, slots=True)
class RowCheck:
    """What a check of some rows found. It goes on at ``next_row``, of ``rows``, in the same
    ``generation``: in another one rows have other numbers.
    """

    generation: int
    next_row: int
    rows: int
    damaged: tuple[DamagedRow, ...]


def check_rows(store: Store, first: int) -> RowCheck:
    """Check ``ROWS_AT_ONCE`` rows from ``first`` on; writes go on. Dead rows do not count."""
    rows = store.rows
    stop = max(first, min(first + ROWS_AT_ONCE, rows))
    bad = _unreadable(store, first, stop)
    for start, _, intact in store.reader.scan_codes(first, stop):
        bad |= set((start + np.flatnonzero(~intact)).tolist())
    if store.versions is not None:
        _, intact = store.versions.scan(first, stop)
        bad |= set((first + np.flatnonzero(~intact)).tolist())
    damaged = _named(store, bad) if bad else ()
    return RowCheck(store.generation, stop, rows, damaged)


def _unreadable(store: Store, first: int, stop: int) -> set[int]:
    """The rows whose documents are damaged."""
    bad = set[int]()
    for start in range(first, stop, _DOCUMENTS_AT_ONCE):
        some = range(start, min(stop, start + _DOCUMENTS_AT_ONCE))
        found = zip(some, store.reader.documents(some), strict=True)
        bad |= {row for row, it in found if not isinstance(it, Document)}
    return bad


def _named(store: Store, rows: Collection[int]) -> tuple[DamagedRow, ...]:
    """Those of ``rows`` that live, with what leads to them."""
    with store.parts.env.begin() as txn:
        living = [row for row in sorted(rows) if not store.reader.is_dead(txn, row)]
    keys, held = store.ids.keys_and_rows(store.ids.lookup())
    mapped = np.isin(held, living)
    known = dict(zip(held[mapped].tolist(), keys[mapped].tolist(), strict=True))
    found = []
    for row, document in zip(living, store.reader.documents(living), strict=True):
        version = int(store.row_versions(row, row + 1)[0])
        if isinstance(document, Document):
            found.append(DamagedRow(row, int(id_keys([document.id])[0]), document.id, version))
        else:
            found.append(DamagedRow(row, known.get(row), None, version))
    return tuple(found)
