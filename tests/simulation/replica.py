"""A replica of the simulation: the shard's own decisions (admission, fencing, clock, inventory)
over a store that is a dictionary, which loses what it has not synced.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitsift.errors import BitsiftError, NotFound, ShardUnavailable, StorageFull
from bitsift.shard_worker.clock import NO_VERSION, HybridClock
from bitsift.shard_worker.fencing import TableFence
from bitsift.shard_worker.inventory import Entries, Inventory, ReplicaFacts, facts_of
from bitsift.shard_worker.operations import Delete, Documents, Operation, Outcome, Upsert
from bitsift.shard_worker.store.admission import Stored, admit
from bitsift.shard_worker.store.packing import id_keys
from bitsift.shard_worker.store.tombstones import Tombstone
from bitsift.shard_worker.types import LIVE_POSITION, Document

WIDTH = 8
_CODES = np.zeros((1, WIDTH), dtype=np.int8)


def upsert(key: str, text: str, version: int = NO_VERSION) -> Upsert:
    """One document."""
    return Upsert([key], [""], [text], [""], [LIVE_POSITION], _CODES, version=version)


@functools.cache
def key_of(document_id: str) -> int:
    return int(id_keys([document_id])[0])


@dataclass(frozen=True, slots=True)
class Held:
    """The last row of an id, living or dead: then ``version`` is that of the deletion."""

    row: int
    text: str
    version: int
    is_alive: bool


class Rows(dict[str, Held]):
    """What admission asks a store: reader, lookup, versions and deletions in one."""

    width = WIDTH

    def of_row(self, row: int) -> tuple[str, Held]:
        return next(item for item in self.items() if item[1].row == row)

    def holds(self, txn: Any, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        known = set(map(key_of, self))
        return np.fromiter((key in known for key in keys.tolist()), np.bool_, len(keys))

    def newest_row_of(self, txn: Any, lookup: Any, document_id: str, key: Any) -> int | None:
        held = self.get(document_id)
        return None if held is None else held.row

    def is_dead(self, txn: Any, row: int) -> bool:
        return not self.of_row(row)[1].is_alive

    def content(self, txn: Any, row: int) -> tuple[str, str, str, str, int]:
        document_id, held = self.of_row(row)
        return document_id, "", held.text, "", LIVE_POSITION

    def record(self, txn: Any, row: int) -> bytes:
        return bytes(WIDTH)

    def intact(self, first: int, records: Sequence[bytes]) -> list[bool]:
        return [True] * len(records)

    def have_tombstones(self, txn: Any, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        return np.zeros(len(keys), dtype=np.bool_)

    def of(self, txn: Any, row_or_id: Any, key: Any = None, last: Any = None) -> Any:
        """``Versions.of`` of a row, ``Deletions.of`` of an id."""
        if isinstance(row_or_id, int):
            return self.of_row(row_or_id)[1].version
        held = self.get(row_or_id)
        return None if held is None else Tombstone(row_or_id, held.version, 0)


class SimulatedReplica:
    """One copy of the shard on one node. ``crash`` and ``start`` may come at any time."""

    def __init__(self, node: str, random: Random, wall_s: Callable[[], float]) -> None:
        self.node = node
        self.is_up = True
        self.is_full = False
        self.life = 0
        """Which of its processes runs: what an earlier one had begun comes to nothing."""
        self._random = random
        self._wall_s = wall_s
        self._kept_epoch = 0
        self._synced = Rows()
        self._rows_given = 0
        self._start()

    def _start(self) -> None:
        self.rows = Rows(self._synced)
        newest = max((held.version for held in self.rows.values()), default=NO_VERSION)
        self._clock = HybridClock(newest, self._wall_s)
        self._fence = TableFence(self._kept_epoch, self._keep)
        self._writing = asyncio.Lock()

    def _keep(self, epoch: int) -> None:
        self._kept_epoch = epoch

    def crash(self) -> None:
        """What was committed and not synced may be lost or not."""
        self.is_up = False
        self.life += 1
        if self._random.random() < 0.3:
            self._synced = Rows(self.rows)

    def start(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._start()

    # --- what a link asks ------------------------------------------------------------------

    async def write(self, operations: Sequence[Operation], epoch: int = 0) -> Sequence[Outcome]:
        self._fence.admit(epoch)
        life = self.life
        async with self._writing:
            if life != self.life:
                raise ShardUnavailable(f"{self.node} ended before it began")
            outcomes = [self._do(operation) for operation in operations]
            rows = Rows(self.rows)
            await self.sync(rows)
            if life != self.life:
                raise ShardUnavailable(f"{self.node} ended before it answered")
            return outcomes

    async def sync(self, rows: Rows) -> None:
        """``rows`` are on the disk when this returns, unless the process ends before."""
        life = self.life
        await asyncio.sleep(self._random.uniform(0.0005, 0.02))
        if life == self.life:
            self._synced = rows

    def _do(self, operation: Operation) -> Outcome:
        if self.is_full and isinstance(operation, Documents):
            return StorageFull(f"{self.node} is full")
        try:
            self._clock.observe(operation.version)
        except BitsiftError as error:
            return error
        version = operation.version or self._clock.tick()
        stored: Any = Stored(self.rows, self.rows, self.rows)  # type: ignore[arg-type]
        nothing: Any = None
        found = admit(stored, nothing, self.rows, operation)  # type: ignore[arg-type]
        if isinstance(operation, Delete):
            self.delete([operation.ids[at] for at in found.touched.gone.tolist()], version)
            self.delete([self.rows.of_row(row)[0] for row in found.dead.tolist()], version)
        if isinstance(operation, Documents):
            for at in found.stored.tolist():
                self._put(operation.ids[at], operation.texts[at], version, is_alive=True)
        return found.statuses

    def delete(self, ids: Sequence[str], version: int) -> None:
        """Remember that they are deleted."""
        for document_id in ids:
            self._put(document_id, "", version, is_alive=False)

    def _put(self, document_id: str, text: str, version: int, *, is_alive: bool) -> None:
        self._rows_given += 1
        self.rows[document_id] = Held(self._rows_given, text, version, is_alive)

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return [[] for _ in operations]

    async def newest_version(self) -> int:
        return self._clock.newest

    async def seal(self, epoch: int, *, is_new: bool = False) -> int:
        self._fence.admit(epoch, is_new=is_new)
        async with self._writing:  # those that were admitted before have ended
            return self._clock.newest

    async def version(self, document_id: str, epoch: int) -> int:
        self._fence.check(epoch)
        held = self.rows.get(document_id)
        return NO_VERSION if held is None else held.version

    async def document(self, document_id: str) -> Document:
        held = self.rows.get(document_id)
        if held is None or not held.is_alive:
            raise NotFound(document_id)
        return Document(document_id, "", held.text, {}, LIVE_POSITION, 0)

    def inventory(self) -> Inventory:
        held = list(self.rows.values())
        return Inventory.of(
            np.array([key_of(name) for name in self.rows], dtype=np.uint64),
            np.array([one.version for one in held], dtype=np.uint64),
            np.array([not one.is_alive for one in held], dtype=np.bool_),
        )

    async def facts(self) -> ReplicaFacts:
        return facts_of(self.inventory(), self._clock.newest)

    async def digests(self, bits: int, since: int) -> bytes:
        return self.inventory().since(since).digests(bits).tobytes()

    async def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
        chosen = np.frombuffer(ranges, np.int64)
        return Entries.of(self.inventory().since(since).within(bits, chosen))

    async def mended(self) -> None:
        """Nobody asks what was applied."""

    async def changes(self, keys: bytes) -> Sequence[Operation]:
        asked = set(np.frombuffer(keys, np.uint64).tolist())
        return [
            upsert(name, held.text, held.version) if held.is_alive else Delete([name], held.version)
            for name, held in self.rows.items()
            if key_of(name) in asked
        ]

    async def seal_new(self, epoch: int) -> int:
        """As a controller seals."""
        return await self.seal(epoch, is_new=True)
