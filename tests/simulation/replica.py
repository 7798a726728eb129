"""A replica of the simulation: the shard's own decisions (admission, fencing, clock, inventory)
over a store that is a dictionary, which loses what it has not synced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

from bitsift.errors import BitsiftError, ShardUnavailable, StorageFull
from bitsift.shard_worker.applied import Applied, Kept
from bitsift.shard_worker.clock import HybridClock
from bitsift.shard_worker.fencing import TableFence
from bitsift.shard_worker.inventory import Entries, Inventory, ReplicaFacts, facts_of
from bitsift.shard_worker.operations import Delete, Documents, Operation, Outcome
from bitsift.shard_worker.store.admission import Stored, admit
from bitsift.shard_worker.stored import missing
from bitsift.shard_worker.types import (
    EVERYTHING,
    LIVE_POSITION,
    Candidates,
    Document,
    Found,
    Origin,
    Query,
    ShardStatus,
    Wanted,
)
from bitsift.write_token import NOTHING, Reached
from tests.simulation.loop import pause
from tests.simulation.rows import Held, Rows, codes, key_of

GRACE_S = 12.0
"""How long compactions remember a deletion at least: longer than any message is on its way."""
COMPACTED_S = 2.0, 10.0
"""Between two compactions."""
SYNC_S = 0.0005, 0.02


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
        self._kept_applied = Kept()
        self.synced = Rows()
        self._rows_given = 0
        self._start()

    def _start(self) -> None:
        self.rows = self.synced.copied()
        self._clock = HybridClock(self.rows.newest, self._wall_s)
        self._fence = TableFence(self._kept_epoch, self._keep)
        self._applied = Applied(0, _generations(self), self._kept_applied, self._keep_applied)
        self._writing = asyncio.Lock()

    def _keep(self, epoch: int) -> None:
        self._kept_epoch = epoch

    @property
    def sealed(self) -> int:
        """The epoch of the newest table that it has seen."""
        return self._kept_epoch

    def _keep_applied(self, kept: Kept) -> None:
        self._kept_applied = kept

    def crash(self) -> None:
        """What was committed and not synced may be lost or not."""
        self.is_up = False
        self.life += 1
        if self._random.random() < 0.3:
            self.synced = self.rows.copied()

    def start(self) -> None:
        if not self.is_up:
            self.is_up = True
            self._start()

    async def compact_now_and_then(self) -> None:
        """What was deleted long ago is forgotten, whatever others lack meanwhile."""
        while True:
            await pause(self._random.uniform(*COMPACTED_S))
            life = self.life
            async with self._writing:
                if life == self.life and self.is_up:
                    since_s = asyncio.get_running_loop().time() - GRACE_S
                    self.rows = self.rows.without_deletions(since_s)
                    await self.sync(self.rows.copied())

    def be_copied_from(self, other: SimulatedReplica) -> None:
        """Whole: what it had before is gone."""
        self.synced, self._rows_given = other.synced.copied(), other._rows_given
        self._kept_applied = Kept()
        self.life += 1
        self._start()

    # --- writes ----------------------------------------------------------------------------

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self._fence.admit(epoch)
        life = self.life
        async with self._writing:
            if life != self.life:
                raise ShardUnavailable(f"{self.node} ended before it began")
            outcomes = self._done(operations)
            await self.sync(self.rows.copied())
            if life != self.life:
                raise ShardUnavailable(f"{self.node} ended before it answered")
            self._applied.advance(term, operations, outcomes)
            return outcomes

    def _done(self, operations: Sequence[Operation]) -> list[Outcome]:
        """After one that failed no other is done (group_commit.py)."""
        outcomes = list[Outcome]()
        for operation in operations:
            failed = outcomes and isinstance(outcomes[-1], BitsiftError)
            outcomes.append(outcomes[-1] if failed else self._do(operation))
        return outcomes

    async def sync(self, rows: Rows) -> None:
        """``rows`` are on the disk when this returns, unless the process ends before."""
        life = self.life
        await pause(self._random.uniform(*SYNC_S))
        if life == self.life:
            self.synced = rows

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
                self._put(operation.ids[at], operation.texts[at], version, operation.positions[at])
        return found.statuses

    def delete(self, ids: Sequence[str], version: int) -> None:
        """Remember that they are deleted."""
        for document_id in ids:
            self._put(document_id, "", version, LIVE_POSITION, is_alive=False)

    def _put(
        self, document_id: str, text: str, version: int, position: int, *, is_alive: bool = True
    ) -> None:
        self._rows_given += 1
        at_s = asyncio.get_running_loop().time()
        self.rows[document_id] = Held(self._rows_given, text, version, is_alive, position, at_s)

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return [[] for _ in operations]

    # --- what coordinators and controllers ask -----------------------------------------------

    async def newest_version(self) -> int:
        return self._clock.newest

    async def seal(self, epoch: int, *, is_new: bool = False) -> int:
        self._fence.admit(epoch, is_new=is_new)
        async with self._writing:  # those that were admitted before have ended
            return self._clock.newest

    async def seal_new(self, epoch: int) -> int:
        """As a controller seals."""
        return await self.seal(epoch, is_new=True)

    def inventory(self) -> Inventory:
        return self.rows.inventory()

    async def facts(self) -> ReplicaFacts:
        return facts_of(self.inventory(), self._clock.newest)

    async def digests(self, bits: int, since: int) -> bytes:
        return self.inventory().since(since).digests(bits).tobytes()

    async def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
        chosen = np.frombuffer(ranges, np.int64)
        return Entries.of(self.inventory().since(since).within(bits, chosen))

    async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
        self._applied.begin_mending(operations)
        return await self.write(operations, epoch)

    async def mended(self, reached: Reached) -> None:
        self._applied.mended(reached)

    async def applied(self) -> Reached:
        return self._applied.reached

    async def changes(self, keys: bytes) -> Sequence[Operation]:
        return self.rows.operations(np.frombuffer(keys, np.uint64).tolist())

    # --- reads -----------------------------------------------------------------------------

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        self._fence.check(epoch)
        held = [self.rows.get(name) for name in ids]
        return [0 if it is None else it.version if it.is_alive else -it.version for it in held]

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        self._applied.check(least)
        held = [(name, self.rows.get(name)) for name in ids]
        return [
            _document(name, it) if it is not None and it.is_alive else missing(name)
            for name, it in held
        ]

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        """To each query all living documents, equally well."""
        return self._applied.answers(queries, lambda some: [self._found()] * len(some))

    def _found(self) -> Candidates:
        living = {it.row: _document(name, it) for name, it in self.rows.items() if it.is_alive}
        ints = np.ones(len(living), dtype=np.int32)
        scores = ints.astype(np.float32)
        rows = np.array([*living], dtype=np.int64)
        origin = Origin(key_of(f"{self.node} {self.life}"), 0)
        return Candidates(
            0, origin, rows, ints, ints, scores, scores, codes(len(rows)), documents=living
        )

    async def status(self) -> ShardStatus:
        return ShardStatus(0, "READY", version=self._clock.newest)


def _generations(replica: SimulatedReplica) -> Any:
    """Of which ``Applied`` asks the newest version on the disk."""

    class Counters:
        @property
        def newest_version(self) -> int:
            return replica.synced.newest

    return SimpleNamespace(current=SimpleNamespace(store=SimpleNamespace(counters=Counters())))


def _document(document_id: str, held: Held) -> Document:
    return Document(document_id, "", held.text, {}, held.position, version=held.version)
