"""A network that delays, drops, duplicates and parts, and the links over it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

from bitsift.errors import BitsiftError, ShardUnavailable
from bitsift.router.shards.background import let_end
from bitsift.shard_worker.inventory import Entries, ReplicaFacts
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.types import Document
from tests.simulation.replica import SimulatedReplica

LOST_S = 2.0
"""After which a caller takes a lost message for a failure."""


class Network:
    """Between named places. All of it by one random generator."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.drop = self.duplicate = 0.0
        self.slow: dict[str, float] = {}
        """Seconds more that each message from or to a place takes."""
        self.cut: set[tuple[str, str]] = set()
        """(from, to) between which nothing passes."""
        self.fired = 0
        """How often something befell a message."""

    async def carry(self, source: str, target: str) -> None:
        """One message. Raises ShardUnavailable where it is lost: whoever sent it never knows."""
        if (source, target) in self.cut or self._random.random() < self.drop:
            self.fired += 1
            await asyncio.sleep(LOST_S)
            raise ShardUnavailable(f"no answer from {target}")
        slow_s = self.slow.get(source, 0.0) + self.slow.get(target, 0.0)
        await asyncio.sleep(self._random.expovariate(500.0) + slow_s)

    async def call(self, source: str, node: SimulatedReplica, method: str, *given: Any) -> Any:
        """What ``node`` answers. Lost on the way there or back, it is ShardUnavailable."""
        if self._random.random() < self.duplicate:
            self.fired += 1
            let_end(asyncio.ensure_future(self._again(source, node, method, *given)))
        await self.carry(source, node.node)
        life = node.life
        if not node.is_up:
            raise ShardUnavailable(f"{node.node} is down")
        found = await getattr(node, method)(*given)
        if life != node.life:
            raise ShardUnavailable(f"{node.node} ended before it answered")
        await self.carry(node.node, source)
        return found

    async def _again(self, source: str, node: SimulatedReplica, method: str, *given: Any) -> None:
        """A copy of a message that comes much later."""
        await asyncio.sleep(self._random.uniform(0.0, 8.0))
        await self.carry(source, node.node)
        if node.is_up:
            await getattr(node, method)(*given)


class SimulatedLink:
    """A replica as a process at ``place`` sees it; after the process has ended nobody does."""

    def __init__(self, network: Network, place: Process, node: SimulatedReplica) -> None:
        self._network, self._place, self.replica = network, place, node
        self.reached = 0

    async def _ask(self, method: str, *given: Any) -> Any:
        await self._place.goes_on()
        try:
            found = await self._network.call(self._place.name, self.replica, method, *given)
        except BitsiftError:
            await self._place.goes_on()
            raise
        await self._place.goes_on()
        return found

    async def write(self, operations: Sequence[Operation], epoch: int = 0) -> Sequence[Outcome]:
        found: Sequence[Outcome] = await self._ask("write", operations, epoch)
        return found

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        found: Sequence[Outcome] = await self._ask("foresee", operations)
        return found

    async def newest_version(self) -> int:
        return int(await self._ask("newest_version"))

    async def seal(self, epoch: int) -> int:
        return int(await self._ask("seal", epoch))

    async def version(self, document_id: str, epoch: int) -> int:
        return int(await self._ask("version", document_id, epoch))

    async def document(self, document_id: str, least: int = 0) -> Document:
        found: Document = await self._ask("document", document_id)
        return found

    async def facts(self) -> ReplicaFacts:
        found: ReplicaFacts = await self._ask("facts")
        return found

    async def digests(self, bits: int, since: int) -> bytes:
        return bytes(await self._ask("digests", bits, since))

    async def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
        found: Entries = await self._ask("entries", bits, since, ranges)
        return found

    async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
        return await self.write(operations, epoch)

    async def mended(self) -> None:
        await self._ask("mended")

    async def changes(self, keys: bytes) -> Sequence[Operation]:
        found: Sequence[Operation] = await self._ask("changes", keys)
        return found


class Process:
    """Something that calls replicas and may end: a writer, a router, a controller."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True

    async def goes_on(self) -> None:
        """Never returns where it has ended."""
        if not self.is_alive:
            await asyncio.Event().wait()
