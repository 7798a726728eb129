"""A network that delays, drops, duplicates, reorders and parts, and the links over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

from bitsift.errors import BitsiftError, ShardUnavailable
from bitsift.router.shards.background import let_end
from bitsift.write_token import NOTHING
from tests.simulation.loop import pause
from tests.simulation.replica import SimulatedReplica

LOST_S = 2.0
"""After which a caller takes a lost message for a failure."""
USUAL_S = 0.004
"""A message takes up to this long, so that those of a moment overtake each other."""
OVERTAKEN_S = 1.0
"""How much longer one takes that many others overtake."""
AGAIN_S = 4.0
"""How late a copy of a message may come."""
ASK_S = 1.5
"""How long a controller waits for those that do not answer."""


class Network:
    """Between named places. All of it by one random generator."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.drop = self.duplicate = self.reorder = 0.0
        """The share of messages that this befalls."""
        self.slow: dict[str, float] = {}
        """Seconds more that each message from or to a place takes."""
        self.cut: set[tuple[str, str]] = set()
        """(from, to) between which nothing passes."""

    def _loses(self, source: str, target: str) -> bool:
        return (source, target) in self.cut or self._random.random() < self.drop

    def _takes_s(self, source: str, target: str) -> float:
        seconds = USUAL_S * self._random.random()
        if self.slow:
            seconds += self.slow.get(source, 0.0) + self.slow.get(target, 0.0)
        if self.reorder and self._random.random() < self.reorder:
            seconds += OVERTAKEN_S * self._random.random()
        return seconds

    async def carry(self, source: str, target: str) -> None:
        """One message. Raises ShardUnavailable where it is lost: whoever sent it never knows."""
        if self._loses(source, target):
            await pause(LOST_S)
            raise ShardUnavailable(f"no answer from {target}")
        await pause(self._takes_s(source, target))

    async def reached(self, source: str, targets: Sequence[str]) -> list[str]:
        """Those of ``targets`` whose answers are back within ``ASK_S``; all are asked at once."""
        found, longest_s = list[str](), 0.0
        for target in targets:
            lost = self._loses(source, target) or self._loses(target, source)
            took_s = self._takes_s(source, target) + self._takes_s(target, source)
            if not lost and took_s < ASK_S:
                found.append(target)
            longest_s = max(longest_s, ASK_S if lost else min(took_s, ASK_S))
        await pause(longest_s)
        return found

    async def call(self, source: str, node: SimulatedReplica, method: str, *given: Any) -> Any:
        """What ``node`` answers. Lost on the way there or back, it is ShardUnavailable."""
        if self._random.random() < self.duplicate:
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
        await pause(self._random.uniform(0.0, AGAIN_S))
        await self.carry(source, node.node)
        if node.is_up:
            await getattr(node, method)(*given)


class Process:
    """Something that calls replicas and may end: a writer, a router, a controller."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True

    async def goes_on(self) -> None:
        """Never returns where it has ended."""
        if not self.is_alive:
            await asyncio.Event().wait()


class SimulatedLink:
    """A replica as a process at ``place`` sees it; after the process has ended nobody does.

    It has the methods of a ReplicaLink: whatever ``SimulatedReplica`` answers.
    """

    def __init__(self, network: Network, place: Process, node: SimulatedReplica) -> None:
        self._network, self._place, self.replica = network, place, node
        self.reached = NOTHING

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        async def ask(*given: Any) -> Any:
            return await self._ask(method, *given)

        self.__dict__[method] = ask
        return ask

    async def _ask(self, method: str, *given: Any) -> Any:
        if not self._place.is_alive:
            await self._place.goes_on()
        try:
            found = await self._network.call(self._place.name, self.replica, method, *given)
        except BitsiftError:
            await self._place.goes_on()
            raise
        if not self._place.is_alive:
            await self._place.goes_on()
        return found
