"""One partition of the index: store + bits + funnel. Knows nothing of Ray, HTTP or models."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shard_worker.clustering import lists_for
from shard_worker.codes import Calibration
from shard_worker.compaction import Compaction, remove_leftovers
from shard_worker.errors import (
    BitsiftError,
    NotFound,
    StorageFull,
    Unavailable,
    WritesStopped,
)
from shard_worker.funnel import Funnel
from shard_worker.generation import Generation, OpenStore, row_of
from shard_worker.group_commit import GroupCommit
from shard_worker.ids import PENDING_MAX
from shard_worker.index import BinaryIndex, open_index
from shard_worker.layout import (
    SHARD_FILE,
    STORE_FOLDER,
    FolderLock,
    check_identity,
    read_identity,
    sync_folder,
    write_identity,
)
from shard_worker.store import IDS_CHECKED_AT_START, Store
from shard_worker.tuning import QUERIES as TUNING_QUERIES
from shard_worker.tuning import (
    TUNING_FILE,
    choose_nprobe,
    keep_tuning,
    read_tuning,
    scan_seconds_per_row,
    write_tuning,
)
from shard_worker.types import (
    Candidates,
    Deletes,
    Document,
    Documents,
    Mode,
    Operation,
    Outcome,
    Query,
    ShardIdentity,
    ShardSettings,
    ShardStatus,
)

log = logging.getLogger(__name__)

GROWTH_MAX = 0.1
"""Lists are made anew when the rows beside them, which are always scanned, are a larger share."""
SNAPSHOT_ROWS = 1 << 16
"""A snapshot of the bits is written when it lacks so many rows: a start replays fewer, in 1-2 s."""
COMPACT_ROWS_MIN = 1_000
"""Fewer dead rows are not worth a compaction."""
COMPACT_AGAIN_S = 600.0
"""After a compaction that failed, for want of disk mostly."""
RETIRED_S = 90.0
"""How long the store before a compaction stays open: longer than any request (60 s)."""


class Shard:
    """An open shard directory. Any number of threads."""

    def __init__(
        self,
        folder: Path,
        calibration: Calibration,
        expected: ShardIdentity,
        settings: ShardSettings = ShardSettings(),  # noqa: B008 (frozen)
    ) -> None:
        """Open the shard in ``folder``, replaying into RAM what its bits snapshot lacks.

        Raises NotFound when there is no shard, FormatMismatch when it is another one, Corrupt when
        its store is not what ``shard.json`` promises, Unavailable when another process has it open.
        """
        self.folder = folder
        self.identity = read_identity(folder)
        check_identity(folder, self.identity, expected)
        self._calibration = calibration
        self._settings = settings
        self._lock = FolderLock(folder)
        self._writes = GroupCommit()
        self._upkeep = threading.Lock()
        """Held by training, compaction and snapshots of the bits: one of them at a time."""
        self._busy: str | None = None
        self._retired: list[tuple[float, OpenStore]] = []
        self._compact_after = 0.0
        self._funnel = Funnel(self.identity.shard, calibration)
        try:
            self._current = self._open_generation()
        except BaseException:
            self._lock.release()
            raise

    @staticmethod
    def create(folder: Path, identity: ShardIdentity) -> None:
        """Make an empty shard directory; ``shard.json`` comes last and makes it valid."""
        folder.mkdir(parents=True, exist_ok=True)
        Store.create(folder / STORE_FOLDER, identity).close()
        sync_folder(folder / STORE_FOLDER)
        write_identity(folder, identity)
        sync_folder(folder.parent)

    @staticmethod
    def exists(folder: Path) -> bool:
        return (folder / SHARD_FILE).exists()

    def close(self) -> None:
        """Release the directory. Nothing may be read or written any more."""
        for _, open_store in self._retired:
            open_store.retire()
        self._current.open_store.retire()
        self._lock.release()

    def _open_generation(self) -> Generation:
        remove_leftovers(self.folder)
        identity = self.identity
        store = Store(self.folder / STORE_FOLDER, identity, self._settings.store_bytes_max)
        try:
            self._check_ids(store)
            index = BinaryIndex(identity.width // 8, identity.index_uuid, store.generation)
            rebuild = functools.partial(self._bits_from_store, store)
            open_index(self.folder, index, store.rows, rebuild)
            index.mark_dead(store.dead())
            self._nprobe = self._opened_lists(store, index)
            self._scan_s_per_row = scan_seconds_per_row(index)
        except BaseException:
            store.close()
            raise
        return Generation(store, index)

    def _check_ids(self, store: Store) -> None:
        """The id map is derived from the documents: a damaged one is made anew."""
        if store.counters.merged_rows <= IDS_CHECKED_AT_START and not store.ids_are_intact():
            log.warning("%s: the id map is damaged and is made anew", self.folder)
            store.rebuild_ids()

    def _bits_from_store(self, store: Store, first: int, rows: int) -> Iterator[NDArray[np.uint8]]:
        """The bits of rows; those of damaged codes are lost, and every answer says so."""
        for start, codes, intact in store.held.scan_codes(first, rows):
            if not intact.all():
                damaged = start + np.flatnonzero(~intact)
                self._funnel.lost_bits += len(damaged)
                self._funnel.corrupt_rows.update(damaged.tolist())
            yield self._calibration.bits(codes)

    # --- upkeep ----------------------------------------------------------------------------

    def maintain(self) -> None:
        """Do what is due of training, compaction and a snapshot of the bits.

        Searches and writes go on meanwhile. Raises StorageFull, WritesStopped.
        """
        with self._upkeep:
            self._close_retired()
        self._current.store.reap_readers()
        if self.wants_training():
            self.train()
        if self.wants_compaction():
            self.compact()
        if self._current.index.unsaved_rows >= SNAPSHOT_ROWS:
            self.save_bits()

    @contextlib.contextmanager
    def _doing(self, what: str) -> Iterator[Generation]:
        """One kind of upkeep at a time, on the generation that stays meanwhile."""
        with self._upkeep:
            self._busy = what
            try:
                yield self._current
            finally:
                self._busy = None

    def wants_training(self) -> bool:
        """Whether there are enough rows for lists, and many more than the lists were made for."""
        rows, listed = len(self._current.index), self._current.index.listed
        clustered = 0 if listed is None else len(listed)
        grown = rows - clustered > GROWTH_MAX * clustered
        return rows >= self._settings.train_rows_min and grown and self._busy is None

    def train(self) -> None:
        """Group the bits of all rows into lists, for approximate searches; minutes for millions.

        Searches and writes go on meanwhile; the new lists take the place of the old bits at once.
        Raises StorageFull when the file of lists does not fit on the disk.
        """
        with self._doing("training") as generation:
            index = generation.index
            if len(index) == 0:
                return
            try:
                listed = index.write_lists(self.folder, lists_for(len(index)))
            except OSError as error:
                raise StorageFull(f"{self.folder}: no approximate index ({error})") from error
            with self._writes.lock:
                index.adopt(listed, generation.store.dead())
            index.save(self.folder)
            self._nprobe = self._opened_lists(generation.store, index)
            self._scan_s_per_row = scan_seconds_per_row(index)

    def _opened_lists(self, store: Store, index: BinaryIndex) -> int:
        """Take the lists into RAM; the nprobe that was measured for them, or is now."""
        if index.listed is None:
            return 0
        index.listed.hold()
        nprobe = read_tuning(self.folder, len(index.listed))
        if nprobe is None:
            nprobe, curve = choose_nprobe(index, self._calibration, self._some_vectors(store))
            write_tuning(self.folder, len(index.listed), nprobe, curve)
        return nprobe

    def _some_vectors(self, store: Store) -> NDArray[np.float32]:
        """Decoded unit vectors of random rows, float32 (n, width), to tune with."""
        count = min(TUNING_QUERIES, store.rows)
        rows = np.random.default_rng(store.rows).choice(store.rows, count, False)
        codes, intact = store.held.read_codes(rows)
        vectors = self._calibration.decode(codes[intact])
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def wants_compaction(self) -> bool:
        """Whether so many rows are dead that it pays to copy the living ones."""
        store = self._current.store
        many = store.dead_rows > max(COMPACT_ROWS_MIN, self._settings.compact_share * store.rows)
        return many and self._busy is None and time.monotonic() > self._compact_after

    def compact(self) -> bool:
        """Copy the living rows into a new generation, which takes the place of this one.

        Searches and writes go on; at the end writes wait for a moment. The disk holds both until
        then. Returns whether there was anything to drop. Raises StorageFull, WritesStopped.
        """
        with self._doing("compacting") as old:
            if old.store.dead_rows == 0:
                return False
            bytes_max = self._settings.store_bytes_max
            try:
                with Compaction(self.folder, old, self.identity, bytes_max) as compaction:
                    compaction.run(self._writes.lock)
                    with self._writes.lock:
                        new = compaction.finish()
                        # First kept, then replaced: its documents may be asked for at any moment.
                        self._retired.append((time.monotonic() + RETIRED_S, old.open_store))
                        self._current = new
            except BaseException:
                self._compact_after = time.monotonic() + COMPACT_AGAIN_S
                raise
            compaction.settle()
            if old.index.listed is not None and new.index.listed is not None:
                keep_tuning(self.folder, len(old.index.listed), len(new.index.listed))
        return True

    def _close_retired(self) -> None:
        """Let go of stores that no query can ask for any more; ``_upkeep`` is held."""
        due = [open_store for at, open_store in self._retired if time.monotonic() > at]
        self._retired = [(at, kept) for at, kept in self._retired if kept not in due]
        for open_store in due:
            open_store.retire()

    def save_bits(self) -> None:
        """Write all that is only in RAM, so that the next start need not read codes or ids.

        Searches and writes go on meanwhile.
        """
        with self._doing("saving") as generation:
            generation.store.merge_ids(self._writes.lock)
            store = generation.store
            store.held.save_hints(store.path, store.rows)
            generation.index.save(self.folder)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[ShardSnapshot]:
        """The shard as it is now, to be copied while searches, writes and compaction go on."""
        with self._current.reading() as generation:
            bits = sorted(self.folder.glob("bits-*.bits"))
            names = [self.folder / SHARD_FILE, *bits, self.folder / TUNING_FILE]
            sealed = tuple(path for path in names if path.exists())
            yield ShardSnapshot(generation.store.copy_data, sealed)

    # --- searching -------------------------------------------------------------------------

    def search(self, queries: Sequence[Query]) -> list[Candidates]:
        """The candidates of each query, one ``Candidates`` each, in order.

        Queries of one kind share one pass over the bits.
        """
        with self._current.reading() as generation:
            return self._funnel.search(generation, queries, self._lists_to_visit)

    def _lists_to_visit(self, query: Query) -> int | None:
        """How many lists are probed; None for an exact scan."""
        affordable = self.exact_scan_ms <= self._settings.exact_budget_ms
        if query.mode is Mode.EXACT or (query.mode is Mode.AUTO and affordable):
            return None
        if self._current.index.listed is None:
            return None
        return query.nprobe or self._nprobe or None  # none while new lists are being measured

    @property
    def exact_scan_ms(self) -> float:
        """What an exact scan of all rows takes, from a measurement when the shard was opened."""
        return self._scan_s_per_row * len(self._current.index) * 1e3

    # --- documents -------------------------------------------------------------------------

    def documents(self, references: Sequence[int]) -> list[Document | BitsiftError]:
        """The documents of rows that ``search`` returned; for a damaged one, the error that says
        so in its place.
        """
        places = [row_of(reference) for reference in references]
        found: dict[int, Document | BitsiftError] = {}
        for number in {number for number, _ in places}:
            of_number = [place for place, (its, _) in enumerate(places) if its == number]
            rows = [places[place][1] for place in of_number]
            found.update(zip(of_number, self._documents_of(number, rows), strict=True))
        return [found[place] for place in range(len(places))]

    def _documents_of(self, number: int, rows: Sequence[int]) -> list[Document | BitsiftError]:
        for open_store in (self._current.open_store, *(kept for _, kept in self._retired)):
            if open_store.number == number:
                with open_store.reading() as store:
                    return self._funnel.documents(store, rows)
        gone = Unavailable(
            f"{self.folder} was compacted more than {RETIRED_S:.0f} s ago: ask again"
        )
        return [gone] * len(rows)

    def document(self, document_id: str) -> Document:
        """The living document with this id. Raises NotFound or ChecksumMismatch."""
        with self._current.reading() as generation:
            row = generation.store.find(document_id)
            if row is None:
                raise NotFound(f"there is no document with id {document_id!r}")
            (found,) = self._funnel.documents(generation.store, [row])
        if isinstance(found, BitsiftError):
            raise found
        return found

    def positions_of(self, ids: Sequence[str]) -> list[int | None]:
        """For each id the load position it was stored with last, None where it never was."""
        with self._current.reading() as generation:
            return generation.store.positions_of(ids)

    def holds(self, ids: Sequence[str], digests: Sequence[bytes]) -> list[bool]:
        """For each id whether its document says what ``content_digest`` gave ``digests``.

        False as well where its vector was given, not made by the model.
        """
        with self._current.reading() as generation:
            return generation.store.holds(ids, digests)

    # --- writing ---------------------------------------------------------------------------

    def write(self, operations: Sequence[Operation]) -> list[list[Outcome]]:
        """Do ``operations`` durably, in order, and make them searchable; the outcomes of each.

        What several threads ask for at once is committed together. Raises StorageFull when the
        disk has no room, WritesStopped when it failed: operations that raise were not done, those
        before them in the list were.
        """
        return self._writes.write(operations, self._commit)

    def append(self, batch: Documents, *, replace: bool = False) -> list[Outcome]:
        """``write`` one batch; with ``replace`` it takes the place of what has its ids."""
        (outcomes,) = self.write([dataclasses.replace(batch, replace=batch.replace or replace)])
        return outcomes

    def delete(self, ids: Sequence[str]) -> list[Outcome]:
        """``write`` one deletion."""
        (outcomes,) = self.write([Deletes(ids)])
        return outcomes

    def _commit(self, operations: Sequence[Operation]) -> list[list[Outcome]]:
        """One transaction, then the same in RAM: the order that a crash in between may undo."""
        store, index = self._current.store, self._current.index
        written = store.write(operations)
        try:
            index.apply(self._calibration.bits(written.codes), written.dead)
        except BaseException as error:  # RAM and disk differ now: a restart makes them equal
            raise store.stop_writes(f"the bits in RAM were not updated: {error!r}") from error
        if store.pending_ids >= PENDING_MAX:
            try:
                store.merge_ids(contextlib.nullcontext(), wait=False)
            except (StorageFull, WritesStopped) as error:  # what was written is durable
                log.warning("ids stay in RAM: %s", error)
        return written.outcomes

    def status(self) -> ShardStatus:
        store, index = self._current.store, self._current.index
        return ShardStatus(
            shard=self.identity.shard,
            state="READY",
            rows=store.rows,
            documents=store.rows - store.dead_rows,
            bits_bytes=index.memory_bytes,
            disk_bytes=sum(_disk_bytes(path) for path in self.folder.rglob("*")),
            corrupt_rows_seen=len(self._funnel.corrupt_rows),
            lists=0 if index.listed is None else index.listed.lists,
            clustered_rows=0 if index.listed is None else len(index.listed),
            training=self._busy == "training",
            nprobe=self._nprobe,
            exact_scan_ms=round(self.exact_scan_ms, 3),
            generation=store.generation,
            compacting=self._busy == "compacting",
            writes_stopped=store.writes_stopped,
        )


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """One state of a shard. ``copy_data`` writes its data file, as it is committed at that moment,
    to a file descriptor; ``sealed`` are the other files that belong to it: replaced whole, never
    written to, and derived but for ``shard.json``.
    """

    copy_data: Callable[[int], None]
    sealed: tuple[Path, ...]


def _disk_bytes(path: Path) -> int:
    """What a file occupies; it may vanish meanwhile."""
    try:
        return path.stat().st_blocks * 512 if path.is_file() else 0
    except FileNotFoundError:
        return 0
