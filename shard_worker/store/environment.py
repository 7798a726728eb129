"""One LMDB environment and its databases, opened a second time where LMDB gives up on it.

When LMDB fails to write a meta page, it refuses everything from then on, reads too. The bytes are
still there and whole, so the environment is closed, when no one is in it, and opened again for
reading only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb

from bitsift.errors import Unavailable
from bitsift.shard_worker.store.lmdb_file import DATA_FILE, LMDB_ENGINE

log = logging.getLogger(__name__)

READERS_MAX = 256
DATABASES_MAX = 16
"""LMDB is told how many there may be when it is opened; store/format.py names them."""
REOPEN_WAIT_S = 5.0
"""How long those in it are waited for; none takes longer but a copy of the whole."""


class Environment:
    """Any number of readers, one writer."""

    def __init__(
        self, folder: Path, names: Sequence[str], max_bytes: int, *, create: bool = False
    ) -> None:
        """Open the data file in ``folder``, which may grow to ``max_bytes``, and its databases
        ``names``. Raises lmdb.Error.
        """
        self.folder = folder
        self._max_bytes = max_bytes
        self._turn = threading.Condition()
        self._inside = 0
        self._reads_only = False
        self._env = self._opened()
        self.databases: dict[str, Any] = {}
        """The handles by name; they are others after it was opened again."""
        try:
            self.open_databases(names, create=create)
            self.page_bytes = int(self._env.stat()["psize"])
            self._inode = os.stat(folder / DATA_FILE).st_ino
        except BaseException:
            self._env.close()
            raise

    def open_databases(self, names: Sequence[str], *, create: bool = False) -> None:
        """Open more databases. No transaction may be open. Raises lmdb.Error."""
        self.databases |= {name: self._env.open_db(name.encode(), create=create) for name in names}

    def open_where_there(self, name: str) -> None:
        """Open a database that not every store has. No transaction may be open."""
        with contextlib.suppress(lmdb.NotFoundError):
            self.open_databases([name])

    def new_database(self, txn: lmdb.Transaction, name: bytes) -> Any:
        """A handle of a database that is made in ``txn``, once that is committed."""
        return self._env.open_db(name, txn=txn, create=True)

    def _opened(self, **how: Any) -> lmdb.Environment:
        how = {"lock": True, "max_readers": READERS_MAX} | how
        return lmdb.open(
            str(self.folder), map_size=self._max_bytes, max_dbs=DATABASES_MAX, writemap=False,
            readahead=False, sync=True, metasync=True, lib_version=LMDB_ENGINE, **how,
        )  # fmt: skip

    def close(self) -> None:
        self._env.close()

    @property
    def used_bytes(self) -> int:
        """What the data file needs: its last page in use."""
        return int((self._env.info()["last_pgno"] + 1) * self.page_bytes)

    def reap_readers(self) -> None:
        """Drop readers whose process was killed: they would keep old pages forever."""
        if not self._reads_only:
            self._env.reader_check()

    @contextlib.contextmanager
    def begin(self, *, buffers: bool = False) -> Iterator[lmdb.Transaction]:
        """A read transaction. None may be begun inside of another, for one may wait for the other.

        Raises lmdb.Error, Unavailable.
        """
        try:
            txn = self._enter(buffers=buffers)
        except lmdb.PanicError:
            self._open_again()
            txn = self._enter(buffers=buffers)
        try:
            with txn:
                yield txn
        finally:
            self._leave()

    @contextlib.contextmanager
    def writing(self) -> Iterator[lmdb.Transaction]:
        """A write transaction, of which nothing stays but what is committed by the caller."""
        txn = self._enter(write=True)
        try:
            yield txn
        finally:
            try:
                txn.abort()  # nothing where it was committed
            finally:
                self._leave()

    def is_sound(self) -> bool:
        """False once LMDB failed to write a meta page: nobody knows which of the two the disk has.

        It remembers, and begins no other transaction. No write transaction may be open.
        """
        try:
            self._env.begin(write=True).abort()
        except lmdb.Error:
            return False
        return True

    def copy(self, descriptor: int) -> None:
        """Write a copy of the data file as it is committed now. Raises lmdb.Error, OSError."""
        with self.begin():  # it is opened again before, not after half of the copy
            self._env.copyfd(descriptor)

    def _enter(self, **how: Any) -> lmdb.Transaction:
        with self._turn:
            self._inside += 1
        try:
            return self._env.begin(**how)
        except lmdb.ReadersFullError as error:
            self._leave()
            raise Unavailable(f"{self.folder} has {READERS_MAX} readers: try again") from error
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        with self._turn:
            self._inside -= 1
            if not self._inside:
                self._turn.notify_all()

    def _open_again(self) -> None:
        """Raises Unavailable where it cannot be."""
        deadline = time.monotonic() + REOPEN_WAIT_S
        with self._turn:
            while self._inside:  # whoever enters now meets the same refusal, and leaves
                if not self._turn.wait(deadline - time.monotonic()):
                    raise Unavailable(f"{self.folder} is in use and cannot be reopened")
            if self._reads_only:
                return
            log.error("%s: LMDB refuses it; reopening it for reading", self.folder)
            self._env.close()
            try:
                if os.stat(self.folder / DATA_FILE).st_ino != self._inode:
                    path = self.folder / DATA_FILE
                    raise Unavailable(f"{path} has been replaced by another file; restart")
                self._env = self._opened(readonly=True, lock=False)
                self.databases |= {
                    name: self._env.open_db(name.encode(), create=False) for name in self.databases
                }
            except (lmdb.Error, OSError) as error:
                raise Unavailable(f"{self.folder} cannot be reopened ({error})") from error
            self._reads_only = True
