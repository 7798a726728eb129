"""Of several actors that were started for one replica only the latest may open it.

Ray starts an actor again by itself, minutes later perhaps, on a node that was cut off. Each start
of a replica has an epoch, greater than those before, which is written beside its folder first:

    shard-00003.epoch.json    {"epoch": 17}

An actor of another epoch opens nothing, and closes what it has. It lies beside the folder, for a
copy of the shard takes the folder's place.

Of several writers, and of several controllers, only the latest may write. Each replica table has an
epoch too. The newest that a replica was sealed with, or written to by, stands beside its folder
before the replica answers; writes under an older one are refused (``TableFence``):

    shard-00003.table.json    {"epoch": 23}
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from bitsift.errors import Fenced, NotFound, Unavailable
from bitsift.shard_worker.layout import read_json, write_json

ENDED_S = 4.0
"""For writes under an older table to end: less than the caller of a seal waits."""


def epoch_file(folder: Path) -> Path:
    """Where the epoch of the replica in ``folder`` stands."""
    return folder.with_name(f"{folder.name}.epoch.json")


def table_file(folder: Path) -> Path:
    """Where the epoch of the newest table of the replica in ``folder`` stands."""
    return folder.with_name(f"{folder.name}.table.json")


def read_epoch(folder: Path) -> int:
    """The latest epoch that the replica in ``folder`` was given; 0: none. Raises Corrupt."""
    return _read(epoch_file(folder))


def read_table_epoch(folder: Path) -> int:
    """That of the newest table that the replica in ``folder`` has seen; 0: none. Raises Corrupt."""
    return _read(table_file(folder))


def _read(file: Path) -> int:
    try:
        return int(read_json(file)["epoch"])
    except NotFound:
        return 0


def fence(folder: Path, epoch: int) -> None:
    """From now on actors of ``epoch`` alone may open the replica. Raises as ``check_epoch``."""
    latest = read_epoch(folder)
    if epoch < latest:
        raise _late(folder, epoch, latest)
    if epoch > latest:
        write_json(epoch_file(folder), {"epoch": epoch})


def check_epoch(folder: Path, epoch: int) -> None:
    """Raises Unavailable where a later actor was started for the replica in ``folder``."""
    latest = read_epoch(folder)
    if epoch != latest:
        raise _late(folder, epoch, latest)


def _late(folder: Path, epoch: int, latest: int) -> Unavailable:
    return Unavailable(
        f"{folder} is for an actor of epoch {latest}, this one is of epoch {epoch}: "
        "the controller has started another, and ends this one"
    )


class TableFence:
    """Refuses writes under a replica table older than the newest that it has seen. Any number of
    threads.
    """

    def __init__(self, newest: int, keep: Callable[[int], None]) -> None:
        """``newest`` is what was kept; ``keep`` makes an epoch durable before it returns."""
        self._newest = newest
        self._keep = keep
        self._writing = Counter[int]()
        self._changed = threading.Condition()

    @classmethod
    def beside(cls, folder: Path) -> TableFence:
        """That of the replica in ``folder``. Raises Corrupt."""
        file = table_file(folder)
        newest = read_table_epoch(folder)
        return cls(newest, lambda epoch: write_json(file, {"epoch": epoch}))

    def admit(self, epoch: int, *, is_new: bool = False) -> None:
        """From now on nothing is written under an older table. Raises Fenced if this one is older,
        and where it must be new, but was seen before: another controller has chosen it; and
        Unavailable where a write that was admitted before does not end.

        0 is no table: there is one copy only, or a bulk load fills it.
        """
        with self._changed:
            self._admit(epoch, is_new)
            if not self._changed.wait_for(lambda: not self._is_written_before(epoch), ENDED_S):
                raise Unavailable("a write under an older replica table has not ended yet")

    @contextlib.contextmanager
    def writing(self, epoch: int) -> Iterator[None]:
        """A write under the table of ``epoch``: ``admit`` of a newer one waits for its end.
        Raises Fenced.
        """
        with self._changed:
            self._admit(epoch)
            self._writing[epoch] += 1
        try:
            yield
        finally:
            with self._changed:
                self._writing[epoch] -= 1
                self._writing += Counter[int]()  # without those of which none is left
                self._changed.notify_all()

    def _admit(self, epoch: int, is_new: bool = False) -> None:
        if epoch > self._newest:
            self._keep(epoch)
            self._newest = epoch
        elif 0 < epoch < self._newest or is_new:
            raise self._late(epoch)

    def _is_written_before(self, epoch: int) -> bool:
        return any(0 < earlier < epoch for earlier in self._writing)

    def check(self, epoch: int) -> None:
        """Raises Fenced where a newer table is in force: what is read under this one may be old."""
        if 0 < epoch < self._newest:
            raise self._late(epoch)

    def _late(self, epoch: int) -> Fenced:
        return Fenced(
            f"the replica table of epoch {epoch} is refused: that of epoch {self._newest} is in "
            "force, and its holder writes"
        )
