"""What to do next so that a cluster becomes what its spec says: a pure function.

It keeps no state. Called every second with what was observed, it returns the next safe steps; a
step that is taken twice, or not at all, costs time and nothing else.

* A replica answers only while it is in the table. It joins when it is READY and next to equal to
  those in it: the rest is sent while no write runs (joining.py). It leaves before it is closed, and
  is closed before it is removed.
* It catches up by difference while writes go on; it is copied whole where there is nothing of it,
  or where what was deleted meanwhile is forgotten.
* Nothing is removed while the table has fewer than the wanted copies on nodes that should have
  one. So the last complete copy of a shard is never removed.
* A lost node keeps its replicas for the grace period; after it they are placed elsewhere.
* The spec's index fills a shard of which no copy is known, not even one on a lost node.
* What runs with other settings than the spec's is restarted, one at a time (rolling.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from bitsift.cluster.fleet.closeness import is_close, is_compared_next, is_outdated
from bitsift.cluster.fleet.observed import (
    Action,
    CatchUp,
    CopyReplica,
    DropReplica,
    Node,
    Observed,
    Phase,
    Publish,
    Replica,
    StartReplica,
    StopReplica,
    StopRouter,
    Table,
)
from bitsift.cluster.fleet.rolling import (
    is_replica_outdated,
    may_take_replica,
    routers_and_writer,
)
from bitsift.cluster.fleet.routing import routing
from bitsift.cluster.fleet.spec import ClusterSpec

SETTLE_S = 5.0
"""A controller that has just begun waits so long for nodes to report, before it takes a disk for
empty that is only late."""
LINGER_S = 3.0
"""Queries sent under the last table may still be running on a replica that has left it."""
_OPEN = (Phase.OPENING, Phase.READY, Phase.FAILED)


def decide(spec: ClusterSpec, observed: Observed, now: float) -> tuple[Action, ...]:
    """The next steps. They are to be taken in this order; none needs the end of another."""
    if observed.orders.stopped:
        return tuple(_stopping(observed))
    shards = _shards(spec, observed, now)
    if all(shard.is_well() for shard in shards) and may_take_replica(spec, observed):
        any(shard.gives_up_one() for shard in shards)  # the first that has one to give up
    loads = Counter(replica.node for replica in observed.replicas)
    busy = {replica.node for replica in observed.replicas if replica.is_copying}
    actions = list(_publishing(shards, observed))
    for shard in shards:
        actions += shard.removals()
        actions += shard.restarts()
        actions += shard.starts()
        actions += shard.copies(loads, busy)
        actions += shard.catching_up()
    return (*actions, *routing(spec, observed), *routers_and_writer(spec, observed))


def lacking(spec: ClusterSpec, observed: Observed, now: float) -> dict[int, int]:
    """How many of the wanted copies of a shard do not answer; shards that have all are left out."""
    found = {s.number: s.wanted - len(s.good) for s in _shards(spec, observed, now)}
    return {number: count for number, count in found.items() if count > 0}


def first_places(spec: ClusterSpec, nodes: Sequence[Node], shards: int) -> tuple[str, ...]:
    """The node of the first copy of each shard of a new index, as evenly as can be."""
    loads: Counter[str] = Counter()
    places = []
    for shard in _shards(spec, Observed(Table(0, ((),) * shards), tuple(nodes)), 0.0):
        places.append(next(shard.targets(loads)))
        loads[places[-1]] += 1
    return tuple(places)


def _shards(spec: ClusterSpec, observed: Observed, now: float) -> list[_Shard]:
    return [_Shard(spec, observed, now, number) for number in range(len(observed.table.shards))]


def _stopping(observed: Observed) -> Iterator[Action]:
    """Routers first: no query should reach a closed shard."""
    alive = {node.name for node in observed.nodes if node.lost_at is None}
    yield from (StopRouter(node) for node in sorted(alive.intersection(observed.routers)))
    for replica in () if observed.routers else observed.replicas:
        if replica.phase in _OPEN and replica.node in alive:
            yield StopReplica(replica.shard, replica.node)


def _publishing(shards: Sequence[_Shard], observed: Observed) -> Iterator[Action]:
    """A table where another is due. Who leaves waits for nobody; who joins, for those: writes are
    held for it, and may be waiting for one that leaves.
    """
    left = tuple(shard.left() for shard in shards)
    members = tuple(shard.members() for shard in shards)
    if left != observed.table.shards:
        yield Publish(left)
    elif members != left:
        yield Publish(members)


class _Shard:
    """One shard as it was seen, and its next steps."""

    def __init__(self, spec: ClusterSpec, observed: Observed, now: float, number: int) -> None:
        self.number = number
        self.wanted = spec.placement.replicas + observed.orders.extra(number)
        self._ordered = spec.placement.replicas
        self._grace_s = spec.placement.grace_s
        self._spec = spec
        self._observed = observed
        self._now = now
        self._nodes = {node.name: node for node in observed.nodes if node.has_data}
        self._replicas = {replica.node: replica for replica in observed.of_shard(number)}
        self._placed = observed.table.shards[number]
        self.good = [node for node in self._placed if self._answers(node) and self._may_stay(node)]
        """Nodes of the table that answer and should have a copy."""
        self._given_up: str | None = None

    def _is_here(self, node: str) -> bool:
        return node in self._nodes and self._nodes[node].lost_at is None

    def _answers(self, node: str) -> bool:
        replica = self._replicas.get(node)
        is_ready = replica is not None and replica.phase is Phase.READY
        return is_ready and self._is_here(node) and not self._replicas[node].is_behind

    def _may_stay(self, node: str) -> bool:
        return not self._observed.orders.avoids(self.number, node)

    def _is_awaited(self, replica: Replica) -> bool:
        """Whether it counts as a copy: it is there, or may be back within the grace period."""
        lost_at = self._nodes[replica.node].lost_at if replica.node in self._nodes else 0.0
        if lost_at is not None:
            return self._now - lost_at < self._grace_s
        is_stuck = replica.phase in (Phase.FAILED, Phase.OPENING)
        return not is_stuck or self._now - replica.since < self._grace_s

    # --- the table -------------------------------------------------------------------------

    def members(self) -> tuple[str, ...]:
        """Which nodes should answer: those of the table that still do, and those that may join now.

        A shard of which none answers keeps those that it has: they may be back.
        """
        found = sorted((self._staying() | set(self._joining())) - set(self._surplus()))
        return tuple(found) or self._placed

    def left(self) -> tuple[str, ...]:
        """The same without those that join."""
        return tuple(sorted(self._staying() - set(self._surplus()))) or self._placed

    def _staying(self) -> set[str]:
        return {node for node in self._placed if self._answers(node)} - {self._given_up}

    def _joining(self) -> list[str]:
        outside = self._outside()
        if not self._placed and self._is_unsure():
            return []
        if self._placed and not self._is_orphaned():
            may_join = self._may_join()
            return [n for n in outside if may_join and is_close(self._replicas[n], self._now)]
        newest = self._newest(self._placed or outside)
        return [node for node in outside if self._replicas[node].version == newest]

    def _is_unsure(self) -> bool:
        """Whether a copy that is opening, or on a lost node, may be newer than those that answer.

        Nobody writes to a shard that is in no table: it can wait.
        """
        unknown = (Phase.CLOSED, Phase.OPENING)
        return self._now - self._observed.since < SETTLE_S or any(
            self._is_awaited(replica) and (replica.phase in unknown or not self._is_here(node))
            for node, replica in self._replicas.items()
        )

    def _is_orphaned(self) -> bool:
        """Whether none of the table can be expected any more."""
        placed = [self._replicas[node] for node in self._placed if node in self._replicas]
        return not any(self._is_awaited(replica) for replica in placed)

    def _newest(self, nodes: Sequence[str]) -> int:
        """The newest version that was seen there; of nodes that answer, if any does."""
        known = [node for node in nodes if node in self._replicas]
        answering = [node for node in known if self._answers(node)]
        return max((self._replicas[node].version for node in answering or known), default=-1)

    def _outside(self) -> list[str]:
        """READY copies that are not in the table and should be."""
        left_out = {*self._surplus(), *self._placed, *self._outdated()}
        return [
            node for node in sorted(self._replicas) if self._answers(node) and node not in left_out
        ]

    def _may_join(self) -> bool:
        """Whether somebody is there to be equal to, and the table can be replaced."""
        is_served = any(self._answers(node) for node in self._placed)
        return is_served and self._observed.can_change(self.number, self._ordered)

    # --- catching up -----------------------------------------------------------------------

    def catching_up(self) -> Iterator[Action]:
        """Compare those outside of the table, until each is close to it."""
        sources = [node for node in self._placed if self._answers(node)]
        for node in self._outside() if sources and self._may_join() else ():
            if is_compared_next(self._replicas[node], self._now):
                yield CatchUp(self.number, sources[self.number % len(sources)], node)

    # --- copies too many -------------------------------------------------------------------

    def _surplus(self) -> list[str]:
        """Nodes whose copy is not needed: as many as wanted are in the table elsewhere."""
        kept = self._kept()
        return [node for node in self._replicas if node not in kept] if kept else []

    def _kept(self) -> list[str]:
        """The wanted copies among the good ones, in as many zones as can be; none while they are
        too few.
        """
        if len(self.good) < self.wanted:
            return []
        kept: list[str] = []
        while len(kept) < self.wanted:
            left = sorted(set(self.good) - set(kept))
            kept.append(min(left, key=lambda node: self._rank(node, kept)))
        return kept if self._zones(kept) >= self._zones_wanted() else []

    def _rank(self, node: str, others: Sequence[str]) -> tuple[bool, int]:
        """The lower, the better ``node`` stands beside the copies on ``others``."""
        zones = [self._nodes[other].zone for other in others if other in self._nodes]
        pinned = self._observed.orders.pins(self.number, node)
        return not pinned, zones.count(self._nodes[node].zone)

    def _zones(self, nodes: Sequence[str]) -> int:
        return len({self._nodes[node].zone for node in nodes})

    def _zones_wanted(self) -> int:
        """In how many zones the copies can be. Nodes that operators named are where they are."""
        free = [node for node in self._nodes if self._is_here(node) and self._may_stay(node)]
        pins = sum(self._observed.orders.pins(self.number, node) for node in free)
        return min(self.wanted, self._zones(free)) if not pins else 0

    def removals(self) -> Iterator[Action]:
        """Close what left the table a while ago; remove what is closed."""
        if self._now - self._observed.table.placed_at < LINGER_S:
            return
        for node in self._surplus():
            replica = self._replicas[node]
            if node in self._placed or replica.is_copying or not self._is_here(node):
                continue
            is_open = replica.phase in _OPEN
            yield (StopReplica if is_open else DropReplica)(self.number, node)

    # --- copies with other settings --------------------------------------------------------

    def _outdated(self) -> list[str]:
        return [n for n, r in self._replicas.items() if is_replica_outdated(self._spec, r)]

    def is_well(self) -> bool:
        """Whether all copies that are wanted answer, and no other is there."""
        here = {node for node in self._replicas if self._is_here(node)}
        return here == set(self._placed) == set(self._kept())

    def gives_up_one(self) -> bool:
        """Give up a copy with other settings, if there is one: it leaves the table, unless it is
        the only one, and is started again.
        """
        self._given_up = next((node for node in self._outdated() if node in self.good), None)
        return self._given_up is not None

    def restarts(self) -> Iterator[Action]:
        """End what nobody asks, or what does not answer anyway: then it is started."""
        surplus = self._surplus()
        for node in self._outdated():
            is_kept = node not in surplus and self._is_here(node)
            is_open = self._replicas[node].phase is Phase.READY
            if is_kept and not (is_open and self._is_asked(node)):
                yield StopReplica(self.number, node)

    def _is_asked(self, node: str) -> bool:
        """Whether queries may be sent to it, or on their way. A lone copy that was given up is
        ended under them: there is no other to send them to.
        """
        if self._placed == (node,):
            return node != self._given_up
        return node in self._placed or self._now - self._observed.table.placed_at < LINGER_S

    # --- copies too few --------------------------------------------------------------------

    def starts(self) -> Iterator[Action]:
        surplus = self._surplus()
        for node, replica in self._replicas.items():
            is_closed = replica.phase is Phase.CLOSED and not replica.is_copying
            if is_closed and node not in surplus and self._is_here(node):
                yield StartReplica(self.number, node)

    def copies(self, loads: Counter[str], busy: set[str]) -> Iterator[Action]:
        """What is begun, or done again, one copy at a time into each node.

        ``loads`` counts the replicas of each node, those among them that this plans.
        """
        is_filled, source = self._source()
        for target in [*self._unfinished(), *self.targets(loads)]:
            loads[target] += target not in self._replicas
            if is_filled and target not in busy:
                busy.add(target)
                is_filled = source is not None  # of the index one copy; the others are of that
                yield CopyReplica(self.number, source, target)

    def _source(self) -> tuple[bool, str | None]:
        """Whether there is something to copy from, and the node: None is the spec's index."""
        ready = [node for node in self._placed if self._answers(node)]
        if ready:
            return True, ready[self.number % len(ready)]
        known = [r for r in self._replicas.values() if r.phase is not Phase.INCOMING]
        settled = self._now - self._observed.since >= SETTLE_S
        is_copying = any(replica.is_copying for replica in self._replicas.values())
        return settled and not (known or is_copying or self._placed), None

    def _unfinished(self) -> list[str]:
        """Copies that have to be gone on with, and those that no difference can help."""
        surplus = self._surplus()
        outdated = [node for node in self._outside() if is_outdated(self._replicas[node])]
        parts = [n for n, r in self._replicas.items() if r.phase is Phase.INCOMING]
        begun = [*parts, *outdated]
        return [
            node
            for node in begun
            if self._is_here(node)
            and self._may_stay(node)
            and node not in surplus
            and not self._replicas[node].is_copying
        ]

    def targets(self, loads: Counter[str]) -> Iterator[str]:
        """Nodes that get a copy, the one after the other."""
        counted = [
            node
            for node, replica in self._replicas.items()
            if self._may_stay(node) and node in self._nodes and self._is_awaited(replica)
        ]
        free = {
            name: node
            for name, node in self._nodes.items()
            if name not in self._replicas and self._is_here(name) and self._may_stay(name)
        }
        while free and self._is_short(counted, free):
            target = min(free, key=lambda node: (*self._rank(node, counted), loads[node], node))
            del free[target]
            counted.append(target)
            yield target
        if len(counted) < self.wanted:  # no node is free: what cannot be opened is copied over
            failed = [n for n, r in self._replicas.items() if r.phase is Phase.FAILED]
            lasting = [n for n in failed if self._is_here(n) and n not in counted]
            yield from (n for n in lasting if self._may_stay(n) and n not in self._placed)

    def _is_short(self, counted: Sequence[str], free: dict[str, Node]) -> bool:
        """Of copies; or of zones, while a free node lies in another. Nodes that were named come
        first, and may be too many for a moment.
        """
        if any(self._observed.orders.pins(self.number, node) for node in free):
            return True
        new_zones = {node.zone for node in free.values()} - {self._nodes[n].zone for n in counted}
        spread = bool(new_zones) and self._zones(counted) < self._zones_wanted()
        return len(counted) < self.wanted or spread
