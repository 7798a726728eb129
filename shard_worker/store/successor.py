"""The store of the next generation while a compaction fills it. One thread, no searches yet."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.layout import sync_folder
from bitsift.shard_worker.store.counters import Counters
from bitsift.shard_worker.store.format import META
from bitsift.shard_worker.store.rows import SLACK_BYTES
from bitsift.shard_worker.store.store import Store

_COPIED_AT_ONCE = 1 << 16
_TOMBSTONE_BYTES = 256
"""What a tombstone may add, in half-filled pages."""


class Successor:
    """Fills ``store``, which is empty, with what is kept of ``old``."""

    def __init__(self, store: Store, old: Store) -> None:
        """Takes what is not of single rows, and what this program does not know of ``old``."""
        self._old = old
        self._store = store
        self._forgotten = NO_VERSION
        facts = old.parts.unknown_meta()
        with store.parts.commits.transaction() as txn:
            for key, value in facts:
                txn.put(key, value, db=store.parts.env.databases[META])
            counters = dataclasses.replace(store.counters, others=old.counters.others)
            store.parts.commits.commit(txn, self._up_to_date(counters))

    def _up_to_date(self, counters: Counters) -> Counters:
        """``counters`` with what the old store has come to."""
        theirs = self._old.counters
        return dataclasses.replace(
            counters,
            newest_version=theirs.newest_version,
            forgotten_version=max(
                theirs.forgotten_version, counters.forgotten_version, self._forgotten
            ),
        )

    def put_rows(
        self,
        records: NDArray[np.uint8],
        documents: Sequence[tuple[bytes, bytes]],
        versions: NDArray[np.uint64],
    ) -> None:
        """Append ``records`` (n, width + 4) and the items of ``documents``, both with the checksums
        of their new row numbers, and ``versions`` (n,). Their ids come later.
        """
        parts, first = self._store.parts, self._store.rows
        with parts.commits.transaction() as txn:
            parts.writer.put_rows(txn, first, records, documents, versions)
            counters = dataclasses.replace(self._store.counters, rows=first + len(records))
            parts.commits.commit(txn, counters)
        self._store.reader.learn_blocks(first, self._store.rows)

    def bury(self, rows: NDArray[np.int64]) -> None:
        """Mark rows (n,) dead; their deletions are tombstones here."""
        parts = self._store.parts
        with parts.commits.transaction() as txn:
            parts.writer.put_dead(txn, dict.fromkeys(rows.tolist(), b""))
            parts.commits.commit(txn, self._store.counters.with_dead(rows))

    def copy_tombstones(self, grace_s: float) -> None:
        """Take the tombstones that are not older than ``grace_s``.

        The old store must ``follow`` those that come and go from now on.
        """
        if self._old.parts.deletions is None:
            return
        with self._old.parts.env.begin() as reading:
            keys, lost = self._old.parts.deletions.keys(reading)
        self._forgotten = lost
        self._copy(keys, grace_s)

    def finish(self, grace_s: float) -> None:
        """Take the tombstones that came or went since, and the newest version; then it is durable.

        No write may run.
        """
        self._copy([] if self._old.tombstones is None else self._old.tombstones.changed(), grace_s)
        commits = self._store.parts.commits
        if self._store.counters != (counters := self._up_to_date(self._store.counters)):
            with commits.transaction() as txn:
                commits.commit(txn, counters)
        for folder in (self._store.path, self._store.path.parent):  # its file, and its own name
            sync_folder(folder)

    def _copy(self, keys: Sequence[bytes], grace_s: float) -> None:
        parts, since_ms = self._store.parts, int((time.time() - grace_s) * 1e3)
        old, new = self._old.parts.deletions, parts.tombstones
        for start in range(0, len(keys), _COPIED_AT_ONCE):
            assert old is not None, "keys are of deletions"
            assert new is not None, "a new store is in the current format"
            part, lookup = keys[start : start + _COPIED_AT_ONCE], self._old.ids.lookup()
            with self._old.parts.env.begin() as reading, parts.commits.transaction() as txn:
                parts.room.make(parts.env.used_bytes, len(part) * _TOMBSTONE_BYTES + SLACK_BYTES)
                found = ((key, old.under(reading, lookup, key)) for key in part)
                tally = new.copy(txn, found, self._store.counters.tally, since_ms)
                parts.commits.commit(txn, self._store.counters.with_tally(tally))
