"""Compaction: the living rows of a shard, copied into a new generation that takes its place.

Everything is made aside, in ``store.next``, while searches and writes go on. Then, with writes held
for a moment, what came meanwhile is added, and one rename puts the new data file in the place of
the old one: interrupted anywhere before, the old generation stands. What is damaged is copied as it
is, with a checksum that still does not fit: compaction launders nothing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shard_worker.datafile import DATA_FILE
from shard_worker.errors import StorageFull
from shard_worker.generation import Generation
from shard_worker.index import BinaryIndex
from shard_worker.layout import NEXT_FOLDER, STORE_FOLDER, sync_folder
from shard_worker.lists import LISTS_FILE, ListedBits, write_living
from shard_worker.packing import pack_rows, resalt, unpack_rows
from shard_worker.store import Store
from shard_worker.types import ShardIdentity

_CHUNK_ROWS = 1 << 13
_FEW_ROWS = 1 << 12
"""So many rows may be left to copy while writes wait: some 0.1 s."""


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted compaction left in the shard directory ``folder``."""
    shutil.rmtree(folder / NEXT_FOLDER, ignore_errors=True)


class Compaction:
    """The next generation of a shard while it is made; left with an error, it is removed."""

    def __init__(
        self, folder: Path, old: Generation, identity: ShardIdentity, max_bytes: int
    ) -> None:
        remove_leftovers(folder)
        self._folder = folder
        self._aside = folder / NEXT_FOLDER
        self._old = old
        self._copied = 0
        self._numbers = np.empty(0, dtype=np.int64)  # by old row; -1 for rows that were dead
        number = old.store.generation + 1
        try:
            self._store = Store.create(self._aside, identity, number, max_bytes)
        except BaseException:
            remove_leftovers(folder)
            raise
        self._index = BinaryIndex(old.index.row_bytes, identity.index_uuid, number)

    def __enter__(self) -> Compaction:
        return self

    def run(self, writing: AbstractContextManager[Any]) -> None:
        """Copy all that is there now; ``writing`` is the lock of the writer. Minutes for millions.

        Raises StorageFull, WritesStopped.
        """
        with contextlib.suppress(StorageFull):  # those left over are read from the documents
            self._old.store.merge_ids(writing)
        merged = self._old.store.counters.merged_rows
        self._copy_lists()
        self._copy(merged)
        living = int(np.count_nonzero(self._numbers[:merged] >= 0))
        self._store.put_ids(self._living_ids(merged), living)
        while self._old.store.rows - self._copied > _FEW_ROWS:
            self._copy_with_ids(self._old.store.rows)

    def finish(self) -> Generation:
        """Add what came meanwhile, and take the old generation's place. No write may run.

        Raises StorageFull, WritesStopped, OSError; the old generation stands then. Once the new
        one has its name, nothing is raised any more.
        """
        self._copy_with_ids(self._old.store.rows)
        dead = self._old.store.dead()
        died = self._numbers[dead]
        died = died[died >= 0]
        if len(died):
            self._store.bury(died)
            self._index.mark_dead(died)
        place = self._folder / STORE_FOLDER
        (self._aside / DATA_FILE).replace(place / DATA_FILE)
        self._store.moved_to(place)
        try:
            sync_folder(place)
        except OSError as error:  # a crash may bring either generation back: write to neither
            self._store.stop_writes(f"the compacted store is not safe on the disk: {error}")
        return Generation(self._store, self._index)

    def settle(self) -> None:
        """After ``finish``: keep the snapshot of the bits, remove the rest of what lay aside."""
        listed = self._index.listed
        if listed is None:
            (self._folder / LISTS_FILE).unlink(missing_ok=True)
        else:
            listed.move(self._folder / LISTS_FILE)
            listed.hold()
        remove_leftovers(self._folder)
        self._store.held.save_hints(self._store.path, self._store.rows)
        self._index.save(self._folder)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After an error the old generation is left as it is."""
        if kind is not None:
            self._store.close()
            remove_leftovers(self._folder)

    def _copy_lists(self) -> None:
        """The rows that are in lists: first, so that they are the first rows again."""
        listed = self._old.index.listed
        if listed is None:
            return
        self._copy(len(listed), with_bits=False)
        if not self._store.rows:
            return  # none of them is alive: no lists
        owner = self._index.owner
        path = write_living(self._aside, owner, listed, self._numbers)
        nobody = np.empty(0, dtype=np.int64)
        self._index.adopt(ListedBits(path, self._index.row_bytes, owner), nobody)

    def _copy(self, stop: int, *, with_bits: bool = True) -> None:
        """Copy the living rows from the first that was not copied up to ``stop``."""
        first = self._copied
        if stop <= first:
            return
        alive = np.ones(stop - first, dtype=np.bool_)
        dead = self._old.store.dead()
        alive[dead[(dead >= first) & (dead < stop)] - first] = False
        numbers = np.where(alive, self._store.rows + np.cumsum(alive) - 1, -1)
        self._numbers = np.concatenate([self._numbers, numbers])
        for start in range(first, stop, _CHUNK_ROWS):
            rows = np.arange(start, min(start + _CHUNK_ROWS, stop), dtype=np.int64)
            self._copy_rows(rows[alive[rows - first]], rows, with_bits)
        self._copied = stop

    def _copy_with_ids(self, stop: int) -> None:
        """The same, of rows whose ids are not in the old map: they are read from the documents."""
        first = self._store.rows
        self._copy(stop)
        self._store.read_ids(first)

    def _living_ids(self, merged: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """The entries of the id map for the rows before ``merged`` that were copied."""
        for entries in self._old.store.entries_of_ids():
            living = []
            for key, held in entries:
                rows = [int(self._numbers[row]) for row in unpack_rows(held) if row < merged]
                rows = [row for row in rows if row >= 0]
                if rows:
                    living.append((key, pack_rows(rows)))
            yield living

    def _copy_rows(
        self, living: NDArray[np.int64], chunk: NDArray[np.int64], with_bits: bool
    ) -> None:
        if not len(living):
            return
        held = self._old.store.held
        records = np.concatenate(
            [part for _, part in held.scan_records(int(chunk[0]), int(chunk[-1]) + 1)]
        )[living - chunk[0]]
        numbers = self._numbers[living]
        documents = held.copied_documents(living, numbers)
        self._store.put_copied(resalt(records, living, numbers), documents)
        if with_bits:
            self._index.add(self._old.index.bits_of(living))
