"""What befalls a simulated cluster, and how it ends."""

from __future__ import annotations

import asyncio
import copy
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.controller import WANTED, Controller
from tests.simulation.plan import NODES, PLACES, SKEW_MAX_S, Fault

if TYPE_CHECKING:
    from tests.simulation.world import World

Undo = Callable[[], object] | None


class Faults:
    """``befall`` begins a fault of a plan, waits, and ends it; ``heal`` ends all."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._network = world.network
        self.fired = Counter[str]()

    async def befall(self, fault: Fault) -> None:
        self.fired[fault.kind] += 1
        undo: Undo = getattr(self, "_" + fault.kind.replace(" ", "_"))(fault)
        await asyncio.sleep(fault.for_s)
        if undo is not None:
            undo()

    def heal(self) -> None:
        """Clocks that are a little wrong stay so."""
        network, decided = self._network, self._world.controller.decided
        network.cut.clear()
        network.slow.clear()
        network.drop = network.duplicate = network.reorder = 0.0
        decided.drained.clear()
        decided.extra = 0
        for name, seconds in self._world.skew.items():
            self._world.skew[name] = max(-SKEW_MAX_S, min(SKEW_MAX_S, seconds))
        for node in self._world.nodes.values():
            node.start()
            node.is_full = False

    # --- nodes -----------------------------------------------------------------------------

    def _crash(self, fault: Fault) -> Undo:
        node = self._world.nodes[fault.what]
        node.crash()
        return node.start

    def _power(self, fault: Fault) -> Undo:
        """All nodes at once."""
        nodes = self._world.nodes.values()
        for node in nodes:
            node.crash()

        def undo() -> None:
            for node in nodes:
                node.start()

        return undo

    def _full(self, fault: Fault) -> Undo:
        node = self._world.nodes[fault.what]
        node.is_full = True
        return lambda: setattr(node, "is_full", False)

    def _clock(self, fault: Fault) -> Undo:
        self._world.skew[fault.what] = fault.number
        return None

    def _clock_wrong(self, fault: Fault) -> Undo:
        """One at a time: where two agree on a wrong time, what they store stays ahead of others."""
        skew, right = self._world.skew, self._world.skew[fault.what]
        if any(abs(seconds) > SKEW_MAX_S for seconds in skew.values()):
            return None
        skew[fault.what] = fault.number
        return lambda: skew.update({fault.what: right})

    # --- the network -----------------------------------------------------------------------

    def _slow(self, fault: Fault) -> Undo:
        self._network.slow[fault.what] = fault.number
        return lambda: self._network.slow.pop(fault.what, None)

    def _share(self, fault: Fault) -> Undo:
        setattr(self._network, fault.kind, fault.number)
        return lambda: setattr(self._network, fault.kind, 0.0)

    _drop = _duplicate = _reorder = _share

    def _without(self, pairs: set[tuple[str, str]]) -> Undo:
        new = pairs - self._network.cut
        self._network.cut |= new
        return lambda: self._network.cut.difference_update(new)

    def _deaf(self, fault: Fault) -> Undo:
        return self._without({(other, fault.what) for other in PLACES if other != fault.what})

    def _mute(self, fault: Fault) -> Undo:
        return self._without({(fault.what, other) for other in PLACES if other != fault.what})

    def _part(self, fault: Fault) -> Undo:
        side = set(fault.what.split())
        pairs = {(a, b) for a in side for b in PLACES if b not in side}
        return self._without(pairs | {(b, a) for a, b in pairs})

    _isolate = _gateway_isolated = _part

    # --- who is in charge ------------------------------------------------------------------

    def _move(self, fault: Fault) -> Undo:
        """Its replica shall be elsewhere."""
        drained = self._world.controller.decided.drained
        if len(drained) < len(NODES) - WANTED:
            drained.add(fault.what)
        return lambda: self._world.controller.decided.drained.discard(fault.what)

    def _extra(self, fault: Fault) -> Undo:
        """One replica more is ordered, for a while."""
        self._world.controller.decided.extra = 1
        return lambda: setattr(self._world.controller.decided, "extra", 0)

    def _writer_ends(self, fault: Fault) -> Undo:
        self._world.writer.is_alive = False
        return None

    def _controller_ends(self, fault: Fault) -> Undo:
        self._world.controller.is_alive = False
        self._world.start_controller()
        return None

    def _stale_controller(self, fault: Fault) -> Undo:
        """It sleeps, another takes its place, and it wakes and acts on what it knew."""
        known = copy.deepcopy(self._world.controller.decided)
        self._controller_ends(fault)

        def wake() -> None:
            decided = self._world.controller.decided
            if decided.is_placed and decided.epoch > known.epoch:
                late = Controller(self._world, known)
                late._replace_writer = _nothing  # type: ignore[method-assign]
                self._world.begin(late.run())

        return wake


async def _nothing() -> None:
    return
