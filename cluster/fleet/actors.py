"""The actors of a cluster, by name: found where they run, started where they do not.

    bitsift/controller              bitsift/agent/NODE
    INDEX-UUID/shard-00003/NODE     bitsift/router/NODE     bitsift/writer/NODE

Routers and the writer stay when the index gets another number of shards, and with that another
uuid.

All are detached: they live on when whoever started them ends. Each is bound to its node by a label,
for a Ray node that starts again has another id.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import ray

from bitsift.cluster.fleet import settings
from bitsift.cluster.fleet.agent import AgentActor
from bitsift.cluster.fleet.spec import ClusterSpec
from bitsift.cluster.manifest import Manifest
from bitsift.cluster.serving.configured import access_settings, shadow_settings, shard_settings
from bitsift.cluster.serving.control_store import living_nodes
from bitsift.cluster.serving.launch import PENDING_CALLS_MAX, STOP_TIMEOUT_S, end_actors
from bitsift.cluster.serving.ray_cluster import NAMESPACE
from bitsift.errors import BitsiftError, Unavailable
from bitsift.router.shards.placement import ReplicaAddress, ReplicaTable
from bitsift.router.shards.ray_calls import Callee, asked
from bitsift.shard_worker.actor import ShardActor
from bitsift.write_acks import WriteAcks

CONTROLLER, ROUTERS, WRITERS = "bitsift/controller", "bitsift/router", "bitsift/writer"
NODE_LABEL, ZONE_LABELS = "bitsift-node", ("zone", "ray.io/availability-zone")
ROLE_LABEL, ROUTER_ROLE = "bitsift-role", "router"
"""A node of this role answers HTTP and holds no replicas."""
_OF_INDEX = re.compile(r"[0-9a-fA-F-]{32,36}/(shard-\d{5}/.+|router/.+|writer/.+)")
"""Routers and writers too: so they were called before."""
CPUS = 0.001
"""An actor with none at all may be put on, and wait for, a node that is frozen."""


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node of the Ray cluster that has a name. ``has_data`` is whether it may hold replicas."""

    name: str
    zone: str
    address: str
    cpus: int = 0
    has_data: bool = True


def ray_nodes() -> dict[str, RayNode]:
    """Those that Ray takes for alive, by name.

    A machine that was switched off and on may be there twice, until Ray misses the first. Raises
    Unavailable where two machines have one name, and where Ray's control store does not answer.
    """
    found: dict[str, RayNode] = {}
    for facts in living_nodes():
        name = facts.labels.get(NODE_LABEL)
        if not name:
            continue
        address = facts.node_manager_address
        if name in found and found[name].address != address:
            raise Unavailable(
                f"the Ray nodes at {address} and {found[name].address} both have the label "
                f"{NODE_LABEL}={name}: rename one of them"
            )
        zone = next((facts.labels[label] for label in ZONE_LABELS if label in facts.labels), "")
        cpus = int(facts.resources_total.get("CPU", 0))
        has_data = facts.labels.get(ROLE_LABEL) != ROUTER_ROLE
        found[name] = RayNode(name, zone, address, cpus, has_data)
    return found


def found_actor(name: str) -> Any | None:
    """The actor of this name, None where there is none."""
    try:
        return ray.get_actor(name, NAMESPACE)
    except ValueError:
        return None


def replica_name(uuid: str, shard: int, node: str) -> str:
    """That of the actor of a replica."""
    return f"{uuid}/shard-{shard:05d}/{node}"


def remote(actor: Any) -> Any:
    """A class of actors, for the type checker."""
    return actor


def end(actor: Any) -> None:
    """End an actor for good."""
    with contextlib.suppress(Exception):
        ray.kill(actor)


def end_and_wait(actor: Any) -> None:
    """End an actor, and wait until its name is free."""
    with contextlib.suppress(Exception):
        end_actors([actor])


def stop_replica(uuid: str, shard: int, node: str) -> None:
    """Close a replica of index ``uuid``, and end its process."""
    actor = found_actor(replica_name(uuid, shard, node))
    if actor is None:
        return
    with contextlib.suppress(BitsiftError):
        asked(actor.close.remote(), Callee(f"shard {shard} on {node}"), STOP_TIMEOUT_S)
    end(actor)


class Fleet:
    """The actors of one index. Each is started as ``spec`` says at that moment."""

    def __init__(self, spec: ClusterSpec, manifest: Manifest) -> None:
        self.spec = spec
        self._manifest = manifest

    def _options(self, name: str, node: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "num_cpus": CPUS,
            "max_pending_calls": PENDING_CALLS_MAX,
            "label_selector": {NODE_LABEL: node},
            **more,
        }

    # --- replicas --------------------------------------------------------------------------

    def replica(self, shard: int, node: str) -> Any | None:
        return found_actor(replica_name(self._manifest.uuid, shard, node))

    def start_replica(self, shard: int, node: str, agent: Any, epoch: int) -> None:
        """Raises Unavailable where an actor has it open, or an agent does not answer."""
        callee = Callee(f"the agent of node {node}")
        uuid, spec = self._manifest.uuid, self.spec
        folder = asked(agent.fence.remote(uuid, shard, epoch), callee, STOP_TIMEOUT_S)
        arguments = folder, self._manifest.calibration.to_json(), self._manifest.identity(shard)
        name = replica_name(uuid, shard, node)
        try:
            remote(ShardActor).options(**self._options(name, node)).remote(
                *arguments,
                shard_settings(spec.shards, spec.serve.log_format),
                epoch,
                settings.of_replicas(spec),
            )
        except ValueError as error:
            raise Unavailable(f"the previous actor {name} has not ended yet") from error

    def stop_replica(self, shard: int, node: str) -> None:
        stop_replica(self._manifest.uuid, shard, node)

    def table(self, epoch: int, shards: tuple[tuple[str, ...], ...], replicas: int) -> ReplicaTable:
        """The actors that are there of the replicas of a table; ``replicas`` are wanted."""
        found = []
        for shard, nodes in enumerate(shards):
            actors = {node: self.replica(shard, node) for node in nodes}
            there = {node: actor for node, actor in actors.items() if actor is not None}
            found.append(tuple(ReplicaAddress(node, actor) for node, actor in there.items()))
        return ReplicaTable(epoch, tuple(found), self._manifest.uuid, replicas)

    # --- routers and the writer ------------------------------------------------------------

    def router(self, node: str) -> Any | None:
        return found_actor(f"{ROUTERS}/{node}")

    def writer(self, node: str | None) -> Any | None:
        return None if node is None else found_actor(f"{WRITERS}/{node}")

    def start_writer(self, node: str, table: ReplicaTable) -> Any:
        from bitsift.router.http.limits import CONNECTIONS_MAX
        from bitsift.router.write.writer import WriterActor

        options = self._options(f"{WRITERS}/{node}", node, max_concurrency=CONNECTIONS_MAX)
        arguments = self._manifest.describe(), table, self._encoder(), self._acks()
        told = settings.of_writer(self.spec), self.spec.serve.log_format
        return remote(WriterActor).options(**options).remote(*arguments, *told)

    def start_router(self, node: str, table: ReplicaTable, writer: Any) -> Any:
        from bitsift.router.actor import RouterActor
        from bitsift.router.http.limits import CONNECTIONS_MAX

        name, spec, serve = f"{ROUTERS}/{node}", self.spec, self.spec.serve
        options = self._options(name, node, max_concurrency=CONNECTIONS_MAX)
        return (
            remote(RouterActor)
            .options(**options)
            .remote(
                self._manifest.describe(),
                table,
                writer,
                self._encoder(),
                serve.query_cache,
                shadow_settings(serve),
                access_settings(spec.access, serve),
                serve.min_ready_shards,
                self._acks(),
                settings.of_routers(spec),
            )
        )

    def _acks(self) -> WriteAcks:
        return WriteAcks(self.spec.serve.write_acks)

    def _encoder(self) -> Any:
        return self._manifest.encoder(self.spec.model.backend)

    def stop_router(self, node: str) -> None:
        """Finish what is in flight, then end its process."""
        router = self.router(node)
        if router is None:
            return
        with contextlib.suppress(BitsiftError):
            asked(router.stop.remote(), Callee(f"the router on {node}"), STOP_TIMEOUT_S)
        end_and_wait(router)


def end_all() -> list[str]:
    """End every actor that a cluster has left, the controller first, so that it starts none.

    Their names.
    """
    listed = ray.util.list_named_actors(all_namespaces=True)
    names = [facts["name"] for facts in listed if facts["namespace"] == NAMESPACE]
    ours = [name for name in names if name.startswith("bitsift/") or _OF_INDEX.fullmatch(name)]
    for name in sorted(ours, key=lambda name: (name != CONTROLLER, name)):
        actor = found_actor(name)
        if actor is not None:
            end(actor)
    return sorted(ours)


def agent_of(node: str, spec: ClusterSpec) -> Any:
    """The agent of a node, started where there is none."""
    name = f"bitsift/agent/{node}"
    return (
        remote(AgentActor)
        .options(
            name=name,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            label_selector={NODE_LABEL: node},
        )
        .remote(node, str(spec.data_folder(node)), spec.placement.ready_port)
    )
