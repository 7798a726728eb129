"""Changed settings reach what runs by restarts, one at a time, while all others are well: pure.

    routers    one after another: the others answer, and then it does so again on the same node
    writer     writes wait until another has taken its place
    replicas   one of the whole cluster at a time: it leaves the table, starts again, and joins

What does not answer anyway waits for nobody: its new settings may be what heals it. Each step is
seen from what runs, so that a controller may end between any two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bitsift.cluster.fleet import settings
from bitsift.cluster.fleet.observed import (
    Action,
    EndWriter,
    Observed,
    Replica,
    RestartRouter,
)
from bitsift.cluster.fleet.spec import ClusterSpec


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` actors run with the spec's settings. ``waits_for`` is what must be well
    before the next is restarted; None: it is being done.
    """

    done: int
    total: int
    waits_for: str | None


def is_outdated(given: str | None, wanted: str) -> bool:
    """Whether an actor runs with other settings. One that has not said with which is let alone."""
    return given not in (None, wanted)


def progress(spec: ClusterSpec, observed: Observed, lacking: Mapping[int, int]) -> Progress | None:
    """How far it is; None where nothing runs with other settings. ``lacking`` are copies of shards
    that do not answer.
    """
    lost = {node.name for node in observed.nodes if node.lost_at is not None}
    replicas = [r.settings for r in observed.replicas if r.node not in lost]
    given = [
        *((router.settings, settings.of_routers(spec)) for router in observed.routers.values()),
        (observed.writer, settings.of_writer(spec)),
        *((said, settings.of_replicas(spec)) for said in replicas),
    ]
    if not any(is_outdated(said, wanted) for said, wanted in given):
        return None
    done = sum(said == wanted for said, wanted in given)
    return Progress(done, len(given), _waits_for(spec, observed, lacking))


def routers_and_writer(spec: ClusterSpec, observed: Observed) -> Iterator[Action]:
    """The routers that are restarted now, else the writer if it is."""
    outdated = _outdated_routers(spec, observed)
    unwell = [node for node in outdated if not observed.routers[node].is_well]
    if unwell:
        yield from map(RestartRouter, unwell)
    elif not _routers_are_well(spec, observed):
        return
    elif outdated:
        yield RestartRouter(outdated[0])
    elif is_outdated(observed.writer, settings.of_writer(spec)) and _other(observed) is None:
        yield EndWriter()


def may_take_replica(spec: ClusterSpec, observed: Observed) -> bool:
    """Whether routers and writer have the spec's settings, so that the turn is the replicas'."""
    return (
        _other(observed) is None
        and _routers_are_well(spec, observed)
        and not _outdated_routers(spec, observed)
        and observed.writer == settings.of_writer(spec)
    )


def is_replica_outdated(spec: ClusterSpec, replica: Replica) -> bool:
    """Whether it runs with other settings."""
    return is_outdated(replica.settings, settings.of_replicas(spec))


def _outdated_routers(spec: ClusterSpec, observed: Observed) -> list[str]:
    """Their nodes. One that should have none is ended by others."""
    wanted, fit = settings.of_routers(spec), observed.for_routers()
    running = [node for node in fit if node in observed.routers]
    return [node for node in running if is_outdated(observed.routers[node].settings, wanted)]


def _routers_are_well(spec: ClusterSpec, observed: Observed) -> bool:
    fit = observed.for_routers()
    well = [node for node in fit if node in observed.routers and observed.routers[node].is_well]
    return len(well) >= _routers_wanted(spec, observed)


def _routers_wanted(spec: ClusterSpec, observed: Observed) -> int:
    """As many as there are nodes for, those among them that are lost and may be back: the last
    router that answers waits for them.
    """
    back = replace(observed, nodes=tuple(replace(it, lost_at=None) for it in observed.nodes))
    return min(spec.placement.routers, len(back.for_routers()))


def _other(observed: Observed) -> str | None:
    """Other work on the writer and the replicas, which comes first."""
    if observed.orders.reshard is not None:
        return "the reshard that is running"
    copied = next((r for r in observed.replicas if r.is_copying), None)
    return f"the copy of shard {copied.shard} to {copied.node}" if copied is not None else None


def _waits_for(spec: ClusterSpec, observed: Observed, lacking: Mapping[int, int]) -> str | None:
    if not _routers_are_well(spec, observed):
        return f"{_routers_wanted(spec, observed)} routers that answer"
    if _outdated_routers(spec, observed):
        return None
    if (other := _other(observed)) is not None:
        return other
    if may_take_replica(spec, observed) and lacking:
        return f"a copy of shard {min(lacking)} that answers"
    return None
