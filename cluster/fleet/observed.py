"""What a controller sees of a cluster, what operators ordered, and what can be done about it.

A replica is one copy of a shard on one node. All of it is plain data: ``decide`` makes actions of
it, the controller gathers the one and does the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from bitsift.cluster.fleet.membership import is_ended

ALONE_MAX = 2
"""Where no more replicas are wanted, those that were lost for the grace period are given up by
themselves: one that is left has all that was acknowledged."""


class Phase(StrEnum):
    """How far a replica is."""

    INCOMING = "incoming"
    """A part of a copy lies on the disk."""
    CLOSED = "closed"
    """Whole on the disk, and no actor has it open."""
    OPENING = "opening"
    """It has an actor that does not answer yet, or does not answer now."""
    READY = "ready"
    FAILED = "failed"
    """Its actor says that it cannot be opened."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node. ``lost_at`` is since when nothing is heard of it; None: it is there. ``has_data`` is
    whether it may hold replicas: one for routers alone holds none.
    """

    name: str
    zone: str = ""
    lost_at: float | None = None
    has_data: bool = True


@dataclass(frozen=True, slots=True)
class CatchingUp:
    """The comparison of a replica with one of the table, under way or ``ended_at``. ``lacking``
    are the documents and deletions that were found to differ in its last round, None before one;
    where it ``is_outdated``, it must be copied whole.
    """

    ended_at: float | None = None
    lacking: int | None = None
    is_outdated: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as it was seen last; of a lost node, before it was lost.

    ``since`` is when it came into its phase. ``version`` is the newest of its documents, where it
    is READY. ``is_copying`` says that a copy into it is under way, ``is_behind`` that it failed a
    write since the table was placed. ``catching_up`` is how far a comparison with one of the table
    is; ``refused_at`` when it was last found unequal as it was to join. ``settings`` are those that
    its actor was started with (settings.py); None: it has not said.
    """

    shard: int
    node: str
    phase: Phase
    since: float = 0.0
    version: int = 0
    is_copying: bool = False
    is_behind: bool = False
    catching_up: CatchingUp | None = None
    refused_at: float = float("-inf")
    settings: str | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """The router of a node. ``is_well`` says that it listens, and has loaded what it needs;
    ``settings`` are those that it was started with, None: it has not said.
    """

    is_well: bool
    settings: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The nodes that answer for each shard, by name. Routers and the writer have it since
    ``placed_at``. A higher epoch takes the place of a lower one.
    """

    epoch: int
    shards: tuple[tuple[str, ...], ...]
    placed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Move:
    """An operator wants this copy on another node."""

    shard: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Extra:
    """An operator wants one copy more than the spec; ``node`` None: anywhere."""

    shard: int
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """An operator gives up these replicas of the table of a shard, and what only they have."""

    shard: int
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reshard:
    """An operator wants another number of shards (reshard_steps.py).

    They are made as index ``uuid``, shard by shard on the nodes ``targets``. ``is_made`` is said
    when all of these have been made, empty: from then on one that is not there has lost what it
    had, and is left out.
    """

    uuid: str
    targets: tuple[tuple[str, ...], ...]
    is_made: bool = False

    @property
    def shards(self) -> int:
        return len(self.targets)

    def places(self) -> list[tuple[int, str]]:
        """The number and the node of every copy."""
        return [(shard, node) for shard, nodes in enumerate(self.targets) for node in nodes]


@dataclass(frozen=True, slots=True)
class Orders:
    """What operators said beyond the spec."""

    drained: frozenset[str] = frozenset()
    moves: tuple[Move, ...] = ()
    extras: tuple[Extra, ...] = ()
    stopped: bool = False
    reshard: Reshard | None = None
    losses: tuple[Loss, ...] = ()

    def given_up(self, shard: int) -> set[str]:
        """The nodes whose replicas of ``shard`` are lost for good, by an operator's word."""
        return {node for loss in self.losses if loss.shard == shard for node in loss.nodes}

    def avoids(self, shard: int, node: str) -> bool:
        """Whether the replica of ``shard`` should not stay on ``node``."""
        moved = any(move.shard == shard and move.source == node for move in self.moves)
        return node in self.drained or moved

    def pins(self, shard: int, node: str) -> bool:
        """Whether an operator named ``node`` for a replica of ``shard``."""
        targets = [(move.shard, move.target) for move in self.moves]
        return (shard, node) in [*targets, *((extra.shard, extra.node) for extra in self.extras)]

    def extra(self, shard: int) -> int:
        return sum(extra.shard == shard for extra in self.extras)


@dataclass(frozen=True, slots=True)
class Observed:
    """A cluster at one moment. ``routers`` are those of the nodes that have one, ``writer`` are the
    settings that the writer was started with: None where it has not said, or there is none.

    ``is_held`` says that no write runs, and that all versions were read since. ``since`` is when
    this controller began to look.
    """

    table: Table
    nodes: tuple[Node, ...] = ()
    replicas: tuple[Replica, ...] = ()
    routers: dict[str, Router] = field(default_factory=dict)
    writer: str | None = None
    orders: Orders = Orders()
    is_held: bool = False
    since: float = 0.0

    def of_shard(self, shard: int) -> Iterator[Replica]:
        return (replica for replica in self.replicas if replica.shard == shard)

    def answering(self, shard: int) -> list[str]:
        """The nodes whose replica of ``shard`` is open, also where it is behind."""
        here = {node.name for node in self.nodes if node.lost_at is None}
        ready = (it for it in self.of_shard(shard) if it.phase is Phase.READY)
        return [replica.node for replica in ready if replica.node in here]

    def can_change(self, shard: int, wanted: int) -> bool:
        """Whether the table of ``shard`` may be replaced, of which ``wanted`` were ordered: so many
        answer, or were given up, that the rest acknowledges no write.
        """
        ended = {*self.answering(shard), *self.orders.given_up(shard)}
        return is_ended(self.table.shards[shard], ended, wanted)

    def stuck(self, shard: int, wanted: int) -> tuple[str, ...]:
        """The nodes of a table that takes no writes and cannot be replaced, whose replicas do not
        answer: without one of them it stays so. None where it is otherwise. Of two wanted replicas
        one goes on alone.
        """
        placed = self.table.shards[shard]
        if wanted <= ALONE_MAX or self.can_change(shard, wanted):
            return ()
        answering = self.answering(shard)
        return tuple(node for node in placed if node not in answering)

    def for_routers(self) -> list[str]:
        """Nodes that routers and the writer may run on: those for routers alone, else all."""
        here = [node for node in self.nodes if node.lost_at is None]
        fit = [node for node in here if node.name not in self.orders.drained]
        apart = [node for node in fit if not node.has_data]
        return sorted(node.name for node in apart or fit)


@dataclass(frozen=True, slots=True)
class MakeReplica:
    """Make it, empty, where there is none."""

    shard: int
    node: str


@dataclass(frozen=True, slots=True)
class StartReplica:
    """Open it: an actor of a new epoch."""

    shard: int
    node: str


@dataclass(frozen=True, slots=True)
class StopReplica:
    """Close it, and end its actor; the disk keeps it."""

    shard: int
    node: str


@dataclass(frozen=True, slots=True)
class CopyReplica:
    """Make the replica on ``target`` equal to the one on ``source``; None: to the spec's index.

    What ``target`` holds of it already is not sent. It is closed first, where it is open.
    """

    shard: int
    source: str | None
    target: str


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Give the replica on ``node`` what it lacks of the one on ``source``; both are open."""

    shard: int
    source: str
    node: str


@dataclass(frozen=True, slots=True)
class DropReplica:
    """Remove it from the disk."""

    shard: int
    node: str


@dataclass(frozen=True, slots=True)
class StartRouter:
    """Answer HTTP on ``node``."""

    node: str


@dataclass(frozen=True, slots=True)
class StopRouter:
    """Finish what is in flight on ``node``, then end."""

    node: str


@dataclass(frozen=True, slots=True)
class RestartRouter:
    """Finish what is in flight on ``node``, then answer there with the spec's settings."""

    node: str


@dataclass(frozen=True, slots=True)
class EndWriter:
    """Let its writes end while others wait, then end it: another one is started in its place."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Give routers and writer these nodes for each shard, in a table of the next epoch. Writes are
    held while a node joins.
    """

    shards: tuple[tuple[str, ...], ...]


Action = (
    MakeReplica
    | StartReplica
    | StopReplica
    | CopyReplica
    | CatchUp
    | DropReplica
    | StartRouter
    | StopRouter
    | RestartRouter
    | EndWriter
    | Publish
)
