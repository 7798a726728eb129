"""What keeps a shard fast and small: training, compaction, snapshots of the bits.

Searches and writes go on during all of it; one kind of it at a time. What it needs of the writer is
the writer's lock, for moments.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bitsift.errors import Corrupt
from bitsift.shard_worker.bits.clustering import lists_for
from bitsift.shard_worker.compaction import Compaction, OnRows
from bitsift.shard_worker.fields.index import SEAL_ROWS
from bitsift.shard_worker.format_version import CURRENT
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.generations import Generations
from bitsift.shard_worker.search.probing import Probing
from bitsift.shard_worker.store.lmdb_file import disk_named
from bitsift.shard_worker.types import ShardSettings

GROWTH_MAX = 0.1
"""Lists are rebuilt when the rows outside of them, which are always scanned, exceed this share."""
SNAPSHOT_ROWS = 1 << 16
"""A snapshot of the bits is written when it lacks so many rows: a start replays fewer, in 1-2 s."""
COMPACT_ROWS_MIN = 1_000
"""Fewer deleted rows are not worth a compaction."""
COMPACT_AGAIN_S = 600.0
"""After a compaction that failed, for want of disk mostly."""


class Maintenance:
    """The maintenance of one open shard. Any number of threads."""

    def __init__(
        self,
        folder: Path,
        settings: ShardSettings,
        generations: Generations,
        probing: Probing,
        writing: AbstractContextManager[Any],
    ) -> None:
        """``writing`` is the writer's lock."""
        self._folder = folder
        self._settings = settings
        self._generations = generations
        self._probing = probing
        self._writing = writing
        self._compact_after = 0.0
        self.lock = threading.Lock()
        """Held while anything of it is done."""
        self.busy: str | None = None
        """What is being done."""

    @property
    def _current(self) -> Generation:
        return self._generations.current

    def maintain(self) -> None:
        """Do what is due of training, compaction and a snapshot of the bits.

        Raises StorageFull, WritesStopped, Unavailable.
        """
        with self.lock:
            self._generations.check_open()
            self._generations.close_due()
            self._current.store.reap_readers()
            self._current.fields.keeps_up = False  # it is done here, beside the writes
        if self.wants_training():
            self.train()
        if self._probing.wants_first(self._current) and self.busy is None:
            with self._doing("measuring") as generation:
                self._probing.measure_first(generation)
        if self.wants_compaction():
            self.compact()
        if self._current.index.unsaved_rows >= SNAPSHOT_ROWS:
            self.save_bits()
        if self._current.fields.is_due():
            with self._doing("indexing") as generation:
                self._seal_fields(generation, SEAL_ROWS)
        else:
            self._current.fields.forget_sealed()

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[Generation]:
        """One maintenance task at a time, on a generation that stays current during it.

        Raises Unavailable when the shard is closed, WritesStopped where its bits are not those of
        its store: nothing is made of them.
        """
        with self.lock:
            self._generations.check_open()
            with self._writing:
                self._current.check()
            self.busy = what
            try:
                yield self._current
            finally:
                self.busy = None

    def wants_training(self) -> bool:
        """Whether there are enough rows for lists, and many more than the lists were made for."""
        rows, listed = len(self._current.index), self._current.index.listed
        clustered = 0 if listed is None else len(listed)
        grown = rows - clustered > GROWTH_MAX * clustered
        whole = not self._current.index.moment().lost
        return rows >= self._settings.train_rows_min and grown and whole and self.busy is None

    def train(self) -> None:
        """See ``Shard.train``."""
        with self._doing("training") as generation:
            index = generation.index
            if len(index) == 0:
                return
            if lost := index.moment().lost:
                raise Corrupt(
                    f"{self._folder}: {len(lost)} rows have damaged codes, so no lists are built; "
                    "bitsift verify says which documents to add again"
                )
            with disk_named(f"{self._folder}: the approximate index was not built"):
                listed = index.write_lists(self._folder, lists_for(len(index)))
                with self._writing:
                    generation.check()
                    index.adopt(listed, generation.store.dead())
                    generation.check()
                index.save(self._folder)
                self._probing.measure(generation)

    def wants_compaction(self) -> bool:
        """Whether so many rows are dead that it pays to copy the living ones."""
        store = self._current.store
        many = store.dead_rows > max(COMPACT_ROWS_MIN, self._settings.compact_share * store.rows)
        return many and self.busy is None and time.monotonic() > self._compact_after

    def compact(self) -> bool:
        """See ``Shard.compact``."""
        with self._doing("compacting") as old:
            return self._replaced(old, old.store.dead_rows > 0)

    def upgrade(self, on_rows: OnRows) -> bool:
        """See ``Shard.upgrade``."""
        with self._doing("compacting") as old:
            return self._replaced(old, old.store.format.major < CURRENT.major, on_rows)

    def _replaced(
        self, old: Generation, wanted: bool, on_rows: OnRows = lambda _, __: None
    ) -> bool:
        if not wanted:
            return False
        try:
            self._replace(old, on_rows)
        except BaseException:
            self._compact_after = time.monotonic() + COMPACT_AGAIN_S
            raise
        return True

    def _replace(self, old: Generation, on_rows: OnRows) -> None:
        """Replace ``old`` with the compacted generation."""
        go_on = self._generations.check_open
        with (
            disk_named(f"{self._folder} was not compacted"),
            Compaction(self._folder, old, self._settings, go_on, on_rows) as compaction,
        ):
            compaction.run(self._writing)
            with self._writing:
                new = compaction.finish()
                self._generations.replace(new)
        with disk_named(f"{self._folder} was compacted, but its bits were not saved"):
            compaction.settle()
            self._probing.keep(old, new)

    def save_bits(self) -> None:
        """See ``Shard.save_bits``."""
        with self._doing("saving") as generation:
            generation.store.merge_ids(self._writing)
            with self._writing:
                generation.check()
            store = generation.store
            with disk_named(f"{self._folder}: the bits were not saved"):
                store.reader.save_hints(store.path, store.rows)
                generation.index.save(self._folder)
            self._seal_fields(generation)

    def _seal_fields(self, generation: Generation, rows_min: int = 1) -> None:
        go_on = self._generations.check_open
        with disk_named(f"{self._folder}: the field index was not saved"):
            generation.fields.seal(self._writing, go_on, rows_min)
