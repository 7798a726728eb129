"""Which rows hold an id: an LMDB database, and in RAM the newest rows, which are not in it yet.

Hashes come in random order, so that each put rewrites a page of its own: with 20 million ids in
the database a batch of 8,192 took 35 to 80 µs an id, a million sorted ones 7 µs (2-core EPYC).
Therefore ids are gathered in RAM, sorted, and merged ``PENDING_MAX`` at a time. Nothing is lost in
a crash: the documents hold the ids, and those of the rows behind ``merged_rows`` are read again.

A key may lead to several rows: two ids with one hash, or a document and what replaced it. The
caller compares the ids of the documents, newest row first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from shard_worker.packing import ROW, pack_keys, pack_rows, unpack_rows

PENDING_MAX = 1 << 21
"""Rows gathered before they are merged: 16 bytes of RAM each."""
MERGED_AT_ONCE = 1 << 16
"""Keys merged in one transaction. Each changes a page of 4 KB at most; where ``PENDING_MAX`` are
merged into 20 million, neighbours share pages and it is 24 MB.
"""

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
        places = np.searchsorted(self.keys, keys)
        places[places == len(self)] = 0
        return np.asarray(self.keys[places] == keys)

    def rows_of(self, key: np.uint64) -> list[int]:
        first, stop = np.searchsorted(self.keys, key), np.searchsorted(self.keys, key, "right")
        return list(self.rows[first:stop].tolist())


def _sorted_run(keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> _Run:
    order = np.argsort(keys, kind="stable")
    return _Run(keys[order], rows[order])


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """The rows that are only in RAM, as sorted runs, each less than half of the one before.

    Immutable: a reader takes it *before* its transaction begins, and so misses no row that is
    merged meanwhile.
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


def holds(
    txn: lmdb.Transaction, database: Any, pending: Pending, keys: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Which of ``keys`` (n,) lead to a row: bool (n,)."""
    order = np.argsort(keys)
    ascending = keys[order]
    found = pending.holds(ascending)
    packed = pack_keys(ascending)
    with txn.cursor(db=database) as cursor:
        stored = {bytes(key) for key, _ in cursor.getmulti(packed)}
    if stored:
        found |= np.fromiter((key in stored for key in packed), dtype=np.bool_, count=len(keys))
    answer = np.empty_like(found)
    answer[order] = found
    return answer


def rows_of(txn: lmdb.Transaction, database: Any, pending: Pending, key: np.uint64) -> list[int]:
    """The rows that ``key`` leads to, newest first."""
    held = txn.get(ROW.pack(int(key)), db=database)
    rows = pending.rows_of(key) + unpack_rows(bytes(held or b""))
    return sorted(set(rows), reverse=True)


def merge(
    begin: Callable[[], lmdb.Transaction], database: Any, pending: Pending, newest: NewestOfEach
) -> None:
    """Put all of ``pending`` into the database, in several transactions; may be done twice."""
    run = pending.merged()
    for start in range(0, len(run), MERGED_AT_ONCE):
        stop = start + MERGED_AT_ONCE
        rows_by_key: defaultdict[bytes, list[int]] = defaultdict(list)
        for key, row in zip(
            pack_keys(run.keys[start:stop]), run.rows[start:stop].tolist(), strict=True
        ):
            rows_by_key[key].append(row)
        with begin() as txn, txn.cursor(db=database) as cursor:
            for known, held in cursor.getmulti(list(rows_by_key)):
                rows_by_key[bytes(known)] += unpack_rows(bytes(held))
            cursor.putmulti(
                [
                    (key, pack_rows(rows if len(rows) == 1 else newest(txn, rows)))
                    for key, rows in rows_by_key.items()
                ]
            )
