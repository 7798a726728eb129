"""The controller of the simulation: what cluster/fleet/control.py does, for one shard, with links
in the place of Ray. cluster/fleet/membership.py decides which table may follow which,
router/shards/convergence.py is catching up, and cluster/fleet/joining.py says who may join.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bitsift.cluster.fleet.joining import Compared, made_equal
from bitsift.cluster.fleet.membership import ended, is_ended, joined, sources
from bitsift.errors import BitsiftError, Fenced, FormatMismatch
from bitsift.router.shards.convergence import equalize
from bitsift.router.shards.replica import Replica
from tests.simulation.loop import pause
from tests.simulation.network import ASK_S, Process, SimulatedLink

if TYPE_CHECKING:
    from tests.simulation.world import World

STEP_S = 0.5
HOLD_S = 12.0
ENOUGH = 1
"""Documents that may be lacking when writes are held."""
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
        self._outdated = set[str]()
        """Which were to join, and can only be copied."""
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
                self.read_again()
            except (BitsiftError, TimeoutError):
                pass
            await pause(STEP_S)

    def read_again(self) -> None:
        """What is on the disks: an epoch that one chose and did not give out is known to those that
        it sealed only.
        """
        sealed = [node.sealed for node in self._world.nodes.values() if node.is_up]
        self.decided.epoch = max([self.decided.table[0], *sealed])

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
                await self._join(self._world.random.choice(free), stay[0], answering)

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
        new = [node for node in members if node not in before and node in sealed]
        found = await self._compared(sources(before, members, sealed, WANTED), members, new, epoch)
        await self.goes_on()
        if epoch == self.decided.epoch and ended((before,), WANTED, found.known):
            (self.decided.members,) = joined(
                (before,), (tuple(members),), {0}, found.complete, WANTED
            )
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

    async def _join(self, node: str, source: str, answering: Sequence[str]) -> None:
        """It catches up while writes go on; they are held while it is made equal, and joins."""
        if not await self._catch_up(node, source):
            return
        writer = self._world.writer
        try:
            async with asyncio.timeout(HOLD_S):
                await writer.hold(HOLD_S)
                await self._change((*self.decided.members, node), answering)
        finally:
            if self.is_alive:
                writer.gate.release()

    async def _catch_up(self, node: str, source: str) -> bool:
        """Whether it lacks next to nothing by now. One that was away for so long that others have
        forgotten deletions is copied whole, and catches up then.
        """
        both, new = [self.links[source], self.links[node]], [self.links[node]]
        epoch, life = self.decided.table[0], self._world.nodes[node].life
        failed = await equalize(both, epoch, newcomers=new, targets=new, enough=ENOUGH)
        await self.goes_on()
        error = failed.get(self.links[node])
        if not (isinstance(error, FormatMismatch) or node in self._outdated):
            return not failed
        here = await self._answering()
        await self.goes_on()
        if {node, source}.issubset(here) and life == self._world.nodes[node].life:
            self._world.nodes[node].be_copied_from(self._world.nodes[source])
            self._world.copied += 1
            self._outdated.discard(node)
        return False

    async def _compared(
        self, old: Sequence[str], members: Sequence[str], new: Sequence[str], epoch: int
    ) -> Compared:
        """Which of them have all that the ``old`` ones have. All are sealed."""
        links, stay = self.links, [node for node in old if node in members]
        leaving = [links[node] for node in old if node not in members]
        both = [links[node] for node in stay], [links[node] for node in new]
        found = await made_equal(*both, leaving, epoch)
        why = {node: found.failed.get((0, node)) for node in new}
        self._outdated.update(it for it in new if isinstance(why[it], FormatMismatch))
        return found

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
