"""The id map of a store in its transactions: merged, copied, rebuilt, checked.

What it is, and why ids wait in RAM, is said in ids.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.errors import Corrupt
from bitsift.shard_worker.store import ids as id_map
from bitsift.shard_worker.store.commits import Commits
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.ids import Lookup
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, Room, damage_named
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.row_reader import RowReader
from bitsift.shard_worker.store.rows import SLACK_BYTES
from bitsift.shard_worker.types import Document

_REREAD_ROWS = 1 << 16
"""Documents held at a time while the ids of a killed load are read again."""
_ID_BYTES = 128
"""What an id may add, in half-filled pages."""
Entries = list[tuple[bytes, bytes]]
"""Keys and packed rows."""
Columns = tuple[NDArray[np.uint64], NDArray[np.int64]]
"""Keys (n,) and rows (n,)."""


class StoredIds:
    """The ids of one store. ``lookup`` by any thread; the rest by the one that writes."""

    def __init__(self, env: Environment, room: Room, commits: Commits, reader: RowReader) -> None:
        self._env = env
        self._room = room
        self._commits = commits
        self._reader = reader
        self._kept: tuple[tuple[int, int], Columns] | None = None
        self._take()

    def _take(self) -> None:
        """Begin with what the disk has."""
        counters = self._commits.counters
        databases = self._env.databases
        self._map = id_map.IdMap(databases, counters.merged_rows, counters.ids_sum)

    @property
    def pending(self) -> int:
        """Ids that are only in RAM and in the documents."""
        return self._map.pending

    def lookup(self) -> Lookup:
        """What leads to rows now."""
        return self._map.lookup()

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The rows that ``ids`` lead to, int64 (n,); those of deleted documents perhaps too.

        Ids are known by their hashes here: with 10 M rows, one of 10**9 ids leads to another's.
        """
        if not ids:
            return np.empty(0, dtype=np.int64)
        lookup = self._map.lookup()
        with damage_named(self._reader.path / DATA_FILE), self._env.begin() as txn:
            return lookup.rows_of_any(txn, id_keys(ids))

    def add(self, keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Learn the ``keys`` (n,) of ``rows`` (n,), which are committed."""
        self._map.add(keys, rows)

    def read(self, first: int) -> None:
        """Take the ids of rows from ``first`` on from their documents; damaged ones are lost."""
        end = self._commits.counters.rows
        for start in range(first, end, _REREAD_ROWS):
            rows = range(start, min(start + _REREAD_ROWS, end))
            found = zip(rows, self._reader.documents(rows), strict=True)
            named = [(row, held.id) for row, held in found if isinstance(held, Document)]
            kept = np.array([row for row, _ in named], dtype=np.int64)
            self._map.add(id_keys([name for _, name in named]), kept)

    def gather(self) -> None:
        """Separate the ids to merge; the writer's lock is held."""
        self._map.gather()

    def merge(self, rows: int, writing: AbstractContextManager[Any]) -> None:
        """Move what was gathered, of the first ``rows`` rows, to the disk.

        The lock ``writing`` is held in parts. Raises StorageFull or WritesStopped; nothing is lost
        then.
        """
        self._map.merge(rows, functools.partial(self._step, writing), self._newest_of_each)

    @contextlib.contextmanager
    def _step(
        self, writing: AbstractContextManager[Any]
    ) -> Iterator[tuple[lmdb.Transaction, id_map.Commit]]:
        """One transaction of a merge: room for it, and the counters that belong to it."""
        with writing, self._commits.transaction() as txn:
            self._make_room(min(self._map.pending, id_map.MERGED_AT_ONCE))

            def commit(merged_rows: int, checksum: int, then: Callable[[], None]) -> None:
                counters = dataclasses.replace(
                    self._commits.counters, merged_rows=merged_rows, ids_sum=checksum
                )
                self._commits.commit(txn, counters, then)

            yield txn, commit

    def _make_room(self, ids: int) -> None:
        self._room.make(self._env.used_bytes, ids * _ID_BYTES + SLACK_BYTES)

    def _newest_of_each(self, txn: lmdb.Transaction, rows: list[int]) -> list[int]:
        """Of rows whose ids share a hash, the newest of each id; damaged ones are kept."""
        newest: dict[str | int, int] = {}
        for row in sorted(set(rows)):
            try:
                newest[self._reader.content(txn, row)[0]] = row
            except Corrupt:
                newest[row] = row
        return sorted(newest.values())

    def fill(self, parts: Iterator[Entries], rows: int) -> None:
        """Fill the empty id map with the ids of the first ``rows`` rows, by ascending key.

        Those of the rows behind them are read from the documents.
        """
        checksum = 0
        for entries in parts:
            with self._commits.transaction() as txn:
                self._make_room(len(entries))
                with txn.cursor(db=self._env.databases["ids"]) as cursor:
                    cursor.putmulti(entries, append=True)
                self._commits.commit(txn, self._commits.counters)
            checksum += id_map.checksum_of(entries)
        checksum %= 1 << 64
        counters = dataclasses.replace(self._commits.counters, merged_rows=rows, ids_sum=checksum)
        with self._commits.transaction() as txn:
            self._commits.commit(txn, counters)
        self._take()
        self.read(rows)

    def clear(self) -> None:
        """Drop all ids, and read them from the documents; those of damaged ones are lost."""
        with self._commits.transaction() as txn:
            txn.drop(self._env.databases["ids"], delete=False)
            counters = dataclasses.replace(self._commits.counters, merged_rows=0, ids_sum=0)
            self._commits.commit(txn, counters)
        self._take()
        self.read(0)

    def entries(self) -> Iterator[Entries]:
        """All (key, packed rows) that the disk has, ascending."""
        with self._env.begin() as txn:
            yield from id_map.entries_of(txn, self._env.databases["ids"], id_map.MERGED_AT_ONCE)

    def ascending(self, lookup: Lookup, after: int) -> Iterator[Columns]:
        """The hashes of ids above ``after``, ascending, and a row of each, some thousand at a time:
        of the rows that ``lookup`` leads to, and perhaps of later ones. Some may be dead.
        """
        waiting = lookup.waiting()
        place = id_map.places_above(waiting.keys, after)
        for keys, rows in self._stored_above(after):
            end = int(waiting.keys.searchsorted(keys[-1], "right"))
            yield _once(keys, rows, waiting.keys[place:end], waiting.rows[place:end])
            place = end
        yield waiting.keys[place:], waiting.rows[place:]

    def _stored_above(self, after: int) -> Iterator[Columns]:
        if after + 1 >> 64:
            return
        with damage_named(self._reader.path / DATA_FILE), self._env.begin() as txn:
            start = (after + 1).to_bytes(8, "big")
            for entries in id_map.entries_of(txn, self._env.databases["ids"], start=start):
                yield id_map.columns_of(entries)

    def keys_and_rows(self, lookup: Lookup) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The hash uint64 (n,) and the row int64 (n,) of each id, in no order: of the rows that
        ``lookup`` leads to, and perhaps of later ones. Some may be dead. Any thread.
        """
        keys, rows = self._stored_columns()
        waiting = lookup.waiting()  # some of it was merged since, and is in both
        every = np.concatenate([keys, waiting.keys]), np.concatenate([rows, waiting.rows])
        _, first = np.unique(every[1], return_index=True)
        return every[0][first], every[1][first]

    def _stored_columns(self) -> Columns:
        """What the disk has, which is read again only when ids were merged since."""
        if (kept := self._kept) is not None and kept[0] == self._mark():
            return kept[1]
        mark, keys, rows = self._mark(), [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for entries in self.entries():
            own, theirs = id_map.columns_of(entries)
            keys.append(own)
            rows.append(theirs)
        found = np.concatenate(keys), np.concatenate(rows)
        self._kept = (mark, found) if mark == self._mark() else None
        return found

    def _mark(self) -> tuple[int, int]:
        return self._map.merged_rows, self._map.checksum

    def tidy(self) -> None:
        """Keep nothing in RAM of what is on the disk."""
        self._kept = None

    def pass_checksum(self) -> bool:
        """Whether the entries on the disk are those that were written. Reads all of them."""
        with damage_named(self._reader.path / DATA_FILE), self._env.begin() as txn:
            return self._map.stored_checksum(txn) == self._map.checksum


def _once(
    keys: NDArray[np.uint64],
    rows: NDArray[np.int64],
    other_keys: NDArray[np.uint64],
    other_rows: NDArray[np.int64],
) -> Columns:
    """Both, by ascending key; a row that is in both, because it was just merged, once."""
    if len(other_keys):
        keys, rows = np.concatenate([keys, other_keys]), np.concatenate([rows, other_rows])
        _, first = np.unique(rows, return_index=True)
        keys, rows = keys[first], rows[first]
        order = np.argsort(keys, kind="stable")
        keys, rows = keys[order], rows[order]
    return keys, rows
