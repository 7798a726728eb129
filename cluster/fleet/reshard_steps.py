"""What is to be done so that an index gets another number of shards while it answers: pure.

    make    the new shards, empty, as many copies of each as the spec says; they are opened
    follow  every old shard: what it has is done in the new ones, and then what came meanwhile
    close   as soon as a pass takes seconds: writes are held, and the old shards take none
    switch  when a pass that began then has ended everywhere: old and new hold the same

Old shards answer, and are written to, until the switch. A copy of a new shard that is lost on the
way is left out: others of it are there, and after the switch the controller brings their number to
what the spec says. Where none is left, the reshard is dropped, and nothing has changed.

Like ``decide`` it remembers nothing, and a step may be done twice or not at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bitsift.cluster.fleet.following import FollowProgress
from bitsift.cluster.fleet.observed import MakeReplica, Node, Phase, Replica, Reshard, StartReplica

LEFT_OUT_S = 30.0
"""How long a copy of a new shard that does not answer is waited for."""
QUICK_S = 5.0
"""A pass that took longer is not the last one but one: writes would be held as long."""
CLOSE_S = 30.0
"""How long writes are held for the last pass; what has not caught up by then is tried again."""
AGAIN_S = 30.0
"""After writes were held in vain."""


@dataclass(frozen=True, slots=True)
class Following:
    """A follower of an old shard that runs on ``node``; ``targets`` are what it writes to."""

    node: str
    targets: tuple[tuple[int, str], ...]
    progress: FollowProgress


@dataclass(frozen=True, slots=True)
class Seen:
    """A reshard at one moment. ``old`` are the nodes of the table that answer, by old shard;
    ``copies`` those of new shards, ``here`` the nodes that report.

    ``hold`` names the hold that is on since before the latest reports, "" where none is;
    ``closing_since`` and ``closed_at`` are when writes were first held for this attempt, and when
    the last attempt ended.
    """

    old: tuple[tuple[str, ...], ...]
    here: frozenset[str]
    lost: Mapping[str, float]
    copies: Mapping[tuple[int, str], Replica]
    followers: Mapping[int, Following]
    hold: str = ""
    closing_since: float | None = None
    closed_at: float = float("-inf")


@dataclass(frozen=True, slots=True)
class Made:
    """All copies have been made: it is kept."""


@dataclass(frozen=True, slots=True)
class LeaveOut:
    """Go on without these copies of new shards."""

    places: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Give the reshard up, for this reason."""

    reason: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Follow an old shard, on a node that has it open."""

    shard: int
    node: str


@dataclass(frozen=True, slots=True)
class Close:
    """Hold writes, or go on holding them."""


@dataclass(frozen=True, slots=True)
class Open:
    """Let writes go on: the attempt was in vain."""


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Have the follower make one pass more, which began when writes were held."""

    shard: int
    node: str


@dataclass(frozen=True, slots=True)
class Switch:
    """The new shards take over."""


Step = (
    MakeReplica | StartReplica | Made | LeaveOut | Drop | Follow | Close | Open | CatchUp | Switch
)


def targets_of(nodes: Sequence[Node], shards: int, replicas: int) -> tuple[tuple[str, ...], ...]:
    """The nodes of the copies of each new shard: none twice, in as many zones as can be, and as
    evenly as can be over all; fewer copies than ``replicas`` where there are fewer nodes.
    """
    loads = Counter[str]()
    found = []
    for _ in range(shards):
        chosen: list[Node] = []
        while len(chosen) < min(replicas, len(nodes)):
            zones = Counter(node.zone for node in chosen)
            free = [node for node in nodes if node not in chosen]
            chosen.append(min(free, key=lambda n: (zones[n.zone], loads[n.name], n.name)))
            loads[chosen[-1].name] += 1
        found.append(tuple(sorted(node.name for node in chosen)))
    return tuple(found)


def without(order: Reshard, places: Sequence[tuple[int, str]]) -> Reshard:
    """The order without some copies."""
    kept = (
        tuple(node for node in nodes if (shard, node) not in places)
        for shard, nodes in enumerate(order.targets)
    )
    return replace(order, targets=tuple(kept))


def next_steps(order: Reshard, seen: Seen, now: float) -> tuple[Step, ...]:
    """The next steps. They are to be taken in this order."""
    gone = tuple(place for place in order.places() if _is_gone(order, place, seen, now))
    if gone:
        left = without(order, gone)
        if not all(left.targets):
            shard = left.targets.index(())
            return (Drop(f"no copy of new shard {shard} is left: see that its nodes last"),)
        return (LeaveOut(gone),)
    if not order.is_made:
        return tuple(_making(order, seen))
    starts = tuple(
        StartReplica(*place)
        for place in order.places()
        if place in seen.copies and seen.copies[place].phase is Phase.CLOSED
        if place[1] in seen.here
    )
    if not all(_answers(seen, place) for place in order.places()):
        return (*starts, *_opened_again(seen))
    begun = tuple(_following(order, seen))
    if begun:
        return (*begun, *_opened_again(seen))
    return tuple(_closing(seen, now))


def _is_gone(order: Reshard, place: tuple[int, str], seen: Seen, now: float) -> bool:
    """Whether a copy has lost what it had, or has not answered for long."""
    _, node = place
    copy = seen.copies.get(place)
    if node not in seen.here:
        return now - seen.lost.get(node, now) >= LEFT_OUT_S
    if copy is None or copy.phase is Phase.INCOMING:
        return order.is_made
    return copy.phase is not Phase.READY and now - copy.since >= LEFT_OUT_S


def _answers(seen: Seen, place: tuple[int, str]) -> bool:
    is_here = place[1] in seen.here and place in seen.copies
    return is_here and seen.copies[place].phase is Phase.READY


def _making(order: Reshard, seen: Seen) -> Iterator[Step]:
    missing = [
        place
        for place in order.places()
        if place not in seen.copies or seen.copies[place].phase is Phase.INCOMING
    ]
    yield from (MakeReplica(*place) for place in missing if place[1] in seen.here)
    if not missing:
        yield Made()


def _following(order: Reshard, seen: Seen) -> Iterator[Step]:
    """Old shards that nobody follows now, or into other copies than those of the order."""
    targets = tuple(order.places())
    for shard, nodes in enumerate(seen.old):
        there = seen.followers.get(shard)
        if there is not None and there.targets == targets and there.node in nodes:
            continue
        if nodes:
            yield Follow(shard, nodes[shard % len(nodes)])


def _closing(seen: Seen, now: float) -> Iterator[Step]:
    followers = seen.followers
    if not all(seen.old) or len(followers) < len(seen.old):
        yield from _opened_again(seen)
        return
    if seen.closing_since is None:
        quick = all(f.progress.passes and f.progress.pass_s <= QUICK_S for f in followers.values())
        if quick and now - seen.closed_at >= AGAIN_S:
            yield Close()
        return
    if now - seen.closing_since >= CLOSE_S:
        yield Open()
        return
    caught_up = seen.hold and all(f.progress.caught_up == seen.hold for f in followers.values())
    if caught_up:
        yield Switch()
        return
    yield Close()
    if seen.hold:
        yield from (
            CatchUp(shard, f.node)
            for shard, f in sorted(followers.items())
            if f.progress.caught_up != seen.hold
        )


def _opened_again(seen: Seen) -> Iterator[Step]:
    if seen.closing_since is not None:
        yield Open()
