"""What has been written to a shard since a version, as operations, while it is written to.

A *pass* looks at all rows that were there when it began, a batch at a time, then at the deletions.
Whoever does its operations elsewhere, and then those of one pass after the other, each since the
newest version of the one before, has what the shard has as soon as nothing is written to it any
more. Nothing is remembered here: a ``Mark`` says where a pass is.

Rows are in the order in which they were written, so a pass begins where the one before it ended.
After a compaction, or in another copy of the shard, the numbers are others: it begins at the first
row then, and takes those that are new by their versions. Where the shard was given something that
is older than the newest that it had, versions do not say what is new: all comes again.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bitsift.errors import FormatMismatch, Unavailable
from bitsift.shard_worker.clock import NO_VERSION
from bitsift.shard_worker.operations import Operation
from bitsift.shard_worker.store import Store
from bitsift.shard_worker.store.replay import deletes, upserts
from bitsift.write_status import WriteStatus

if TYPE_CHECKING:
    from bitsift.shard_worker.generation import Generation

BATCH_ROWS_MAX = 1 << 13
BATCH_BYTES = 8 << 20
"""What a batch takes about, where rows are as large as the mean."""
_NO_CHANGE = frozenset((WriteStatus.UNCHANGED, WriteStatus.SUPERSEDED))
_DELETES_AT_ONCE = 16
"""Of ``deletes``: each time all of them are read."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a pass is: the next ``row``, the first one that it leaves out, how many of the
    deletions came (-1: all). ``opened`` are the opened copy of the shard and the generation that
    the rows are of; ``version`` was the newest one, ``late`` how often something older than the
    newest had come, when it began.
    """

    opened: tuple[int, int]
    version: int
    late: int
    rows_since: int
    deletes_since: int
    row: int
    stop: int
    deletes: int = 0

    @property
    def is_ended(self) -> bool:
        return self.deletes < 0


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """The next operations of a pass, and where it is then. ``documents`` are in the shard now."""

    operations: Sequence[Operation]
    mark: Mark
    documents: int


@dataclass(frozen=True, slots=True)
class Moment:
    """What a shard held while nothing was written: its rows, the newest version of any, and how
    often it was given something ``late``, older than that, by another replica (convergence.py).
    """

    opened: tuple[int, int]
    rows: int
    version: int
    late: int = 0

    @classmethod
    def of(cls, generation: Generation, replica: int, late: int) -> Moment:
        """Of the opened copy ``replica``. Nothing may be written meanwhile."""
        store = generation.store
        return cls((replica, store.generation), store.rows, store.counters.newest_version, late)


def is_late(
    operations: Sequence[Operation], statuses: Sequence[Sequence[WriteStatus]], newest: int
) -> bool:
    """Whether some of what was done is older than the version ``newest`` before, and changed
    something. ``statuses`` are of each operation.
    """
    return any(
        0 < operation.version < newest and not _NO_CHANGE.issuperset(said)
        for operation, said in zip(operations, statuses, strict=True)
    )


def written_since(generation: Generation, moment: Moment, since: int, mark: Mark | None) -> Changes:
    """What comes after ``mark`` of the pass over what is of version ``since`` or a newer one.

    ``mark`` None begins one, and so does that of an ended pass, which goes before it. Raises
    FormatMismatch where the shard keeps no versions, Unavailable where it has forgotten deletions
    since, ChecksumMismatch or Corrupt for a living row that is damaged.
    """
    store = generation.store
    _check(store, since)
    if mark is None or mark.is_ended or mark.opened != moment.opened:
        mark = _begun(moment, since, mark)
    if mark.row < mark.stop:
        stop = min(mark.row + _rows_at_once(store), mark.stop)
        rows = np.arange(mark.row, stop, dtype=np.int64)
        dead = rows[~generation.index.moment().is_alive(rows)]
        operations: list[Operation] = [*upserts(store, mark.row, stop, dead, mark.rows_since)]
        mark = replace(mark, row=stop)
    else:
        last = mark.deletes + _DELETES_AT_ONCE
        found = list(itertools.islice(deletes(store, mark.deletes_since), mark.deletes, last))
        operations = list(itertools.chain.from_iterable(found))
        mark = replace(mark, deletes=last if len(found) == _DELETES_AT_ONCE else -1)
    return Changes(operations, mark, store.rows - store.dead_rows)


def _check(store: Store, since: int) -> None:
    if store.versions is None:
        raise FormatMismatch(
            f"{store.path} is in format {store.format}, which keeps no versions: compact the "
            "index, which brings it into the current one"
        )
    if since != NO_VERSION and store.counters.forgotten_version >= since:
        raise Unavailable(
            f"{store.path} has forgotten deletions that were made since: begin again, with more "
            "shards.tombstone_days"
        )


def _begun(moment: Moment, since: int, before: Mark | None) -> Mark:
    now = moment.opened, moment.version, moment.late
    if before is not None and before.late != moment.late:
        return Mark(*now, NO_VERSION, NO_VERSION, 0, moment.rows)
    goes_on = before is not None and before.is_ended and before.opened == moment.opened
    if before is not None and goes_on and before.version == since:
        return Mark(*now, NO_VERSION, since, before.stop, moment.rows)
    return Mark(*now, since, since, 0, moment.rows)


def _rows_at_once(store: Store) -> int:
    mean_bytes = max(1, store.used_bytes // max(1, store.rows))
    return max(1, min(BATCH_ROWS_MAX, BATCH_BYTES // mean_bytes))
