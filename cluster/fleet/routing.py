"""Which nodes have a router: a part of what decide.py decides."""

from __future__ import annotations

from collections.abc import Iterator

from bitsift.cluster.fleet.observed import Action, Observed, StartRouter, StopRouter
from bitsift.cluster.fleet.spec import ClusterSpec


def routing(spec: ClusterSpec, observed: Observed) -> Iterator[Action]:
    """Routers keep no state: a lost one is started elsewhere at once. Spare ones end last."""
    here = sorted(node.name for node in observed.nodes if node.lost_at is None)
    fit = observed.for_routers()
    running = [node for node in fit if node in observed.routers]
    missing = spec.placement.routers - len(running)
    for node in [node for node in fit if node not in running][: max(0, missing)]:
        yield StartRouter(node)
    answering = [node for node in running if observed.routers[node].is_well]
    if len(answering) < min(spec.placement.routers, len(fit)) or not fit:
        return
    kept = answering[: spec.placement.routers]
    for node in here:
        if node in observed.routers and node not in kept:
            yield StopRouter(node)
