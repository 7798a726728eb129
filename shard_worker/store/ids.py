"""Which rows hold an id: an LMDB database, and in RAM the newest rows, which are not in it yet.

Hashes come in random order, so that each put rewrites a page of its own: with 20 million ids in
the database a batch of 8,192 took 35 to 80 µs an id, a million sorted ones 7 µs (2-core EPYC).
Therefore ids are gathered in RAM, sorted, and merged ``PENDING_MAX`` at a time. Nothing is lost in
a crash: the documents hold the ids, and those of the rows behind ``merged_rows`` are read again.

A key may lead to several rows: two ids with one hash, or a document and what replaced it. The
caller compares the ids of the documents, newest row first.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import lmdb
import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.store.packing import (
    ROW,
    SHORT_ROW,
    SHORT_ROWS,
    pack_keys,
    pack_rows,
    pack_single_rows,
    sum_of,
    unpack_rows,
)

PENDING_MAX = 1 << 21
"""Rows gathered before they are merged: 16 bytes of RAM each."""
MERGED_AT_ONCE = 1 << 16
"""Keys merged in one transaction. Each changes a page of 4 KB at most; where ``PENDING_MAX`` are
merged into 20 million, neighbours share pages and it is 24 MB.
"""

Commit = Callable[[int, int, Callable[[], None]], None]
"""Told how many rows are merged with it, the checksum of the database then, and what follows it."""
Step = Callable[[], AbstractContextManager[tuple[lmdb.Transaction, Commit]]]
NewestOfEach = Callable[[lmdb.Transaction, list[int]], list[int]]
"""Of rows that share a key, the newest of each id, ascending."""


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """Keys uint64 (n,), ascending, and their rows int64 (n,)."""

    keys: NDArray[np.uint64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    def holds(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of ascending ``keys`` are here."""
        places = self.keys.searchsorted(keys)
        places[places == len(self)] = 0
        return np.asarray(self.keys[places] == keys)

    @property
    def is_plain(self) -> bool:
        """Whether each key has one row, of a number that takes four bytes."""
        is_ascending = bool((self.keys[1:] > self.keys[:-1]).all())
        return is_ascending and int(self.rows.max(initial=0)) < SHORT_ROWS

    def since(self, row: int) -> _Run:
        later = self.rows >= row
        return _Run(self.keys[later], self.rows[later])

    def rows_of(self, key: np.uint64) -> list[int]:
        first = int(self.keys.searchsorted(key))
        if first == len(self.keys) or self.keys[first] != key:
            return []
        return list(self.rows[first : int(self.keys.searchsorted(key, "right"))].tolist())

    def rows_of_any(self, keys: NDArray[np.uint64]) -> list[NDArray[np.int64]]:
        """The rows of ``keys`` (n,) that are here, in pieces."""
        first, stop = self.keys.searchsorted(keys), self.keys.searchsorted(keys, "right")
        there = np.flatnonzero(stop > first)
        return [self.rows[first[place] : stop[place]] for place in there]


def _sorted_run(keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> _Run:
    if len(keys) == 1:
        return _Run(keys, rows)
    order = np.argsort(keys, kind="stable")
    return _Run(keys[order], rows[order])


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """The rows that are only in RAM, as sorted runs, each less than half of the one before.

    Immutable.
    """

    runs: tuple[_Run, ...] = ()

    def __len__(self) -> int:
        return sum(map(len, self.runs))

    def plus(self, keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> Pending:
        """These and more."""
        if not len(keys):
            return self
        runs, last = list(self.runs), _sorted_run(keys, rows)
        while runs and len(runs[-1]) < 2 * len(last):
            before = runs.pop()
            last = _sorted_run(
                np.concatenate([before.keys, last.keys]), np.concatenate([before.rows, last.rows])
            )
        return Pending((*runs, last))

    def holds(self, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of ascending ``keys`` (n,) are here."""
        found = np.zeros(len(keys), dtype=np.bool_)
        for run in self.runs:
            found |= run.holds(keys)
        return found

    def rows_of(self, key: np.uint64) -> list[int]:
        return [row for run in self.runs for row in run.rows_of(key)]

    def merged(self) -> _Run:
        """All in one run."""
        if not self.runs:
            return _Run(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64))
        keys = np.concatenate([run.keys for run in self.runs])
        return _sorted_run(keys, np.concatenate([run.rows for run in self.runs]))


class IdMap:
    """Ids of one shard: an LMDB database, and the rows in RAM that are not in it yet.

    ``rows_of`` and ``holds`` may be called by any thread; the rest by the one that writes.
    """

    def __init__(self, databases: Mapping[str, Any], merged_rows: int, checksum: int) -> None:
        """``databases`` are the store's, of which it is "ids". ``checksum`` is that of its entries;
        rows below ``merged_rows`` are there.
        """
        self.merged_rows = merged_rows
        self.checksum = checksum
        self._databases = databases
        self._parts: tuple[Pending, Pending] = Pending(), Pending()  # being merged, and later ones

    @property
    def pending(self) -> int:
        """How many rows are only in RAM."""
        return sum(map(len, self._parts))

    def add(self, keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        """Rows (n,) that have just been stored, and the ``id_keys`` of their ids (n,)."""
        merging, later = self._parts
        self._parts = merging, later.plus(keys, rows)

    def lookup(self) -> Lookup:
        """The map as it is now; taken *before* a transaction begins, it misses no row."""
        return Lookup(self._databases, self._parts)

    def gather(self) -> None:
        """What is pending now is what the next ``merge`` takes. No write may run meanwhile."""
        merging, later = self._parts
        self._parts = Pending((*merging.runs, *later.runs)), Pending()

    def merge(self, rows: int, step: Step, newest: NewestOfEach) -> None:
        """Put what was gathered, all pending ids of the first ``rows`` rows, into the database.

        In several transactions, each of them by ``step()``, which keeps other writes away.
        Interrupted, it may be done again.
        """
        run = self._parts[0].merged()
        for start in range(0, len(run), MERGED_AT_ONCE):
            part = _Run(run.keys[start:][:MERGED_AT_ONCE], run.rows[start:][:MERGED_AT_ONCE])
            last = start + MERGED_AT_ONCE >= len(run)
            with step() as (txn, commit):
                checksum = self._merge_part(txn, part, newest)
                after = rows if last else self.merged_rows
                commit(after, checksum, functools.partial(self._merged, after, checksum, last))

    def _merged(self, rows: int, checksum: int, last: bool) -> None:
        """What the database holds now; with the ``last`` part nothing gathered is pending."""
        self.merged_rows, self.checksum = rows, checksum
        if last:
            self._parts = Pending(), self._parts[1]

    def _merge_part(self, txn: lmdb.Transaction, part: _Run, newest: NewestOfEach) -> int:
        """Put one part; returns the checksum of the database then."""
        if part.is_plain:
            keys = pack_keys(part.keys)
            with txn.cursor(db=self._databases["ids"]) as cursor:
                if not cursor.getmulti(keys):  # as in every load of new documents
                    cursor.putmulti(list(zip(keys, pack_single_rows(part.rows), strict=True)))
                    return (self.checksum + _sum_of(part.keys, part.rows)) % (1 << 64)
        return self._merge_with_others(txn, part, newest)

    def _merge_with_others(self, txn: lmdb.Transaction, part: _Run, newest: NewestOfEach) -> int:
        """The same where some keys have several rows."""
        rows_by_key: defaultdict[bytes, list[int]] = defaultdict(list)
        for key, row in zip(pack_keys(part.keys), part.rows.tolist(), strict=True):
            rows_by_key[key].append(row)
        with txn.cursor(db=self._databases["ids"]) as cursor:
            before = [(bytes(k), bytes(held)) for k, held in cursor.getmulti(list(rows_by_key))]
            for known, held in before:
                rows_by_key[known] += unpack_rows(held)
            after = [
                (key, pack_rows(rows if len(rows) == 1 else newest(txn, rows)))
                for key, rows in rows_by_key.items()
            ]
            cursor.putmulti(after)
        return (self.checksum - checksum_of(before) + checksum_of(after)) % (1 << 64)

    def stored_checksum(self, txn: lmdb.Transaction) -> int:
        """What ``checksum`` should be, from all entries of the database."""
        total = 0
        for entries in entries_of(txn, self._databases["ids"]):
            total += checksum_of(entries)
        return total % (1 << 64)


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """One state of an ``IdMap``."""

    databases: Mapping[str, Any]
    parts: tuple[Pending, Pending]

    def waiting(self, first: int = 0) -> _Run:
        """What of it is only in RAM, of the rows from ``first`` on."""
        runs = [run for part in self.parts for run in part.runs]
        return Pending(tuple(run.since(first) for run in runs) if first else tuple(runs)).merged()

    def holds(self, txn: lmdb.Transaction, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which of ``keys`` (n,) lead to a row: bool (n,)."""
        if len(keys) == 1:  # most writes; without the arrays that are worth it for many
            return np.array([bool(self.rows_of(txn, keys[0]))])
        order = np.argsort(keys)
        ascending = keys[order]
        found = self.parts[0].holds(ascending) | self.parts[1].holds(ascending)
        packed = pack_keys(ascending)
        with txn.cursor(db=self.databases["ids"]) as cursor:
            stored = {bytes(key) for key, _ in cursor.getmulti(packed)}
        if stored:
            found |= np.fromiter((key in stored for key in packed), dtype=np.bool_, count=len(keys))
        answer = np.empty_like(found)
        answer[order] = found
        return answer

    def rows_of_any(self, txn: lmdb.Transaction, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The rows that any of ``keys`` (n,) leads to, int64 (m,)."""
        ascending = np.unique(keys) if len(keys) > 1 else keys
        runs = [run for part in self.parts for run in part.runs]
        found = [rows for run in runs for rows in run.rows_of_any(ascending)]
        with txn.cursor(db=self.databases["ids"]) as cursor:
            stored = cursor.getmulti(pack_keys(ascending))
        if stored:
            found.append(columns_of([(bytes(key), bytes(held)) for key, held in stored])[1])
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def rows_of(self, txn: lmdb.Transaction, key: np.uint64) -> list[int]:
        """The rows that ``key`` leads to, newest first."""
        held = txn.get(ROW.pack(int(key)), db=self.databases["ids"])
        rows = [row for part in self.parts for row in part.rows_of(key)]
        return sorted({*rows, *unpack_rows(bytes(held or b""))}, reverse=True)


def places_above(keys: NDArray[np.uint64], after: int) -> int:
    """Where in ascending ``keys`` those above ``after`` begin; -1 is below all."""
    return 0 if after < 0 else int(keys.searchsorted(np.uint64(after), "right"))


def entries_of(
    txn: lmdb.Transaction, database: Any, at_once: int = 1 << 12, start: bytes = b""
) -> Iterator[list[tuple[bytes, bytes]]]:
    """All (key, packed rows) of the database from the key ``start`` on, in order, ``at_once`` of
    them together.
    """
    with txn.cursor(db=database) as cursor:
        if start and not cursor.set_range(start):
            return
        items = cast(Iterator[tuple[bytes, bytes]], cursor.iternext())
        while entries := list(itertools.islice(items, at_once)):
            yield entries


def columns_of(
    entries: Sequence[tuple[bytes, bytes]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The key and the row of (key, packed rows), one for each row."""
    keys, values = zip(*entries, strict=True)
    numbers = np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64)
    if set(map(len, values)) == {SHORT_ROW.size}:  # nearly always
        return numbers, np.frombuffer(b"".join(values), dtype=">u4").astype(np.int64)
    rows = [unpack_rows(held) for held in values]
    counts = [len(its) for its in rows]
    return numbers.repeat(counts), np.array(list(itertools.chain(*rows)), dtype=np.int64)


def checksum_of(entries: Sequence[tuple[bytes, bytes]]) -> int:
    """The part of (key, packed rows) in the checksum of a database of ids."""
    if not entries:
        return 0
    keys, values = zip(*entries, strict=True)
    if set(map(len, values)) == {SHORT_ROW.size}:  # nearly always
        return _sum_of_entries(keys, np.frombuffer(b"".join(values), dtype=">u4"))
    pairs = [(key, row) for key, held in entries for row in unpack_rows(held)]
    rows = np.array([row for _, row in pairs], dtype=np.uint64)
    return _sum_of_entries([key for key, _ in pairs], rows)


def _sum_of_entries(keys: Sequence[bytes], rows: NDArray[Any]) -> int:
    return _sum_of(np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64), rows)


def _sum_of(keys: NDArray[np.uint64], rows: NDArray[Any]) -> int:
    with np.errstate(over="ignore"):
        return sum_of(keys * np.uint64(0x9E3779B97F4A7C15) + rows.astype(np.uint64))
