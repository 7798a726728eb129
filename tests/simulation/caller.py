"""A router and a writer of the simulation: the product's own, over links of the simulation."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from bitsift.options import SearchOptions
from bitsift.results import Coverage
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import ReplicaAddress, ReplicaTable
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.router.write.shard_writes import ShardWrites
from bitsift.router.write.writer import FLUSHED_S
from bitsift.router.write_gate import WriteGate
from bitsift.shard_worker.clock import HybridClock
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.types import Candidates, Query
from bitsift.write_token import WriteToken
from tests.simulation.controller import WANTED, Table
from tests.simulation.network import Network, Process, SimulatedLink
from tests.simulation.replica import SimulatedReplica
from tests.simulation.rows import WIDTH

_QUERY = Query(SearchOptions(vector=np.ones(WIDTH, dtype=np.float32)))


class Caller(Process):
    """A router or a writer: the real shards of a table, over links."""

    def __init__(
        self,
        name: str,
        network: Network,
        nodes: dict[str, SimulatedReplica],
        wall_s: Callable[[], float],
        table: Table,
    ) -> None:
        super().__init__(name)
        self.placed = PlacedShards(
            _table_of(*table),
            lambda _, address: SimulatedLink(network, self, nodes[address.node]),  # type: ignore[arg-type, return-value]
        )
        self.shard: ReplicaSet = self.placed.links[0]
        self.shard.writes._clock = HybridClock(wall_s=wall_s)
        self.writes, self.gate = ShardWrites([self.shard]), WriteGate()
        self.fan_out = FanOut([self.shard])
        self.writer = self
        """Through which a router writes."""
        self.epoch = table[0]
        """Of the table in use."""

    def place(self, epoch: int, members: Sequence[str]) -> None:
        """As ``WriterActor.place``."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.placed.place(_table_of(epoch, members))
        if epoch == self.epoch:
            self.gate.release()

    async def hold(self, seconds: float) -> None:
        """As ``WriterActor.hold``."""
        await self.gate.hold(seconds)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.writes.flushed(), FLUSHED_S)

    async def write(self, operation: Operation) -> tuple[Outcome, WriteToken | None]:
        """What became of it, and what sees it."""
        async with self.gate.turn():
            outcomes = await self.writes.write({0: operation})
            return outcomes[0], self.writes.token("", outcomes)

    async def search(
        self, timeout_s: float, written: WriteToken | None = None
    ) -> tuple[list[Candidates], Coverage]:
        """For all documents, as they are after what was ``written``."""
        query = dataclasses.replace(_QUERY, deadline=Deadline.after(timeout_s))
        return await self.fan_out.search(query, written)


def _table_of(epoch: int, members: Sequence[str]) -> ReplicaTable:
    addresses = tuple(ReplicaAddress(node, None) for node in members)
    return ReplicaTable(epoch, (addresses,), replicas=WANTED)
