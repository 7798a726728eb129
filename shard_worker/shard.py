"""One partition of the index: store + bits + funnel. Independent of Ray, HTTP and models."""

from __future__ import annotations

import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    ShardUnavailable,
    Unavailable,
    reason,
)
from bitsift.shard_worker.applied import Applied
from bitsift.shard_worker.clock import NO_VERSION, HybridClock
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.compaction import OnRows
from bitsift.shard_worker.generation import Generation
from bitsift.shard_worker.generations import RETIRED_S, Generations
from bitsift.shard_worker.group_commit import GroupCommit
from bitsift.shard_worker.housekeeping import Maintenance
from bitsift.shard_worker.layout import (
    SHARD_FILE,
    FolderLock,
    ShardFile,
    check_identity,
    read_identity,
    replace_file,
    store_name,
    sync_folder,
)
from bitsift.shard_worker.opening import open_generation
from bitsift.shard_worker.operations import Delete, Documents, Operation, Outcome
from bitsift.shard_worker.own_status import status_of
from bitsift.shard_worker.search.funnel import Answers, Funnel
from bitsift.shard_worker.search.listing import Listed, Listing, listed
from bitsift.shard_worker.search.probing import Probing
from bitsift.shard_worker.snapshot import ShardSnapshot
from bitsift.shard_worker.store import Store, Written
from bitsift.shard_worker.store.counters import NO_PAST, Past
from bitsift.shard_worker.store.lmdb_file import unusable_named
from bitsift.shard_worker.stored import stored
from bitsift.shard_worker.types import (
    EVERYTHING,
    Candidates,
    Document,
    Found,
    Origin,
    Query,
    Read,
    ShardIdentity,
    ShardSettings,
    ShardStatus,
    Wanted,
)
from bitsift.shard_worker.written_since import Changes, Mark, Moment, is_late, written_since
from bitsift.write_status import WriteStatus
from bitsift.write_token import NOTHING, Reached

log = logging.getLogger(__name__)

CLOSE_WAIT_S = 5.0
"""How long closing waits for what still writes: a commit takes milliseconds, a compaction ends with
the rows that it is at. Training does not end before it is done."""


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
        its store is not what ``shard.json`` promises, Unavailable when another process has it open,
        ShardUnavailable when its disk fails.
        """
        self.folder = folder
        self._calibration = calibration
        self._settings = settings
        self._writes = GroupCommit()
        self._late = 0
        self.replica = secrets.randbelow((1 << 64) - 1) + 1
        self._probing = Probing(folder, calibration, settings)
        with unusable_named(folder):
            self.identity = read_identity(folder)
            check_identity(folder, self.identity, expected)
            self._funnel = Funnel(self.identity.shard, self.replica, calibration)
            self._lock: FolderLock | None = FolderLock(folder)
            try:
                self._generations = Generations(folder, self._opened())
            except BaseException:
                self._unlock()
                raise
        self._clock = HybridClock(self._current.store.counters.newest_version)
        self.applied = Applied.beside(folder, self.identity.shard, self._generations)
        lock = self._writes.lock
        self._maintenance = Maintenance(folder, settings, self._generations, self._probing, lock)

    @property
    def _current(self) -> Generation:
        return self._generations.current

    @staticmethod
    def create(folder: Path, identity: ShardIdentity, past: Past = NO_PAST) -> None:
        """Make an empty shard directory; ``shard.json`` comes last and makes it valid."""
        folder.mkdir(parents=True, exist_ok=True)
        file = ShardFile(identity, store_name(0))
        Store.create(folder / file.store, identity, past=past).close()
        sync_folder(folder / file.store)
        replace_file(folder / SHARD_FILE, file.packed())
        sync_folder(folder.parent)

    def close(self) -> None:
        """Stop writes and release the directory; no reads are allowed after that.

        Waits for what still writes, ``CLOSE_WAIT_S`` at most. Beyond that the directory stays
        locked until this process ends: whoever opens it next must never meet a compaction that
        renames and removes files.
        """
        self._generations.is_closed = True
        deadline = time.monotonic() + CLOSE_WAIT_S
        with contextlib.ExitStack() as held:
            for lock in (self._maintenance.lock, self._writes.lock):
                if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                    doing = self._maintenance.busy or "writing"
                    log.warning("%s stays locked until this process ends: %s", self.folder, doing)
                    return
                held.callback(lock.release)
            held.callback(self._unlock)
            held.callback(self._generations.close)

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _opened(self) -> Generation:
        """The current generation, its lists measured."""
        bytes_max = self._settings.store_bytes_max
        generation = open_generation(self.folder, self.identity, self._calibration, bytes_max)
        try:
            self._probing.measure(generation)
        except BaseException:
            generation.store.close()
            raise
        return generation

    # --- maintenance -----------------------------------------------------------------------

    def maintain(self) -> None:
        """Do what is due of training, compaction and a snapshot of the bits.

        Searches and writes go on meanwhile. Raises StorageFull, WritesStopped, Unavailable.
        """
        self._maintenance.maintain()

    def wants_training(self) -> bool:
        """Whether there are enough rows for lists, and many more than the lists were made for."""
        return self._maintenance.wants_training()

    def train(self) -> None:
        """Group the bits of all rows into lists, for approximate searches: minutes for millions.

        Searches and writes go on; the new lists replace the old bits at once. Raises StorageFull
        when the file of lists does not fit on the disk, Unavailable when the disk fails, Corrupt
        while rows are without bits: lists would hide that for good.
        """
        self._maintenance.train()

    def wants_compaction(self) -> bool:
        """Whether so many rows are dead that it pays to copy the living ones."""
        return self._maintenance.wants_compaction()

    def compact(self) -> bool:
        """Copy the rows that are not deleted into a new generation, which replaces this one.

        Searches and writes go on; at the end writes wait for a moment. The disk holds both until
        then. Returns whether there was anything to drop. Raises StorageFull, WritesStopped,
        Unavailable when the shard is closed meanwhile or the disk fails.
        """
        return self._maintenance.compact()

    def upgrade(self, on_rows: OnRows = lambda _, __: None) -> bool:
        """``compact`` a shard in an earlier format; returns whether it was in one."""
        return self._maintenance.upgrade(on_rows)

    def save_bits(self) -> None:
        """Write all that is only in RAM, so that the next start need not read codes or ids.

        Searches and writes go on meanwhile. Raises StorageFull, WritesStopped, Unavailable.
        """
        self._maintenance.save_bits()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[ShardSnapshot]:
        """The shard as it is now, to be copied while searches, writes and compaction go on."""
        with contextlib.ExitStack() as reading:
            with self._writes.lock:  # neither generation nor what names it is replaced now
                generation = reading.enter_context(self._current.reading())
                file = (self.folder / SHARD_FILE).read_bytes()
            yield ShardSnapshot.of(self.folder, generation.store, file)

    def written_since(self, since: int, mark: Mark | None = None) -> Changes:
        """What was written since a version, a part at a time: see written_since.py."""
        with contextlib.ExitStack() as reading:
            with self._writes.lock:
                now = reading.enter_context(self._current.reading())
                moment = Moment.of(now, self.replica, self._late)
            return written_since(now, moment, since, mark)

    def refuse_writes(self, seconds: float) -> None:
        """Refuse writes for so long: see ``GroupCommit.refuse``."""
        self._writes.refuse(seconds)

    # --- searching -------------------------------------------------------------------------

    def search(self, queries: Sequence[Query]) -> list[Candidates]:
        """The candidates of each query, in order; those of one kind share a pass over the bits.

        Raises DeadlineExceeded when one came to its deadline, ReplicaBehind when it lacks a write.
        """
        found = []
        for answer in self.answers(queries):
            if isinstance(answer, BitsiftError):
                raise answer
            found.append(answer)
        return found

    def answers(self, queries: Sequence[Query]) -> Answers:
        """The same, with the error of one query in its place: the others go on."""
        return self.applied.answers(queries, self._search)

    def _search(self, queries: Sequence[Query]) -> Answers:
        with self._current.reading() as generation:
            way_of = functools.partial(self._probing.way, generation)
            return self._funnel.search(generation, queries, way_of)

    @property
    def exact_scan_ms(self) -> float:
        """What an exact scan of all rows takes, from a measurement when the shard was opened."""
        return self._probing.exact_scan_ms(len(self._current.index))

    # --- documents -------------------------------------------------------------------------

    @property
    def newest_version(self) -> int:
        """The greatest version of a document that was written or seen here."""
        return self._clock.newest

    @property
    def origin(self) -> Origin:
        """Of the rows that are found now."""
        return self._funnel.origin(self._current)

    def documents(
        self, origin: Origin, rows: Sequence[int], wanted: Wanted = EVERYTHING
    ) -> list[Found]:
        """``read`` without a deadline."""
        return self.read(Read(origin, rows, wanted))

    def read(self, read: Read) -> list[Found]:
        """The documents of rows that ``search`` returned: what is wanted of them.

        In the place of a damaged one stands the error that says so, of one that does not fit
        ``Unread``, of all of them Unavailable where the rows are of another copy of this shard or
        of a generation that is closed. Raises DeadlineExceeded.
        """
        said = "another copy of it, or to this one before it was reopened"
        if read.origin.replica == self.replica:
            said = f"a generation that was compacted more than {RETIRED_S:.0f} s ago"
            for open_store in self._generations.open_stores():
                if open_store.number == read.origin.generation:
                    with open_store.reading() as store:
                        check = read.deadline.check
                        return self._funnel.documents(store, read.rows, read.wanted, check)
        unknown = Unavailable(f"{self.folder}: the rows belong to {said}; search again")
        return [unknown] * len(read.rows)

    def read_each(self, reads: Sequence[Read]) -> list[list[Found] | DeadlineExceeded]:
        """``read`` of several; in the place of one that came to its deadline its error."""
        found: list[list[Found] | DeadlineExceeded] = []
        for read in reads:
            try:
                found.append(self.read(read))
            except DeadlineExceeded as error:
                found.append(error)
        return found

    def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> list[Found]:
        """See stored.py. Raises ReplicaBehind (the write of ``least`` is not here)."""
        self.applied.check(least)
        with self._current.reading() as generation:
            return stored(generation, self._funnel, ids, wanted)

    def document(
        self, document_id: str, least: Reached = NOTHING, fields: frozenset[str] = EVERYTHING.fields
    ) -> Document:
        """``stored`` of one. Raises NotFound, ChecksumMismatch, ReplicaBehind."""
        (found,) = self.stored([document_id], least, Wanted(fields))
        if isinstance(found, BitsiftError):
            raise found
        assert isinstance(found, Document), found  # everything fits where all bytes may be used
        return found

    def listed(self, listing: Listing) -> Listed:
        """Documents that pass a filter: see search/listing.py. Raises ReplicaBehind too."""
        self.applied.check(listing.least)
        with self._current.reading() as generation:
            return listed(generation, listing)

    @contextlib.contextmanager
    def still(self) -> Iterator[Store]:
        """The store, while no write runs."""
        with self._writes.lock, self._current.reading() as generation:
            yield generation.store

    @contextlib.contextmanager
    def reading(self) -> Iterator[Store]:
        """The store, while writes go on."""
        with self._current.reading() as generation:
            yield generation.store

    # --- writing ---------------------------------------------------------------------------

    def write(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Do ``operations`` durably, in order, and make them searchable: the one door for writes.

        What several threads ask for at once is committed together. In the place of an operation
        that failed stands its error; the others are done. StorageFull when the disk has no room,
        Unavailable when the shard is closed, or a version is far ahead of the clock: it was not
        done. WritesStopped when the disk failed: it may be there after a restart.
        """
        done = self._writes.write(operations, self._commit)
        return [self._failed(one) if isinstance(one, Exception) else one for one in done]

    def bury(self, generation: int, rows: Sequence[int]) -> int:
        """Let damaged ``rows`` die (store/burial.py). Raises Unavailable for another generation."""
        with self._writes.lock:
            self._generations.check_open()
            return self._current.bury(generation, rows)

    def foresee(self, operations: Sequence[Operation]) -> list[list[WriteStatus]]:
        """A dry run of ``write``: its result is only a hint, for ``write`` decides."""
        with self.reading() as store:
            return store.foresee(operations)

    def _failed(self, error: Exception) -> BitsiftError:
        """``error`` as it may leave the shard, whatever it is: other processes get it."""
        if isinstance(error, BitsiftError):
            return error
        log.error("a write to shard %d failed", self.identity.shard, exc_info=error)
        return ShardUnavailable(f"shard {self.identity.shard} failed ({reason(error)})")

    def _commit(self, operations: Sequence[Operation]) -> list[list[WriteStatus]]:
        """One transaction, then the same in RAM: the order that a crash in between may undo."""
        self._generations.check_open()
        generation = self._current
        generation.check()
        store, index = generation.store, generation.index
        for operation in operations:
            self._clock.observe(operation.version)

        def to_ram(written: Written) -> None:
            generation.fields.recent.add(len(index), written.texts)
            index.apply(self._calibration.bits(written.codes), written.dead)

        # Where all bring one, replicas that took the same writes know the same newest version.
        given = all(one.version for one in operations if isinstance(one, Documents | Delete))
        version = NO_VERSION if given else self._clock.tick()
        newest = store.counters.newest_version
        statuses = store.write(operations, to_ram, version=version).statuses
        self._late += is_late(operations, statuses, newest)
        generation.check(in_doubt=True)
        self.applied.note(operations)
        generation.keep_up()
        return statuses

    def status(self) -> ShardStatus:
        busy = self._maintenance.busy
        return status_of(self.identity.shard, self._current, self._probing, self._generations, busy)
