"""The controller of the simulation: what cluster/fleet/control.py does, for one shard, with links
in the place of Ray. cluster/fleet/membership.py decides which table may follow which, and
router/shards/convergence.py is catching up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bitsift.cluster.fleet.membership import is_ended
from bitsift.errors import BitsiftError, Fenced, FormatMismatch
from bitsift.router.shards.convergence import converge
from bitsift.router.shards.replica import Replica
from tests.simulation.loop import pause
from tests.simulation.network import ASK_S, Process, SimulatedLink

if TYPE_CHECKING:
    from tests.simulation.world import World

STEP_S = 0.5
HOLD_S = 12.0
WANTED = 3
Table = tuple[int, tuple[str, ...]]
"""An epoch, and the members then."""


@dataclass(slots=True)
class Decided:
    """What is on the disks: it outlives the controller."""

    members: tuple[str, ...]
    epoch: int = 1
    table: Table = (1, ())
    """What routers and the writer are given."""
    is_placed: bool = True
    """Whether no replica may be sealed with a later epoch than that of the table."""
    drained: set[str] = field(default_factory=set)
    """Nodes that shall have no replica."""
    extra: int = 0
    """Replicas that an operator ordered besides the wanted ones."""

    def __post_init__(self) -> None:
        self.table = self.epoch, self.members


class Controller(Process):
    """Makes the table what it should be, step by step."""

    def __init__(self, world: World, decided: Decided) -> None:
        super().__init__("controller")
        self._world = world
        self.decided = decided
        self.links = {
            name: Replica(0, name, SimulatedLink(world.network, self, node))  # type: ignore[arg-type]
            for name, node in world.nodes.items()
        }

    async def run(self) -> None:
        while self.is_alive:
            try:
                await self.step()
            except Fenced:
                if self is not self._world.controller:
                    return  # another one is in charge
            except (BitsiftError, TimeoutError):
                pass
            await pause(STEP_S)

    async def step(self) -> None:
        await self.goes_on()
        if not await self._place():
            await self._replace_writer()
            return
        answering = await self._answering()
        behind = set(self._world.writer.shard.writes.behind)
        members, drained = self.decided.members, self.decided.drained
        wanted_count = WANTED + self.decided.extra
        stay = [node for node in members if node in answering and node not in behind]
        wanted = [node for node in stay if node not in drained]
        if len(wanted) >= wanted_count:
            stay = wanted[:wanted_count]
        if stay and tuple(stay) != members:
            await self._change(stay, answering)
        elif not self.decided.is_placed:  # sealed with an epoch that the writer does not have
            await self._change(members, answering)
        elif len(wanted) < wanted_count:
            free = [node for node in answering if node not in members and node not in drained]
            if free and stay:
                await self._join(self._world.random.choice(free), answering)

    async def _reaches(self, name: str) -> bool:
        return bool(await self._world.network.reached(self.name, [name]))

    async def _answering(self) -> list[str]:
        found = await self._world.network.reached(self.name, [*self.links])
        return [name for name in found if self._world.nodes[name].is_up]

    async def _change(self, members: Sequence[str], answering: Sequence[str]) -> None:
        """Seal enough of the old table, bring newcomers up to date, then give it to all."""
        before = self.decided.members
        if not is_ended(before, answering, WANTED):
            return
        await self.goes_on()
        self.decided.epoch += 1
        self.decided.is_placed = False
        epoch = self.decided.epoch
        sealed = await self._seal(sorted({*before, *members}.intersection(answering)), epoch)
        if not is_ended(before, sealed, WANTED):
            return
        if new := [node for node in members if node not in before and node in sealed]:
            if not (sources := [node for node in before if node in sealed]):
                return
            await self._catch_up(sources, new, epoch)
        await self.goes_on()
        if epoch == self.decided.epoch:
            self.decided.members = tuple(node for node in members if node in (*before, *new))
            self.decided.epoch += 1
            self.decided.table = self.decided.epoch, self.decided.members
            self.decided.is_placed = True
            await self._place()

    async def _seal(self, names: Sequence[str], epoch: int) -> list[str]:
        network, nodes = self._world.network, self._world.nodes
        calls = [
            asyncio.wait_for(network.call(self.name, nodes[name], "seal_new", epoch), ASK_S)
            for name in names
        ]
        said = await asyncio.gather(*calls, return_exceptions=True)
        await self.goes_on()
        for one in said:
            if isinstance(one, Fenced):
                raise one
        return [name for name, one in zip(names, said, strict=True) if isinstance(one, int)]

    async def _join(self, node: str, answering: Sequence[str]) -> None:
        """Writes are held while ``node`` is made equal and joins."""
        writer = self._world.writer
        try:
            async with asyncio.timeout(HOLD_S):
                await writer.hold(HOLD_S)
                await self._change((*self.decided.members, node), answering)
        finally:
            if self.is_alive:
                writer.gate.release()

    async def _catch_up(self, members: Sequence[str], new: Sequence[str], epoch: int) -> None:
        """One that was away for so long that others have forgotten deletions is copied whole."""
        try:
            await converge([self.links[node] for node in (*members, *new)], epoch)
        except FormatMismatch:
            nodes = self._world.nodes
            for node in new:
                await self.goes_on()
                if node in await self._answering():
                    nodes[node].be_copied_from(nodes[members[0]])
                    self._world.copied += 1
            await converge([self.links[node] for node in (*members, *new)], epoch)

    async def _replace_writer(self) -> None:
        for gateway in self._world.gateways:
            if await self._reaches(gateway):
                await self.goes_on()
                self.decided.epoch += 1
                self.decided.table = self.decided.epoch, self.decided.members
                self._world.start_writer(gateway)
                await self._place()
                return

    async def _place(self) -> bool:
        """Give the table to the routers that can be reached, then to the writer; returns whether
        that was reached.
        """
        await self.goes_on()
        world, table = self._world, self.decided.table
        for name, router in world.routers.items():
            is_new = router.epoch < table[0] or router.writer is not world.writer
            if is_new and await self._reaches(name):
                await self.goes_on()
                router.writer = world.writer
                router.place(*table)
        writer = world.writer
        if not writer.is_alive or not await self._reaches(writer.name):
            return False
        await self.goes_on()
        writer.place(*table)
        world.begin(writer.shard.writes.take_over())
        return True
