"""One generation of a shard: the store and the bits whose row numbers belong together.

Compaction numbers the rows anew. A query that was answered by the generation before may still ask
for its documents, so that one stays open for a while, and what leaves the shard are *references*:
the row with the number of its generation in the bits above it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from shard_worker.index import BinaryIndex
from shard_worker.store import Store

_ROW_BITS = 40


class OpenStore:
    """The store of one generation, closed when it is retired and nobody reads it any more."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.number = store.generation
        self._lock = threading.Lock()
        self._readers = 0
        self._retired = False

    @contextlib.contextmanager
    def reading(self) -> Iterator[Store]:
        """Keep it open while something is read."""
        with self._lock:
            self._readers += 1
        try:
            yield self.store
        finally:
            with self._lock:
                self._readers -= 1
                last = self._retired and self._readers == 0
            if last:
                self.store.close()

    def retire(self) -> None:
        """Close it as soon as nobody reads it. No one may begin to read it after this."""
        with self._lock:
            idle, self._retired = self._readers == 0 and not self._retired, True
        if idle:
            self.store.close()


class Generation:
    """A store and its bits. What is kept of one that was replaced is its open store only."""

    def __init__(self, store: Store, index: BinaryIndex) -> None:
        assert store.generation == index.generation, (store.generation, index.generation)
        self.open_store = OpenStore(store)
        self.index = index

    @property
    def store(self) -> Store:
        return self.open_store.store

    def references(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """References to ``rows`` (n,) of this generation."""
        return rows | (self.open_store.number << _ROW_BITS)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Generation]:
        """Keep its store open while something is read."""
        with self.open_store.reading():
            yield self


def row_of(reference: int) -> tuple[int, int]:
    """Generation and row that a reference leads to."""
    return reference >> _ROW_BITS, reference & ((1 << _ROW_BITS) - 1)
