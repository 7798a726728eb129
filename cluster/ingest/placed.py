"""An index that is built where it will live: each shard on a node of the cluster, as a spec says.

What such a build leaves on the disks is what a controller leaves (fleet/state.py): the table of a
first copy of each shard, chosen by the controller's own rule. `bitsift cluster up` finds it there
as after any restart, and copies the other replicas between the nodes.

    all nodes     manifest.json, cluster.json     before the first shard, so that the next attempt
                                                  goes on with the same shards in the same places
    some nodes    shard-00003/                    filled
    all nodes     complete.json, cluster.json     last, in this order, and of the next epoch: a
                                                  controller reads the newest, which is complete

Agents and shards belong to the command: when it ends, however it ends, they end.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitsift.cluster.fleet.actors import (
    CONTROLLER,
    CPUS,
    NODE_LABEL,
    RayNode,
    found_actor,
    ray_nodes,
    remote,
    replica_name,
)
from bitsift.cluster.fleet.agent import AgentActor, AgentReport
from bitsift.cluster.fleet.decide import first_places
from bitsift.cluster.fleet.observed import Node, Table
from bitsift.cluster.fleet.polls import agent_said
from bitsift.cluster.fleet.sources import manifest_of, report_of
from bitsift.cluster.fleet.spec import ClusterSpec
from bitsift.cluster.fleet.state import State, state_from
from bitsift.cluster.ingest.build import plan_build
from bitsift.cluster.ingest.options import BuildOptions
from bitsift.cluster.ingest.progress import OnProgress
from bitsift.cluster.interrupts import shielded
from bitsift.cluster.manifest import (
    SHARDS_MAX,
    BuildReport,
    Manifest,
    packed_manifest,
    packed_report,
)
from bitsift.cluster.serving.launch import PENDING_CALLS_MAX, end_actors, stop_shards, wait_open
from bitsift.cluster.serving.ray_cluster import NAMESPACE, ray_cluster
from bitsift.errors import BitsiftError, InvalidRequest, NotFound, Unavailable
from bitsift.shard_worker.actor import ShardActor
from bitsift.shard_worker.layout import COMPLETE_FILE, MANIFEST_FILE, REJECTS_FILE

ASK_TIMEOUT_S = 120.0
"""For the agent of a node: to start, too."""
ENDING_S = 10.0
"""For what an attempt that was killed just now has left to end."""
_POLL_S = 0.2


def build_placed(
    sources: Sequence[str | Path],
    spec: ClusterSpec,
    spec_file: Path,
    options: BuildOptions,
    ray_address: str,
    on_progress: OnProgress,
) -> BuildReport:
    """Build the index that ``spec`` names on the nodes of the Ray cluster at ``ray_address``, or
    go on with it. ``spec_file`` is where the list of bad records will lie.

    Raises what `build_index` raises, and Unavailable where a node that has a shard is away.
    """
    if spec.index.name is None:
        raise InvalidRequest(f'{spec_file}: [index] has no name; give it one: name = "my-index"')
    with ray_cluster(ray_address), _agents(spec) as (nodes, agents):
        index = PlacedIndex(spec, spec_file, nodes, agents)
        build = plan_build(sources, index, options)
        finished = build.finished()
        if finished is not None:
            index.complete(finished)  # an attempt may have been killed while it did so
            return finished
        return build.run(on_progress)


def rejects_beside(spec_file: Path, spec: ClusterSpec) -> Path:
    """Where the bad records of a build are listed: the disks of all nodes get it at its end."""
    return spec_file.with_name(f"{spec.index.name}.{REJECTS_FILE}")


@contextlib.contextmanager
def _agents(spec: ClusterSpec) -> Iterator[tuple[dict[str, RayNode], dict[str, Any]]]:
    """The nodes that have data folders, and an agent on each until the block ends.

    Raises Unavailable where there is no such node, or where a cluster or another build is at work.
    """
    if found_actor(CONTROLLER) is not None:
        raise Unavailable(
            "this Ray cluster serves an index, or was told to: run bitsift cluster down first"
        )
    nodes = {name: node for name, node in ray_nodes().items() if node.has_data}
    if not nodes:
        raise Unavailable(
            "no node of this Ray cluster may hold shards: start some with --labels "
            f"{NODE_LABEL}=NAME"
        )
    agents: dict[str, Any] = {}
    try:
        for name in nodes:
            folder = str(spec.data_folder(name))
            agents[name] = _started(AgentActor, f"bitsift/build/{name}", name, name, folder)
        yield nodes, agents
    finally:
        with shielded():
            end_actors(list(agents.values()))


def _started(actor: Any, name: str, node: str, *arguments: Any, **options: Any) -> Any:
    """An actor on ``node`` that ends with this process.

    Raises Unavailable where another process has one of this name.
    """
    bound = {"namespace": NAMESPACE, "label_selector": {NODE_LABEL: node}, **options}
    deadline_s = time.monotonic() + ENDING_S
    while True:
        try:
            return remote(actor).options(name=name, **bound).remote(*arguments)
        except ValueError as error:
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"another command builds on this Ray cluster (it runs {name}): wait until it "
                    "ends"
                ) from error
            time.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class _Found:
    """What a disk holds of an index: its files, and the state that was kept last."""

    files: Mapping[str, bytes]
    manifest: Manifest
    state: State | None

    @property
    def rank(self) -> tuple[int, bool]:
        """The newest is in force, as it is for a controller."""
        return self.state.epoch if self.state is not None else -1, COMPLETE_FILE in self.files


class PlacedIndex:
    """The destination of a build: the data folders of nodes, by way of their agents."""

    def __init__(
        self,
        spec: ClusterSpec,
        spec_file: Path,
        nodes: Mapping[str, RayNode],
        agents: Mapping[str, Any],
    ) -> None:
        """Raises InvalidRequest where the folders hold another index than that of the spec,
        Unavailable where a node does not answer, or another process has its folder.
        """
        assert spec.index.name is not None
        self.name = spec.index.name
        self.rejects_file = rejects_beside(spec_file, spec).absolute()
        self._spec = spec
        self._nodes = nodes
        self._agents = agents
        reports: list[AgentReport] = [self._ask(node, "report") for node in agents]
        self._epoch = max(
            (replica.epoch for r in reports for held in r.held for replica in held.replicas),
            default=0,
        )
        self._found = self._find(reports)

    def __str__(self) -> str:
        return f"the index {self.name} in the data folders"

    def _ask(self, node: str, method: str, *arguments: Any) -> Any:
        return agent_said(self._agents[node], node, method, *arguments, timeout_s=ASK_TIMEOUT_S)

    # --- what is there ---------------------------------------------------------------------

    def _find(self, reports: Sequence[AgentReport]) -> _Found | None:
        found = list[_Found]()
        for report in reports:
            for held in report.held:
                with contextlib.suppress(NotFound):  # a folder without a manifest is no index
                    files = self._ask(report.node, "index_files", held.uuid)
                    state = None if held.state is None else state_from(held.state)
                    found.append(_Found(files, manifest_of(files), state))
        if not found:
            return None
        newest = max(found, key=lambda one: one.rank)
        if newest.manifest.name != self.name:
            raise InvalidRequest(
                f"the data folders hold the index {newest.manifest.name}, and the spec names "
                f"{self.name}: give it other data folders"
            )
        self._epoch = max(self._epoch, newest.rank[0])
        return newest

    @property
    def shards_default(self) -> int:
        """So many that each core of the nodes has one replica."""
        cores = sum(node.cpus for node in self._nodes.values())
        return min(SHARDS_MAX, max(1, cores // self._spec.placement.replicas))

    def manifest(self) -> Manifest | None:
        return None if self._found is None else self._found.manifest

    def report(self) -> BuildReport | None:
        return None if self._found is None else report_of(self._found.files)

    # --- what is made ----------------------------------------------------------------------

    def prepare(self) -> None:
        """The agents have the folders open."""

    def seal(self, manifest: Manifest) -> None:
        """``open`` puts it on the disks, with the places of the shards."""
        self._found = _Found({MANIFEST_FILE: packed_manifest(manifest)}, manifest, None)

    @contextlib.contextmanager
    def open(self, manifest: Manifest) -> Iterator[list[Any]]:
        """Raises Unavailable where a node with a shard is away, also when the block ends by it."""
        assert self._found is not None
        places = self._places(manifest.shards)
        table = Table(self._next_epoch(), tuple((node,) for node in places))
        state = State(self._epoch, table, self._spec.model_dump(mode="json"))
        self._found = replace(self._found, state=state)
        for node in self._agents:
            self._keep(node)
        actors: list[Any] = []
        try:
            for shard, node in enumerate(places):
                actors.append(self._start(manifest, shard, node))
            wait_open(actors)
            yield actors
        except Unavailable as error:
            _check_here(places, error.message)
            raise
        finally:
            with shielded():
                stop_shards(actors)

    def _places(self, shards: int) -> tuple[str, ...]:
        """The node of each shard: where an earlier attempt has put it."""
        assert self._found is not None
        if self._found.state is not None:
            places = tuple(nodes[0] for nodes in self._found.state.table.shards)
            _check_here(places, f"{self} is there in part")
            return places
        nodes = [Node(node.name, node.zone) for node in self._nodes.values()]
        return first_places(self._spec, nodes, shards)

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def _keep(self, node: str) -> None:
        """The files of the index first: a state is never newer than they are."""
        assert self._found is not None
        assert self._found.state is not None
        uuid = self._found.manifest.uuid
        self._ask(node, "adopt", uuid, self._found.files)
        self._ask(node, "keep", uuid, self._found.state.to_json())

    def _start(self, manifest: Manifest, shard: int, node: str) -> Any:
        uuid, identity, epoch = manifest.uuid, manifest.identity(shard), self._epoch
        self._ask(node, "create", uuid, identity)
        folder = self._ask(node, "fence", uuid, shard, epoch)
        arguments = folder, manifest.calibration.to_json(), identity, None, epoch
        options = {"num_cpus": CPUS, "max_pending_calls": PENDING_CALLS_MAX}
        return _started(ShardActor, replica_name(uuid, shard, node), node, *arguments, **options)

    def complete(self, report: BuildReport) -> None:
        """On every node that is there; one that is not is told by the controller."""
        assert self._found is not None
        if self._found.state is None:
            return  # a cluster's index, of which other nodes have more
        files = dict(self._found.files)
        if COMPLETE_FILE not in files:
            files[COMPLETE_FILE] = packed_report(report)
            files[REJECTS_FILE] = self.rejects_file.read_bytes()
        state = replace(self._found.state, epoch=self._next_epoch())
        self._found = replace(self._found, files=files, state=state)
        failed = list[BitsiftError]()
        for node in self._agents:
            try:
                self._keep(node)
            except BitsiftError as error:
                failed.append(error)
        if len(failed) == len(self._agents):
            raise failed[0]


def _check_here(places: Sequence[str], what: str) -> None:
    """Raises Unavailable, which says ``what`` it is about, where a node of ``places`` is away."""
    here = ray_nodes()
    away = sorted({node for node in places if node not in here})
    if away:
        shards = ", ".join(str(shard) for shard, node in enumerate(places) if node in away)
        raise Unavailable(
            f"{what}; node {', '.join(away)}, which has shard {shards}, is away: start it again, "
            "then run the same command to resume"
        )
