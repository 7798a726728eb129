"""Compaction: the living rows of a shard, copied into a new generation that takes its place.

The new store lies in a folder of its own, which no store had before, and is filled while searches
and writes go on. Then, with writes paused for a moment, rows written since are added, and
``shard.json`` is replaced, which names the folder: interrupted anywhere before, the old generation
stands. The old folder goes when nobody reads it any more. Damaged rows are copied with their
checksum still invalid, so compaction never hides corruption. (A damaged version is dropped.)

A compaction writes the current format, whatever it reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, StorageFull, Unavailable, reason
from bitsift.shard_worker.bits.index import BinaryIndex
from bitsift.shard_worker.bits.lists import LISTS_FILE, ListedBits, write_living
from bitsift.shard_worker.fields.index import SEAL_ROWS, FieldIndex
from bitsift.shard_worker.format_version import CURRENT
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.layout import (
    SHARD_FILE,
    read_shard_file,
    renamed_over,
    store_name,
    sync_folder,
)
from bitsift.shard_worker.leftovers import remove_store
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.packing import pack_rows, resalt, unpack_rows
from bitsift.shard_worker.store.successor import Successor
from bitsift.shard_worker.types import ShardSettings

_CHUNK_ROWS = 1 << 13
_MARGIN, _RESERVE_BYTES = 1.02, 16 << 20
"""What is asked for beyond the bytes that are in use: pages of a B-tree are not filled alike, and
room is reserved in steps."""
_FEW_ROWS = 1 << 12
"""So many rows may be left to copy while writes wait: some 0.1 s."""


OnRows = Callable[[int, int], None]
"""Called with the rows that were looked at so far, and how many there are."""


def bytes_beside(store: Store) -> int:
    """Disk that a compaction of ``store`` needs in addition to what is in use."""
    living = (store.rows - store.dead_rows) / max(store.rows, 1)
    lists = store.path.parent / LISTS_FILE
    lists_bytes = lists.stat().st_size if lists.exists() else 0
    return int((store.used_bytes * _MARGIN + lists_bytes) * living) + _RESERVE_BYTES


class Compaction:
    """The next generation of a shard while it is made; left with an error, it is removed."""

    def __init__(
        self,
        folder: Path,
        old: Generation,
        settings: ShardSettings,
        go_on: Callable[[], None],
        on_rows: OnRows = lambda _, __: None,
    ) -> None:
        """``go_on`` is called now and then, and raises where this is to end."""
        number = old.store.generation + 1
        self._folder = folder
        self._settings = settings
        self._file = dataclasses.replace(
            read_shard_file(folder), store=store_name(number), format=CURRENT
        )
        self._aside = folder / self._file.store
        remove_store(self._aside)
        if os.path.lexists(self._aside):
            raise Unavailable(
                f"{self._aside} blocks the compaction and was not left by one; move it away"
            )
        self._old = old
        self._go_on = go_on
        self._on_rows = on_rows
        self._has_place = False
        self._copied = 0
        self._numbers = np.empty(0, dtype=np.int64)  # by old row; -1 for rows that were dead
        identity = self._file.identity
        try:
            bytes_max = settings.store_bytes_max
            self._store = Store.create(self._aside, identity, number, bytes_max)
            self._successor = Successor(self._store, old.store)
        except BaseException:
            remove_store(self._aside)
            raise
        self._index = BinaryIndex(old.index.row_bytes, identity.index_uuid, number)
        self._fields = FieldIndex(self._store)

    def __enter__(self) -> Compaction:
        return self

    def run(self, writing: AbstractContextManager[Any]) -> None:
        """Copy all that is there now; ``writing`` is the lock of the writer. Minutes for millions.

        Raises StorageFull, WritesStopped.
        """
        with contextlib.suppress(StorageFull):  # those left over are read from the documents
            self._old.store.merge_ids(writing)
        if self._old.store.tombstones is not None:
            with writing:
                self._old.store.tombstones.follow()
        self._successor.copy_tombstones(self._settings.tombstone_grace_s)
        merged = self._old.store.counters.merged_rows
        self._copy_lists()
        self._copy(merged)
        living = int(np.count_nonzero(self._numbers[:merged] >= 0))
        self._store.ids.fill(self._living_ids(merged), living)
        while self._old.store.rows - self._copied > _FEW_ROWS:
            self._copy_with_ids(self._old.store.rows)
        self._fields.seal(contextlib.nullcontext(), self._go_on, SEAL_ROWS)

    def finish(self) -> Generation:
        """Add rows written since, and replace the old generation. No write may run.

        Raises StorageFull, WritesStopped, OSError; the old generation stands then. Once the new
        one has its name, nothing is raised any more.
        """
        self._copy_with_ids(self._old.store.rows)
        dead = self._old.store.dead()
        died = self._numbers[dead]
        died = died[died >= 0]
        if len(died):
            self._successor.bury(died)
            self._index.mark_dead(died)
        self._successor.finish(self._settings.tombstone_grace_s)
        lost = np.array(sorted(self._old.index.moment().lost), dtype=np.int64)
        self._index.note_lost(self._numbers[lost].tolist())
        new = Generation(self._store, self._index, self._fields)
        self._check_whole(new)
        with renamed_over(self._folder / SHARD_FILE) as file:
            file.write(self._file.packed())
        self._has_place = True
        try:
            sync_folder(self._folder)
        except BaseException as error:  # a crash may bring either generation back: write to neither
            self._store.stop_writes(f"the compacted store may not be durable: {reason(error)}")
        return new

    def _check_whole(self, new: Generation) -> None:
        """Both generations have bits for all their rows, and as many living rows."""
        self._old.check()
        new.check()
        there, copied = (it.rows - it.dead_rows for it in (self._old.store, new.store))
        if there != copied:
            raise self._store.stop_writes(f"it has {copied} documents, {there} were to be copied")

    def settle(self) -> None:
        """After ``finish``: keep the snapshot of the bits."""
        if self._index.listed is None:
            (self._folder / LISTS_FILE).unlink(missing_ok=True)
        self._index.save(self._folder)
        if self._index.listed is not None:
            self._index.listed.hold()
        self._store.reader.save_hints(self._store.path, self._store.rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After an error the old generation is left as it is.

        If its data file has lost its name, what is written to it would be gone with this process.
        """
        if kind is None:
            return
        if self._has_place or self._is_named():
            for store in (self._old.store, self._store):
                store.stop_writes(f"a compaction was interrupted at its end: {kind.__name__}")
            return
        self._store.close()
        remove_store(self._aside)

    def _is_named(self) -> bool:
        """Whether ``shard.json`` names the new store, or nobody knows what it names."""
        try:
            return read_shard_file(self._folder).store == self._aside.name
        except (BitsiftError, OSError):
            return True

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
            self._go_on()
            self._on_rows(start, self._old.store.rows)
            rows = np.arange(start, min(start + _CHUNK_ROWS, stop), dtype=np.int64)
            self._copy_rows(rows[alive[rows - first]], rows, with_bits)
        self._copied = stop

    def _copy_with_ids(self, stop: int) -> None:
        """The same, of rows whose ids are not in the old map: they are read from the documents."""
        first = self._store.rows
        self._copy(stop)
        self._store.ids.read(first)

    def _living_ids(self, merged: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """The entries of the id map for the rows before ``merged`` that were copied."""
        for entries in self._old.store.ids.entries():
            self._go_on()
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
        reader = self._old.store.reader
        records = np.concatenate(
            [part for _, part in reader.scan_records(int(chunk[0]), int(chunk[-1]) + 1)]
        )[living - chunk[0]]
        numbers = self._numbers[living]
        documents = reader.copied_documents(living, numbers)
        versions = self._old.store.row_versions(int(chunk[0]), int(chunk[-1]) + 1)
        moved = resalt(records, living, numbers)
        self._successor.put_rows(moved, documents, versions[living - chunk[0]])
        if with_bits:
            self._index.add(self._old.index.bits_of(living))
