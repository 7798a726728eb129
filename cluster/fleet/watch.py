"""What a controller has seen, and since when: reports of agents and actors become ``Observed``.

A node is lost when Ray says so, or when its agent says nothing for a while: it may be frozen, or
cut off. Of a lost node the last that was seen stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bitsift.cluster.fleet.actors import RayNode
from bitsift.cluster.fleet.agent import AgentReport, CopyReport
from bitsift.cluster.fleet.catching_up import CatchUpReport
from bitsift.cluster.fleet.membership import Place
from bitsift.cluster.fleet.node_store import Held
from bitsift.cluster.fleet.observed import CatchingUp, Node, Phase, Replica
from bitsift.errors import BitsiftError, FormatMismatch
from bitsift.shard_worker.types import ShardStatus

SILENT_S = 10.0
"""After so long without a report a node is taken for lost."""
Seen = ShardStatus | BitsiftError | None
"""What a replica's actor said; None: nothing yet."""


@dataclass(slots=True)
class Watch:
    """The memory of one controller, of one index. Times are those of ``now``."""

    uuid: str
    nodes: dict[str, Node] = field(default_factory=dict)
    replicas: dict[Place, Replica] = field(default_factory=dict)
    copies: dict[Place, CopyReport] = field(default_factory=dict)
    catch_ups: dict[Place, CatchUpReport] = field(default_factory=dict)
    reasons: dict[Place, str] = field(default_factory=dict)
    _heard: dict[str, float] = field(default_factory=dict)
    _outdated: set[Place] = field(default_factory=set)
    """Which were to join, and can only be copied: one of the table has forgotten what they missed,
    though that which they caught up with has not.
    """

    def expect(self, placed: tuple[tuple[str, ...], ...], now: float) -> None:
        """Nodes of a table that a controller before this one placed: they may not be there."""
        for shard, nodes in enumerate(placed):
            for node in nodes:
                self.nodes.setdefault(node, Node(node, lost_at=now))
                self.replicas.setdefault((shard, node), Replica(shard, node, Phase.READY, now))

    def see_nodes(
        self, alive: Mapping[str, RayNode], reports: Mapping[str, AgentReport], now: float
    ) -> None:
        """Who is there, who was there, and since when not."""
        self._heard |= dict.fromkeys(reports, now)
        for name in self.nodes.keys() | alive.keys():
            known, ray_node = self.nodes.get(name), alive.get(name)
            is_silent = now - self._heard.get(name, float("-inf")) >= SILENT_S
            if ray_node is not None and not is_silent:
                self.nodes[name] = Node(name, ray_node.zone, has_data=ray_node.has_data)
            elif known is not None and known.lost_at is None:
                self.nodes[name] = replace(known, lost_at=now)
        empty = [
            n for n, node in self.nodes.items() if node.lost_at is not None and self._is_empty(n)
        ]
        for name in empty:
            del self.nodes[name]

    def _is_empty(self, node: str) -> bool:
        """A node that is gone, and had nothing, is forgotten."""
        return not any(place[1] == node for place in self.replicas)

    def to_ask(self, reports: Mapping[str, AgentReport]) -> list[Place]:
        """Whole replicas of those that report: they may have an actor."""
        return [
            (held.shard, node)
            for node, report in reports.items()
            for held in self._held(report)
            if held.is_whole
        ]

    def _held(self, report: AgentReport) -> tuple[Held, ...]:
        return next((index.replicas for index in report.held if index.uuid == self.uuid), ())

    def see_replicas(
        self, reports: Mapping[str, AgentReport], said: Mapping[Place, Seen], now: float
    ) -> None:
        """``said`` has an entry for each replica that has an actor."""
        for node, report in reports.items():
            copies = {copy.shard: copy for copy in report.copies if copy.uuid == self.uuid}
            held = {held.shard: held for held in self._held(report)}
            for shard in held.keys() | {s for s, copy in copies.items() if copy.is_running}:
                place, copy = (shard, node), copies.get(shard)
                is_copying = copy is not None and copy.is_running
                is_whole = shard in held and held[shard].is_whole and not is_copying
                phase = self._phase(place, is_whole, said)
                self._note(place, phase, said.get(place), is_copying, now)
            self._see_catch_ups(node, report, now)
            self.copies = {p: c for p, c in self.copies.items() if p[1] != node}
            self.copies |= {(shard, node): copy for shard, copy in copies.items()}
            for place in [p for p in self.replicas if p[1] == node and p[0] not in held]:
                if not (place in self.copies and self.copies[place].is_running):
                    del self.replicas[place]

    @staticmethod
    def _phase(place: Place, is_whole: bool, said: Mapping[Place, Seen]) -> Phase:
        if not is_whole:
            return Phase.INCOMING
        if place not in said:
            return Phase.CLOSED
        status = said[place]
        if not isinstance(status, ShardStatus):
            return Phase.OPENING
        return {"READY": Phase.READY, "FAILED": Phase.FAILED}.get(status.state, Phase.OPENING)

    def _note(self, place: Place, phase: Phase, said: Seen, is_copying: bool, now: float) -> None:
        before = self.replicas.get(place)
        version = before.version if before is not None else 0
        settings = said.settings if isinstance(said, ShardStatus) else None
        if isinstance(said, ShardStatus) and phase is Phase.READY:
            version = said.version
        self.replicas[place] = Replica(
            *place,
            phase,
            before.since if before is not None and before.phase is phase else now,
            version,
            is_copying,
            refused_at=before.refused_at if before is not None else float("-inf"),
            settings=settings,
        )
        why = said.reason if isinstance(said, ShardStatus) else said.message if said else None
        self.reasons.pop(place, None)
        if why and phase is not Phase.READY:
            self.reasons[place] = why

    def _see_catch_ups(self, node: str, report: AgentReport, now: float) -> None:
        self.catch_ups = {p: c for p, c in self.catch_ups.items() if p[1] != node}
        for one in report.catch_ups:
            place = one.shard, node
            if one.uuid == self.uuid and place in self.replicas:
                self.catch_ups[place] = one
                ended_at = None if one.ended_s is None else now - one.ended_s
                is_outdated = one.is_outdated or place in self._outdated
                at = CatchingUp(ended_at, one.last, is_outdated)
                self.replicas[place] = replace(self.replicas[place], catching_up=at)

    def refused(self, place: Place, error: BitsiftError, now: float) -> None:
        """It was to join the table, and was not equal to those in it."""
        if place in self.replicas:
            self.replicas[place] = replace(self.replicas[place], refused_at=now)
        if isinstance(error, FormatMismatch):
            self._outdated.add(place)

    def copied(self, place: Place) -> None:
        """What is there will be replaced whole."""
        self._outdated.discard(place)
