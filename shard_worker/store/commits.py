"""The write transactions of a store: what the disk holds and what RAM says of it change together,
or writes stop.

A transaction begins by comparing the counters on the disk with those in RAM: where they differ, RAM
was not updated after a commit, and row numbers given now would be wrong forever. Everything from a
commit on, the update of RAM included, is one step: whatever is raised in it stops writes until the
shard is reopened, which reads all of it from the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb

from bitsift.errors import (
    ChecksumMismatch,
    Corrupt,
    FormatMismatch,
    RequestOutcome,
    StorageFull,
    WritesStopped,
    reason,
)
from bitsift.shard_worker.format_version import CURRENT, Format
from bitsift.shard_worker.store.counters import Counters, counters_of
from bitsift.shard_worker.store.environment import Environment
from bitsift.shard_worker.store.format import COUNTERS
from bitsift.shard_worker.store.lmdb_file import DATA_FILE
from bitsift.shard_worker.store.packing import pack_meta, unpack_meta

log = logging.getLogger(__name__)


class Commits:
    """One store's write transactions, one at a time, and its counters."""

    def __init__(self, env: Environment, version: Format = CURRENT) -> None:
        """``version`` is the format that the store is in."""
        self._env = env
        self._format = version
        self.counters = Counters()
        self.stopped: str | None = None
        """Why nothing is written any more."""

    @property
    def _folder(self) -> Path:
        return self._env.folder

    @property
    def _file(self) -> Path:
        return self._env.folder / DATA_FILE

    def read(self) -> None:
        """Take the counters from the disk. Raises Corrupt where they are of an older state."""
        with self._env.begin() as txn:
            counters, transaction = self.counters_in(txn), txn.id()
        if counters.transaction != transaction:
            raise Corrupt(
                f"{self._file} is in the state of transaction {counters.transaction}, "
                f"but its last one was {transaction}; restore it from a backup"
            )
        self.counters = counters

    def counters_in(self, txn: lmdb.Transaction) -> Counters:
        """The counters that ``txn`` sees. Raises ChecksumMismatch, FormatMismatch."""
        counters = counters_of(self.meta_in(txn, COUNTERS), self._format)
        if counters is None:
            raise FormatMismatch(
                f"{self._file} has counters unknown to format {self._format}; "
                "restore it from a backup"
            )
        return counters

    def meta_in(self, txn: lmdb.Transaction, key: bytes) -> dict[str, Any]:
        """What the store says of itself under ``key``. Raises ChecksumMismatch."""
        try:
            return unpack_meta(bytes(txn.get(key, b"", db=self._env.databases["meta"])))
        except ChecksumMismatch as error:
            raise ChecksumMismatch(
                f"{self._file}: {key.decode()}: {error}; restore it from a backup"
            ) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[lmdb.Transaction]:
        """A write transaction, of which nothing stays but what ``commit`` is called for.

        Raises StorageFull when the disk or the map is full, WritesStopped when the disk failed or
        RAM is not what the disk holds; nothing was done then.
        """
        if self.stopped is not None:
            raise self._refusal(in_doubt=False)
        try:
            with self._env.writing() as txn:
                if self.counters_in(txn) != self.counters:
                    raise self.stop("the disk and RAM disagree about the rows")
                yield txn
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise StorageFull(f"{self._folder} cannot grow ({error}); add disk space") from error
        except (lmdb.Error, OSError) as error:
            raise self.stop(reason(error)) from error
        except Corrupt as error:
            raise error.with_outcome(RequestOutcome.NOT_DONE) from error

    def commit(
        self,
        txn: lmdb.Transaction,
        counters: Counters,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Commit ``txn`` with the new ``counters``; ``then`` brings RAM to the same state.

        Counters in RAM come last: whoever knows of a row finds its id and its bits. Raises
        WritesStopped where it is not known whether it was done, or RAM did not follow.
        """
        counters, committed = self._put(txn, counters), False
        try:
            txn.commit()
            committed = True
            then()
            self.counters = counters
        except BaseException as error:
            if not committed and isinstance(error, lmdb.Error) and self._env.is_sound():
                raise  # LMDB came to no meta page: nothing was done
            what = "RAM was not updated after a commit" if committed else "a commit failed"
            raise self.stop(f"{what}: {reason(error)}", in_doubt=True) from error

    def _put(self, txn: lmdb.Transaction, counters: Counters) -> Counters:
        """``counters`` as they will be on the disk."""
        counters = dataclasses.replace(counters, transaction=txn.id())
        facts = pack_meta(counters.facts(self._format))
        txn.put(COUNTERS, facts, db=self._env.databases["meta"])
        return counters

    def stop(self, why: str, *, in_doubt: bool = False) -> WritesStopped:
        """Take no writes from now on, until the shard is opened again; the error that says so.

        ``in_doubt`` where the write that met the failure may be there after a restart.
        """
        self.stopped = (
            f"{self._folder} refuses writes: {why}. Reads go on; check the disk, then restart"
        )
        log.error("%s", self.stopped)
        return self._refusal(in_doubt=in_doubt)

    def _refusal(self, *, in_doubt: bool) -> WritesStopped:
        if in_doubt:
            said = f"{self.stopped}. Only then is it known whether this write was done"
            return WritesStopped(said).with_outcome(RequestOutcome.UNKNOWN)
        return WritesStopped(f"{self.stopped}").with_outcome(RequestOutcome.NOT_DONE)
