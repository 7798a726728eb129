"""A cluster on paper: nodes, disks and actors that do what ``decide`` says, and fail at any time.

It counts time itself. Each action is checked before it is done: what it asserts are the promises of
decide.py. Whatever a controller remembers is lost with ``forget``; disks and table stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from bitsift.cluster.fleet import settings
from bitsift.cluster.fleet.decide import LINGER_S, decide
from bitsift.cluster.fleet.observed import (
    Action,
    CatchUp,
    CopyReplica,
    DropReplica,
    EndWriter,
    Node,
    Observed,
    Orders,
    Phase,
    Publish,
    Replica,
    RestartRouter,
    Router,
    StartReplica,
    StartRouter,
    StopReplica,
    StopRouter,
    Table,
)
from bitsift.cluster.fleet.spec import ClusterSpec, IndexSource, PlacementSpec
from tests.cluster.fleet.model_disk import Disk

Place = tuple[int, str]
COPY_S, OPEN_S, COMPARE_S = 3, 2, 2
FEW = 12
"""Writes, one each second, that may come between a comparison and the joining after it."""


def spec_of(replicas: int, routers: int = 1, grace_s: float = 10.0) -> ClusterSpec:
    placement = PlacementSpec(data="/d", replicas=replicas, routers=routers, grace_s=grace_s)
    return ClusterSpec(index=IndexSource(folder="/i"), placement=placement)


def changed(spec: ClusterSpec, **sections: dict[str, Any]) -> ClusterSpec:
    """The spec with other settings: ``shards={"exact_budget_ms": 7}``."""
    found = {
        name: getattr(spec, name).model_copy(update=values) for name, values in sections.items()
    }
    return spec.model_copy(update=found)


BROKEN = {"exact_budget_ms": 13.0}
"""With these settings of ``[shards]`` no replica can be opened."""


@dataclass(slots=True)
class ModelCluster:
    spec: ClusterSpec
    zones: dict[str, str]
    shards: int
    now: float = 1_000.0
    table: Table = field(init=False)
    disks: dict[Place, Disk] = field(default_factory=dict)
    actors: dict[Place, int] = field(default_factory=dict)
    """Seconds until they are open."""
    routers: dict[str, int] = field(default_factory=dict)
    started_with: dict[Place | str, ClusterSpec] = field(default_factory=dict)
    """The spec of each actor: by its place, by the node of a router, and "writer"."""
    lost: dict[str, float] = field(default_factory=dict)
    seen: dict[Place, Replica] = field(default_factory=dict)
    orders: Orders = field(default_factory=Orders)
    written: list[int] = field(init=False)
    changed: list[float] = field(init=False)
    """When the nodes of a shard were others last."""
    since: float = 1_000.0
    routers_alone: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        self.table = Table(0, ((),) * self.shards)
        self.started_with["writer"] = self.spec
        self.written = [0] * self.shards
        self.changed = [0.0] * self.shards

    # --- what befalls it -------------------------------------------------------------------

    def lose(self, node: str) -> None:
        """Its processes end; its disk stays."""
        self.lost.setdefault(node, self.now)
        for place in [place for place in self.actors if place[1] == node]:
            del self.actors[place]
        self.routers.pop(node, None)
        for (_, name), disk in self.disks.items():
            if name == node:
                disk.stop()

    def back(self, node: str) -> None:
        self.lost.pop(node, None)

    def crash(self, place: Place) -> None:
        """Ray starts the actor again."""
        if place in self.actors:
            self.actors[place] = OPEN_S

    def fail_copy(self, place: Place) -> None:
        if place in self.disks:
            self.disks[place].left_s = 0

    def forget(self) -> None:
        """The controller starts again: what it has seen of lost nodes is gone but the table."""
        self.since = self.now
        placed = {(s, node) for s, nodes in enumerate(self.table.shards) for node in nodes}
        self.seen = {
            (shard, node): Replica(shard, node, Phase.READY, self.now)
            for shard, node in placed
            if node in self.lost
        }
        self.lost = dict.fromkeys(self.lost, self.now)

    def write(self, shard: int) -> None:
        """Acknowledged by all of the table, or by none."""
        members = [(shard, node) for node in self.table.shards[shard]]
        is_open = bool(members) and all(self._answers(place) for place in members)
        if is_open:
            self.written[shard] += 1
            for place in members:
                self.disks[place].version = self.written[shard]

    # --- what is seen of it ----------------------------------------------------------------

    def observe(self) -> Observed:
        for place, disk in self.disks.items():
            if place[1] not in self.lost:
                self.seen[place] = self._replica(place, disk)
        self.seen = {k: v for k, v in self.seen.items() if k in self.disks or k[1] in self.lost}
        nodes = (
            Node(name, zone, self.lost.get(name), has_data=name not in self.routers_alone)
            for name, zone in self.zones.items()
        )
        return Observed(
            table=self.table,
            nodes=tuple(nodes),
            replicas=tuple(self.seen.values()),
            routers={
                node: Router(left == 0, settings.of_routers(self.started_with[node]))
                if left == 0
                else Router(is_well=False)
                for node, left in self.routers.items()
            },
            writer=settings.of_writer(self.started_with["writer"]),
            orders=self.orders,
            since=self.since,
        )

    def _replica(self, place: Place, disk: Disk) -> Replica:
        phase = Phase.CLOSED if disk.is_whole else Phase.INCOMING
        given = None
        if place in self.actors:
            phase = Phase.OPENING if self.actors[place] else Phase.READY
        if phase is Phase.READY:
            given = settings.of_replicas(self.started_with[place])
            phase = Phase.FAILED if self._is_broken(place) else Phase.READY
        before = self.seen.get(place)
        since = before.since if before is not None and before.phase is phase else self.now
        version = disk.version if phase is Phase.READY else before.version if before else 0
        return Replica(
            *place, phase, since, version, disk.left_s > 0,
            catching_up=disk.catching_up(), settings=given,
        )  # fmt: skip

    def _is_broken(self, place: Place) -> bool:
        budget = self.started_with[place].shards.exact_budget_ms
        return budget == BROKEN["exact_budget_ms"]

    def is_outdated(self, key: Place | str) -> bool:
        """Whether an actor was started with other settings than those of the spec."""
        given, wanted = self.started_with[key], self.spec
        if isinstance(key, tuple):
            return given.shards != wanted.shards
        if key == "writer":
            return (given.model, given.serve.write_acks) != (wanted.model, wanted.serve.write_acks)
        return (given.serve, given.model) != (wanted.serve, wanted.model)

    def outdated(self) -> list[Place | str]:
        running: list[Place | str] = ["writer", *self.actors, *self.routers]
        return [it for it in running if self.is_outdated(it)]

    # --- what is done to it ----------------------------------------------------------------

    def tick(self, late_write: int | None = None) -> tuple[Action, ...]:
        """A second passes; the controller looks and acts; there may be a write in between."""
        self.now += 1
        for place, left in self.actors.items():
            self.actors[place] = max(0, left - 1)
        for node, left in self.routers.items():
            self.routers[node] = max(0, left - 1)
        for disk in self.disks.values():
            if disk.left_s > 0:
                disk.left_s -= 1
                if disk.left_s == 0:
                    disk.version, disk.is_whole = disk.coming, True
        self._compare()
        observed = self.observe()
        if late_write is not None:
            self.write(late_write)
        actions = decide(self.spec, observed, self.now)
        for action in actions:
            self.do(action, observed)
        self.check()
        return actions

    def _compare(self) -> None:
        for (shard, _), disk in self.disks.items():
            if disk.comparing_s:
                disk.comparing_s -= 1
                if not disk.comparing_s:
                    disk.ended_at, disk.missed = self.now, self.written[shard] - disk.version
                    disk.version = disk.version if disk.is_outdated else self.written[shard]

    def do(self, action: Action, observed: Observed) -> None:
        match action:
            case CatchUp(shard, source, node):
                assert self.actors.get((shard, node)) == 0
                assert source in self.table.shards[shard]
                assert node not in self.table.shards[shard]
                self.disks[shard, node].comparing_s = COMPARE_S
            case StartReplica(shard, node):
                self._start((shard, node))
            case StopReplica(shard, node):
                self._stop((shard, node))
            case CopyReplica(shard, source, target):
                self._copy(shard, source, target, observed)
            case DropReplica(shard, node):
                self._drop(shard, node)
            case StartRouter(node):
                assert node not in self.lost
                if node not in self.routers:
                    self.routers[node], self.started_with[node] = OPEN_S, self.spec
            case StopRouter(node):
                del self.routers[node]
            case RestartRouter(node):
                self._restart_router(node)
            case EndWriter():
                assert self.is_outdated("writer")
                self.started_with["writer"] = self.spec
            case Publish(shards):
                self._publish(shards)

    def _answers(self, place: Place) -> bool:
        return self.actors.get(place) == 0 and not self._is_broken(place)

    def _others(self, place: Place) -> list[str]:
        """Nodes of the table that answer for the same shard."""
        shard, node = place
        return [n for n in self.table.shards[shard] if n != node and self._answers((shard, n))]

    def _stop(self, place: Place) -> None:
        """Nothing that is asked is ended, but for other settings where there is no other to ask."""
        shard, node = place
        assert node not in self.lost
        if not self.orders.stopped and self._answers(place):
            is_only = self.table.shards[shard] == (node,) and self.spec.placement.replicas == 1
            is_idle = node not in self.table.shards[shard]
            is_idle &= self.now - self.changed[shard] >= LINGER_S
            assert is_idle or (is_only and self.is_outdated(place))
        self.actors.pop(place, None)

    def _restart_router(self, node: str) -> None:
        assert node not in self.lost
        assert self.is_outdated(node)
        others = [name for name, left in self.routers.items() if name != node and left == 0]
        fit = [name for name in self.zones if name not in self.orders.drained]
        is_well = self.routers[node] == 0
        assert not is_well or len(others) >= min(self.spec.placement.routers, len(fit)) - 1
        self.routers[node], self.started_with[node] = OPEN_S, self.spec

    def _start(self, place: Place) -> None:
        assert place not in self.actors, f"{place} is opened twice"
        assert place[1] not in self.lost
        assert self.disks[place].is_whole
        assert self.disks[place].left_s == 0, "opened while it is written"
        self.actors[place], self.started_with[place] = OPEN_S, self.spec

    def _copy(self, shard: int, source: str | None, target: str, observed: Observed) -> None:
        place = (shard, target)
        assert target not in self.lost
        assert target != source
        if source is None:
            assert self.written[shard] == 0, "filled from the index, and writes are lost"
            left = [disk.left_s for (number, _), disk in self.disks.items() if number == shard]
            assert not any(left), "two nodes read the index at once"
            version = 0
        else:
            assert self._answers((shard, source))
            assert source in self.table.shards[shard]
            version = self.disks[shard, source].version
        if place in self.disks:
            assert self.disks[place].left_s == 0, f"two copies into {place}"
            assert target not in observed.table.shards[shard]
        self.actors.pop(place, None)
        disk = self.disks.setdefault(place, Disk())
        cannot_open = self._phase_seen(place) is Phase.FAILED
        is_needed = not disk.is_whole or disk.is_outdated or cannot_open
        assert is_needed or place not in self.seen, "copied in vain"
        disk.stop()
        disk.is_whole, disk.coming, disk.left_s, disk.is_outdated = False, version, COPY_S, False

    def _phase_seen(self, place: Place) -> Phase | None:
        seen = self.seen.get(place)
        return None if seen is None else seen.phase

    def _drop(self, shard: int, node: str) -> None:
        assert (shard, node) not in self.actors, "removed while it is open"
        assert node not in self.table.shards[shard]
        assert self.now - self.changed[shard] >= LINGER_S
        assert len(self.whole(shard)) >= self.spec.placement.replicas
        del self.disks[shard, node]

    def _publish(self, shards: tuple[tuple[str, ...], ...]) -> None:
        for shard, (old, new) in enumerate(zip(self.table.shards, shards, strict=True)):
            self.changed[shard] = self.now if old != new else self.changed[shard]
            assert not (old and not new), f"shard {shard} is in no table any more"
            assert len(set(new)) == len(new)
            for node in set(new) - set(old):
                self._join(self.disks[shard, node], shard, is_first=not old)
                assert self._answers((shard, node))
        self._check_leaving(shards)
        self.table = Table(self.table.epoch + 1, shards, self.now)

    def _check_leaving(self, shards: tuple[tuple[str, ...], ...]) -> None:
        """Of those that answer only one leaves that is not one too many, while all are well."""
        wanted = self.spec.placement.replicas
        leaving = [
            (shard, node)
            for shard, (old, new) in enumerate(zip(self.table.shards, shards, strict=True))
            for node in set(old) - set(new)
            if self._answers((shard, node)) and len(new) < wanted + self.orders.extra(shard)
        ]
        assert len(leaving) <= 1, "two leave at once"
        for shard, node in leaving:
            assert self.is_outdated((shard, node))
            for number, members in enumerate(self.table.shards):
                answering = [name for name in members if self._answers((number, name))]
                assert len(answering) >= wanted, f"{node} leaves while shard {number} lacks a copy"

    def _join(self, disk: Disk, shard: int, *, is_first: bool) -> None:
        """The last comparison: nobody writes, and it must be short."""
        if disk.version != self.written[shard]:
            assert not is_first, "an old copy joins"
            assert disk.ended_at is not None, "it was not compared before"
            assert not disk.is_outdated
            assert self.written[shard] - disk.version < FEW, "writes wait for long"
            disk.version = self.written[shard]

    # --- what always holds -----------------------------------------------------------------

    def whole(self, shard: int) -> list[str]:
        """Nodes of the table whose disk has all that was written."""
        return [
            node
            for node in self.table.shards[shard]
            if (shard, node) in self.disks
            and self.disks[shard, node].is_whole
            and self.disks[shard, node].version == self.written[shard]
        ]

    def check(self) -> None:
        for shard, members in enumerate(self.table.shards):
            assert not members or self.whole(shard), f"shard {shard} has lost its last whole copy"

    def settle(self, seconds: int = 400) -> None:
        """Until nothing is left to be done."""
        idle = 0
        for _ in range(seconds):
            idle = 0 if self.tick() else idle + 1
            if idle > LINGER_S + COPY_S + OPEN_S + 10:
                return
        raise AssertionError(f"no end: {self.tick()}")

    def with_orders(self, **orders: object) -> None:
        self.orders = replace(self.orders, **orders)  # type: ignore[arg-type]
