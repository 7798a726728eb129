"""One generation of a shard: the store and the bits whose row numbers belong together.

Compaction renumbers the rows. A query that was answered by the generation before may still ask
for its documents, so that one stays open for a while, and rows leave the shard with their *origin*:
the opened copy of the shard and the generation that they are of (types.py).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import Unavailable
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.fields.index import FieldIndex
from bitsift.shard_worker.leftovers import remove_store
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.burial import bury
from bitsift.shard_worker.store.ids import PENDING_MAX
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, unusable_named

log = logging.getLogger(__name__)


class OpenStore:
    """The store of one generation, closed when it is retired and nobody reads it any more."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.number = store.generation
        self.is_replaced = False
        """Whether its files are to go when it is closed: ``shard.json`` names another store."""
        self._lock = threading.Lock()
        self._readers = 0
        self._retired = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[Store]:
        """Keep it open while something is read. Raises Unavailable where it is closed already, and
        ShardUnavailable where the disk fails.
        """
        with self._lock:
            if self._retired and self._readers == 0:
                raise Unavailable(f"{self.store.path} has been closed: ask again")
            self._readers += 1
        try:
            with unusable_named(self.store.path / DATA_FILE):
                yield self.store
        finally:
            with self._lock:
                self._readers -= 1
                last = self._retired and self._readers == 0
            if last:
                self._close()

    def retire(self) -> None:
        """Close it as soon as nobody reads it."""
        with self._lock:
            idle, self._retired = self._readers == 0 and not self._retired, True
        if idle:
            self._close()

    def _close(self) -> None:
        self.store.close()
        if self.is_replaced:
            remove_store(self.store.path)


class Generation:
    """A store, its bits and its field index. What is kept of one that was replaced is its open
    store only.
    """

    def __init__(self, store: Store, index: BinaryIndex, fields: FieldIndex | None = None) -> None:
        """``fields`` where it was made before: else what the store has of it."""
        assert store.generation == index.generation, (store.generation, index.generation)
        self.open_store = OpenStore(store)
        self.index = index
        self.fields = FieldIndex(store) if fields is None else fields

    @property
    def store(self) -> Store:
        return self.open_store.store

    def check(self, *, in_doubt: bool = False) -> None:
        """Raise WritesStopped where the bits in RAM are not those of the store's rows.

        Rows written then would have their bits at wrong places, and a snapshot would seal that. The
        writer's lock is held. ``in_doubt`` as in ``Commits.stop``.
        """
        bits, rows = len(self.index), self.store.rows
        if bits != rows:
            reason = f"RAM has the bits of {bits} rows, the store has {rows} rows"
            raise self.store.stop_writes(reason, in_doubt=in_doubt)

    def keep_up(self) -> None:
        """Save what a commit has left in RAM, where that is much. The writer's lock is held.

        Whatever fails: what was written is durable, and found.
        """
        try:
            if self.store.pending_ids >= PENDING_MAX:
                self.store.merge_ids(contextlib.nullcontext(), wait=False)
            self.fields.keep_up()
        except Exception as error:
            log.warning("ids or the field index stay in RAM: %s", error)

    def bury(self, number: int, rows: Sequence[int]) -> int:
        """Let ``rows`` die, which are damaged; returns how many lived. The writer's lock is held.
        Raises Unavailable where they are of another generation than this, and as ``Store.write``.
        """
        if number != self.store.generation:
            raise Unavailable(f"{self.store.path} has other row numbers now: check the rows again")
        self.check()
        return bury(self.store, rows, lambda it: self.index.apply(self._no_bits, it.dead))

    @property
    def _no_bits(self) -> NDArray[np.uint8]:
        return np.empty((0, self.index.row_bytes), dtype=np.uint8)

    def damaged_rows(self) -> int:
        """How many living rows are known to be damaged: met by a search, or without bits."""
        moment = self.index.moment()
        known = self.store.reader.damaged | moment.lost
        rows = np.array([row for row in known if row < len(moment)], dtype=np.int64)
        return int(np.count_nonzero(moment.is_alive(rows)))

    @contextlib.contextmanager
    def reading(self) -> Iterator[Generation]:
        """Keep its store open while something is read."""
        with self.open_store.reading():
            yield self
