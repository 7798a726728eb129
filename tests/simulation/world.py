"""One simulated cluster with one shard: nodes with replicas, two gateways with a router and perhaps
the writer, a controller; and what a plan makes of it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.simulation.caller import Caller
from tests.simulation.clients import ENDS_S, Broken, Clients
from tests.simulation.controller import WANTED, Controller, Decided, Table
from tests.simulation.faults import Faults
from tests.simulation.history import Read
from tests.simulation.loop import VirtualLoop, pause
from tests.simulation.network import Network
from tests.simulation.plan import GATEWAYS, NODES, Asked, Fault, Kind, Plan, plan_of
from tests.simulation.replica import SimulatedReplica

HEALED_S = 120.0
"""Within which a healed cluster is whole and its replicas are equal."""
WALL_S = 1.6e9
SKEW_S = 60.0
SEEDS_PER_COLLECTION = 20


class World:
    """Made anew for each run."""

    def __init__(self, plan: Plan) -> None:
        self.random = Random(plan.seed + 1)
        self._plan = plan
        self.network = Network(self.random)
        self.skew = {name: self.random.uniform(-SKEW_S, SKEW_S) for name in (*NODES, *GATEWAYS)}
        self.nodes = {name: SimulatedReplica(name, self.random, self.wall(name)) for name in NODES}
        self.controller = Controller(self, Decided(NODES[:WANTED]))
        self.gateways = GATEWAYS
        self.writer = self._caller(GATEWAYS[0])
        self.routers = {name: self._caller(name) for name in GATEWAYS}
        for router in self.routers.values():
            router.writer = self.writer
        self.clients = Clients(self)
        self.faults = Faults(self)
        self.copied = 0
        """Replicas that were copied whole."""
        self._tasks: set[asyncio.Task[None]] = set()

    def wall(self, name: str) -> Callable[[], float]:
        """The clock of a machine."""
        return lambda: WALL_S + self.skew[name] + asyncio.get_running_loop().time()

    @property
    def table(self) -> Table:
        return self.controller.decided.table

    def _caller(self, name: str) -> Caller:
        return Caller(name, self.network, self.nodes, self.wall(name), self.table)

    def start_writer(self, gateway: str) -> None:
        """The earlier one goes on, if it has not ended: nobody may be able to reach it."""
        self.writer = self._caller(gateway)

    def start_controller(self) -> None:
        """It seals the replicas again, whatever they are sealed with."""
        decided = self.controller.decided
        decided.is_placed = False
        self.controller = Controller(self, decided)
        self.controller.read_again()
        self.begin(self.controller.run())

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self) -> None:
        """Raises Broken where an invariant does not hold."""
        self.begin(self.controller.run())
        for node in self.nodes.values():
            self.begin(node.compact_now_and_then())
        asks, faults = await self._follow_plan()
        if asks:
            await asyncio.wait(asks, timeout=ENDS_S)
        for ask in asks:
            if not ask.done():
                raise Broken(f"an operation did not end within {ENDS_S:.0f} s")
            ask.result()
        for fault in faults:
            if fault.done():
                fault.result()
            fault.cancel()
        self.faults.heal()
        await self._is_whole()

    async def _follow_plan(self) -> tuple[list[asyncio.Task[bool]], list[asyncio.Task[None]]]:
        """Begin everything at its time."""
        asks, faults, now_s = list[asyncio.Task[bool]](), list[asyncio.Task[None]](), 0.0
        for one in self._plan.events:
            await pause(one.at_s - now_s)
            now_s = one.at_s
            if isinstance(one, Fault):
                faults.append(asyncio.ensure_future(self.faults.befall(one)))
            else:
                asks.append(asyncio.ensure_future(self.clients.ask(one)))
        return asks, faults

    # --- after healing ---------------------------------------------------------------------

    async def _is_whole(self) -> None:
        """The table becomes whole, writes go on, replicas are equal, and all can be read."""
        await self._until(self._is_placed, "the table is not whole")
        await self._until(self._writes, "no write is acknowledged")
        await self._until(self._are_equal, "replicas differ")
        now = asyncio.get_running_loop().time()
        for name in self.table[1]:
            held = self.nodes[name].rows
            for key in self.clients.history.keys:
                text = held[key].text if key in held and held[key].is_alive else None
                self.clients.check(Read(key, text, now, now))
        if (why := self.clients.history.broken()) is not None:
            raise Broken(why)
        await self._until(self._is_found, "a search does not find what there is")

    async def _until(self, holds: Callable[[], Coroutine[Any, Any, bool]], said: str) -> None:
        for _ in range(int(HEALED_S)):
            if await holds():
                return
            await asyncio.sleep(1.0)
        raise Broken(f"{HEALED_S:.0f} s after healing {said}")

    async def _is_placed(self) -> bool:
        return len(self.table[1]) == WANTED

    async def _writes(self) -> bool:
        return await self.clients.ask(Asked(0.0, GATEWAYS[1], Kind.WRITE, ("a",)))

    async def _are_equal(self) -> bool:
        """As the digests say that replicas exchange."""
        inventories = [self.nodes[name].inventory() for name in self.table[1]]
        since = max(it.forgotten for it in inventories)
        digests = [it.since(since).digests(0).tolist() for it in inventories]
        return len(digests) == WANTED and digests.count(digests[0]) == WANTED

    async def _is_found(self) -> bool:
        """Through each gateway, and by each replica with the token of the last write: the answer is
        complete, and says what the replicas hold.
        """
        held = self.nodes[self.table[1][0]].rows
        living = {key: it.text for key, it in held.items() if it.is_alive}
        found = [
            await self.clients.searched(gateway, token)
            for gateway in GATEWAYS
            for token in (None, self.clients.token)
        ]
        return all(texts == living for texts in found)


@dataclass(frozen=True, slots=True)
class Run:
    """What came of a plan: ``broken`` is None where every invariant held. ``answered`` counts the
    requests that were not refused, ``copied`` the replicas that had to be copied whole, ``turns``
    those of the event loop: another number for the same plan is a run that cannot be repeated.
    """

    plan: Plan
    broken: str | None
    answered: int
    faults: dict[str, int]
    copied: int
    turns: int


def run(plan: Plan, make: Callable[[Plan], World] = World) -> Run:
    """Always the same for the same plan."""
    random.seed(plan.seed)
    worlds, loop, broken = list[World](), VirtualLoop(), None

    async def main() -> None:
        worlds.append(make(plan))
        await worlds[0].run()

    try:
        loop.run(main())
    except Broken as error:
        broken = str(error)
    (world,) = worlds
    counts = world.clients.answered, dict(world.faults.fired), world.copied
    return Run(plan, broken, *counts, loop.turns)


def run_seeds(seeds: Sequence[int]) -> Iterator[Run]:
    """Each of ``seeds``, without a log, and with garbage collected now and then only: both would
    take as long as what is run.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    gc.disable()
    try:
        for place, seed in enumerate(seeds):
            yield run(plan_of(seed))
            if place % SEEDS_PER_COLLECTION == SEEDS_PER_COLLECTION - 1:
                gc.collect()
    finally:
        gc.enable()
        logging.disable(disabled)


def run_all(seeds: Sequence[int]) -> list[Run]:
    """The same in another process."""
    return list(run_seeds(seeds))
