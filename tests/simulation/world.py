"""One simulated cluster with one shard: nodes with replicas, two gateways with a router and perhaps
the writer, a controller; and what a plan makes of it.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from benchmarks.simulated_loop import simulate
from bitsift.errors import BitsiftError, NotFound, RequestOutcome
from bitsift.router.shards.placed import PlacedShards
from bitsift.router.shards.placement import ReplicaAddress, ReplicaTable
from bitsift.router.shards.replica_set import ReplicaSet
from bitsift.router.write.gate import WriteGate
from bitsift.router.write.shard_writes import ShardWrites
from bitsift.shard_worker.clock import HybridClock
from bitsift.shard_worker.operations import Delete, Operation, Outcome
from bitsift.write_status import WriteStatus
from tests.simulation.controller import WANTED, Controller, Decided
from tests.simulation.history import History, Read, Write
from tests.simulation.network import Network, Process, SimulatedLink
from tests.simulation.plan import GATEWAYS, NODES, Asked, Fault, Plan, plan_of
from tests.simulation.replica import SimulatedReplica, upsert

ENDS_S = 75.0
"""Every operation ends within this time, however it ends."""
HEALED_S = 120.0
"""Within which a healed cluster is whole and its replicas are equal."""
WALL_S = 1.6e9
T = TypeVar("T")


class Broken(AssertionError):
    """An invariant does not hold."""


class Caller(Process):
    """A router or a writer: the real shards of a table, over links."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name)
        self._world = world
        self.placed = PlacedShards(
            self._table(*world.table()),
            lambda _, address: SimulatedLink(world.network, self, world.nodes[address.node]),  # type: ignore[arg-type, return-value]
        )
        self.shard: ReplicaSet = self.placed.links[0]
        self.shard.writes._clock = HybridClock(wall_s=world.wall(name))
        self.writes, self.gate = ShardWrites([self.shard]), WriteGate()
        self.writer = self

    def _table(self, epoch: int, members: Sequence[str]) -> ReplicaTable:
        addresses = tuple(ReplicaAddress(node, None) for node in members)
        return ReplicaTable(epoch, (addresses,), replicas=WANTED)

    def place(self, epoch: int, members: Sequence[str]) -> None:
        if epoch >= self.placed._epoch:
            self.placed.place(self._table(epoch, members))
            self.gate.release()

    async def hold(self, seconds: float) -> None:
        """As ``WriterActor.hold``."""
        await self.gate.hold(seconds)
        await self.writes.flushed()

    async def write(self, operation: Operation) -> Outcome:
        async with self.gate.turn():
            return (await self.writes.write({0: operation}))[0]


class World:
    """Made anew for each run."""

    def __init__(self, plan: Plan) -> None:
        self.random = Random(plan.seed + 1)
        self._plan = plan
        self.network = Network(self.random)
        self.skew = {name: self.random.uniform(-60, 60) for name in (*NODES, *GATEWAYS)}
        self.nodes = {name: SimulatedReplica(name, self.random, self.wall(name)) for name in NODES}
        self.controller = Controller(self, Decided(NODES[:WANTED]))
        self.gateways = GATEWAYS
        self.writer = Caller(self, GATEWAYS[0])
        self.routers = {name: Caller(self, name) for name in GATEWAYS}
        for router in self.routers.values():
            router.writer = self.writer
        self.history = History()
        self.fired = 0
        self._texts = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    def wall(self, name: str) -> Callable[[], float]:
        """The clock of a machine."""
        return lambda: WALL_S + self.skew[name] + asyncio.get_running_loop().time()

    def table(self) -> tuple[int, tuple[str, ...]]:
        return self.controller.decided.table

    def start_writer(self, gateway: str) -> None:
        """The earlier one goes on, if it has not ended: nobody may be able to reach it."""
        self.writer = Caller(self, gateway)

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- clients ---------------------------------------------------------------------------

    async def ask(self, asked: Asked) -> None:
        try:
            async with asyncio.timeout(ENDS_S):
                await (self._read(asked) if asked.kind == "read" else self._write(asked))
        except TimeoutError as error:
            raise Broken(f"{asked} did not end within {ENDS_S} s") from error

    async def _read(self, asked: Asked) -> None:
        router, start, text = self.routers[asked.gateway], self._now(), None
        try:
            text = (await router.shard.document(asked.key)).text
        except NotFound:
            pass
        except (BitsiftError, TimeoutError):
            return
        self._check(Read(asked.key, text, start, self._now()))

    def _check(self, read: Read) -> None:
        if (why := self.history.broken_by(read)) is not None:
            raise Broken(why)

    async def _write(self, asked: Asked) -> None:
        """A writer that ended answers nobody: after a while the gateway says that it is unknown."""
        writer, text = self.routers[asked.gateway].writer, None
        operation: Operation = Delete([asked.key])
        if asked.kind == "write":
            text = f"t{next(self._texts)}"
            operation = upsert(asked.key, text)
        write = Write(asked.key, text, self._now())
        self.history.writes.append(write)
        if not await self._passes(asked.gateway, writer.name):
            write.is_not_done = True
            return
        try:
            async with asyncio.timeout(60.0):
                outcome = await writer.write(operation)
                await writer.goes_on()
        except TimeoutError:
            return
        if not await self._passes(writer.name, asked.gateway):
            return
        if isinstance(outcome, BitsiftError):
            write.is_not_done = outcome.outcome is RequestOutcome.NOT_DONE
            return
        if WriteStatus.SUPERSEDED in outcome:
            raise Broken("a client was told of a version that is not its business")
        write.is_acknowledged, write.end = True, self._now()

    async def _passes(self, source: str, target: str) -> bool:
        if source == target:
            return True
        try:
            await self.network.carry(source, target)
        except BitsiftError:
            return False
        return True

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # --- faults ----------------------------------------------------------------------------

    async def befall(self, fault: Fault) -> None:
        self.fired += 1
        undo = getattr(self, "_" + fault.kind.replace(" ", "_"))(fault)
        await asyncio.sleep(fault.for_s)
        if undo is not None:
            undo()

    def _crash(self, fault: Fault) -> Callable[[], None]:
        node = self.nodes[fault.what]
        node.crash()
        return node.start

    def _power(self, fault: Fault) -> Callable[[], None]:
        """All nodes at once."""
        for node in self.nodes.values():
            node.crash()

        def undo() -> None:
            for node in self.nodes.values():
                node.start()

        return undo

    def _full(self, fault: Fault) -> Callable[[], None]:
        node = self.nodes[fault.what]
        node.is_full = True

        def undo() -> None:
            node.is_full = False

        return undo

    def _slow(self, fault: Fault) -> Callable[[], None]:
        self.network.slow[fault.what] = fault.number

        def undo() -> None:
            self.network.slow.pop(fault.what, None)

        return undo

    def _without(self, pairs: set[tuple[str, str]]) -> Callable[[], None]:
        new = pairs - self.network.cut
        self.network.cut |= new
        return lambda: self.network.cut.difference_update(new)

    def _others(self, name: str) -> list[str]:
        return [other for other in (*NODES, *GATEWAYS, "controller") if other != name]

    def _deaf(self, fault: Fault) -> Callable[[], None]:
        return self._without({(other, fault.what) for other in self._others(fault.what)})

    def _mute(self, fault: Fault) -> Callable[[], None]:
        return self._without({(fault.what, other) for other in self._others(fault.what)})

    def _isolate(self, fault: Fault) -> Callable[[], None]:
        others = self._others(fault.what)
        pairs = {(other, fault.what) for other in others} | {(fault.what, it) for it in others}
        return self._without(pairs)

    _gateway_isolated = _isolate

    def _part(self, fault: Fault) -> Callable[[], None]:
        side = set(fault.what.split())
        rest = [it for it in (*NODES, *GATEWAYS, "controller") if it not in side]
        pairs = {(a, b) for a in side for b in rest}
        return self._without(pairs | {(b, a) for a, b in pairs})

    def _drop(self, fault: Fault) -> Callable[[], None]:
        self.network.drop = fault.number

        def undo() -> None:
            self.network.drop = 0.0

        return undo

    def _duplicate(self, fault: Fault) -> Callable[[], None]:
        self.network.duplicate = fault.number

        def undo() -> None:
            self.network.duplicate = 0.0

        return undo

    def _clock(self, fault: Fault) -> None:
        self.skew[fault.what] = fault.number

    def _move(self, fault: Fault) -> Callable[[], None]:
        """Its replica shall be elsewhere."""
        drained = self.controller.decided.drained
        if len(drained) < len(NODES) - WANTED:
            drained.add(fault.what)
        return lambda: self.controller.decided.drained.discard(fault.what)

    def _writer_ends(self, fault: Fault) -> None:
        self.writer.is_alive = False

    def _controller_ends(self, fault: Fault) -> None:
        self.controller.is_alive = False
        self._start_controller()

    def _start_controller(self) -> None:
        """It seals the replicas again, whatever they are sealed with."""
        decided = self.controller.decided
        decided.is_placed = False
        self.controller = Controller(self, decided)
        self.begin(self.controller.run())

    def _stale_controller(self, fault: Fault) -> Callable[[], None]:
        """It sleeps, another takes its place, and it wakes and acts on what it knew."""
        known = copy.deepcopy(self.controller.decided)
        self._controller_ends(fault)

        def wake() -> None:
            decided = self.controller.decided
            if decided.is_placed and decided.epoch > known.epoch:
                late = Controller(self, known)
                late._replace_writer = _nothing  # type: ignore[method-assign]
                self.begin(late.run())

        return wake

    # --- a run -----------------------------------------------------------------------------

    async def run(self) -> None:
        self.begin(self.controller.run())
        asks = [self._at(one.at_s, self.ask, one) for one in self._plan.asked]
        faults = [self._at(one.at_s, self.befall, one) for one in self._plan.faults]
        befalling = [asyncio.ensure_future(one) for one in faults]
        await asyncio.gather(*asks)
        for task in befalling:
            if not task.done():
                task.cancel()
        self._heal()
        await self._is_whole()

    async def _at(self, at_s: float, do: Callable[[T], Coroutine[Any, Any, None]], one: T) -> None:
        await asyncio.sleep(at_s)
        await do(one)

    def _heal(self) -> None:
        network = self.network
        network.cut.clear()
        network.slow.clear()
        network.drop = network.duplicate = 0.0
        self.controller.decided.drained.clear()
        for node in self.nodes.values():
            node.start()
            node.is_full = False

    async def _is_whole(self) -> None:
        """The table becomes whole, writes go on, replicas are equal, and all can be read."""
        await self._until(lambda: len(self.table()[1]) == WANTED, "the table is not whole")
        await self._until(self._writes, "no write is acknowledged")
        await self._until(self._are_equal, "replicas differ")
        for key in sorted({write.key for write in self.history.writes}):
            for name in self.table()[1]:
                held = self.nodes[name].rows.get(key)
                text = held.text if held is not None and held.is_alive else None
                self._check(Read(key, text, self._now(), self._now()))

    async def _until(self, holds: Callable[[], object], said: str) -> None:
        for _ in range(int(HEALED_S)):
            found = holds()
            if found if isinstance(found, bool) else await found:  # type: ignore[misc]
                return
            await asyncio.sleep(1.0)
        raise Broken(f"{HEALED_S:.0f} s after healing {said}")

    async def _writes(self) -> bool:
        before = len(self.history.writes)
        await self.ask(Asked(0.0, GATEWAYS[1], "write", "a"))
        return self.history.writes[before].is_acknowledged

    def _are_equal(self) -> bool:
        inventories = [self.nodes[name].inventory() for name in self.table()[1]]
        digests = [it.digests(0).tolist() for it in inventories]
        return len(self.table()[1]) == WANTED and digests.count(digests[0]) == len(digests)


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a plan: ``broken`` is None where every invariant held."""

    plan: Plan
    broken: str | None
    acknowledged: int
    faults: int


def run(plan: Plan, make: Callable[[Plan], World] = World) -> Run:
    """Always the same for the same plan."""
    random.seed(plan.seed)
    worlds = list[World]()

    async def main() -> None:
        worlds.append(make(plan))
        await worlds[0].run()

    broken = None
    try:
        simulate(main())
    except Broken as error:
        broken = str(error)
    world = worlds[0]
    acknowledged = sum(write.is_acknowledged for write in world.history.writes)
    return Run(plan, broken, acknowledged, world.fired)


def run_seed(seed: int) -> Run:
    """One seed, for a pool of processes."""
    logging.disable(logging.CRITICAL)
    return run(plan_of(seed))
