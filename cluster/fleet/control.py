"""One step of a controller after the other: look, decide, do. A plain class, of one thread."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bitsift.cluster.fleet.actors import RayNode, agent_of, ray_nodes
from bitsift.cluster.fleet.agent import AgentReport
from bitsift.cluster.fleet.decide import SETTLE_S
from bitsift.cluster.fleet.in_force import Known, in_force, is_outrun, newest_epoch
from bitsift.cluster.fleet.observed import Table
from bitsift.cluster.fleet.polls import Polls, agent_said
from bitsift.cluster.fleet.served_index import Index
from bitsift.cluster.fleet.sources import manifest_of
from bitsift.cluster.fleet.spec import ClusterSpec, IndexSource
from bitsift.cluster.fleet.state import State, state_from
from bitsift.cluster.manifest import Manifest
from bitsift.errors import BitsiftError, Fenced, NotFound, Unavailable
from bitsift.shard_worker.layout import COMPLETE_FILE

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
LOOK_S = 1.5
"""How long a step waits for those that do not answer."""
_LABEL = "start a Ray node with --labels bitsift-node=NAME"
_POLLED = ("agents", "replicas", "new replicas", "routers", "writer")


@dataclass(slots=True)
class Request:
    """Something that an operator asks for, done between two steps."""

    change: Callable[[Control], Any]
    done: Future[Any]


class Control:
    """What is known of the cluster, and the way to change it."""

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.agents: dict[str, Any] = {}
        self.alive: dict[str, RayNode] = {}
        self.unusable: dict[str, str] = {}
        """Nodes whose agent says that it cannot work, and why."""
        self.is_reshard_forgone = False
        """Whether an operator drops a reshard, though it may have ended on nodes that are away."""
        self.requests: queue.Queue[Request] = queue.Queue()
        self._index: Index | None = None
        self._polls = {kind: Polls() for kind in _POLLED}
        self._since: float | None = None

    def step(self, now: float) -> None:
        """Look, do what was asked for, and what is to be done. Raises BitsiftErrors, Ray's own."""
        self._since = now if self._since is None else self._since
        self.alive = ray_nodes()
        reports = self._reports()
        known = self._known(reports)
        index = self._index
        if index is not None and is_outrun(known, index.manifest.uuid, index.state):
            log.warning("a node that was away knows a newer state of the cluster: it is read")
            self._index = None
        if self._index is None:
            self._index = self._find_index(reports, known, now)
        self.index.look(reports, now)
        self._answer_requests()
        try:
            self.index.act(now)
        except Fenced as error:  # another controller was in charge: what it decided is on the disks
            log.warning("the state of the cluster is read again: %s", error)
            self._index = None

    @property
    def index(self) -> Index:
        """Raises Unavailable while it is not known."""
        if self._index is None:
            raise Unavailable("the controller is still looking for the index; try again")
        return self._index

    def _reports(self) -> dict[str, AgentReport]:
        for name in self.alive:
            if name not in self.agents:
                self.agents[name] = agent_of(name, self.spec)
        calls = {name: self.agents[name].report.remote for name in self.alive}
        said = self._polls["agents"].ask(calls, LOOK_S)
        self.unusable = {n: e.message for n, e in said.items() if isinstance(e, BitsiftError)}
        return {name: r for name, r in said.items() if isinstance(r, AgentReport)}

    def ask(self, kind: str, calls: Mapping[K, Callable[[], Any]]) -> dict[K, Any]:
        return self._polls[kind].ask(calls, LOOK_S)

    def _answer_requests(self) -> None:
        while not self.requests.empty():
            request = self.requests.get()
            if not request.done.set_running_or_notify_cancel():
                continue  # whoever asked was told that it was not done
            try:
                request.done.set_result(request.change(self))
            except BaseException as error:  # a panic of a library, too: somebody waits
                request.done.set_exception(error)

    # --- which index -----------------------------------------------------------------------

    def _known(self, reports: Mapping[str, AgentReport]) -> list[Known]:
        """All states that disks have kept."""
        return [
            Known(state_from(held.state), held.uuid, node)
            for node, report in reports.items()
            for held in report.held
            if held.state is not None and self.alive[node].has_data
        ]

    def _find_index(
        self, reports: Mapping[str, AgentReport], known: list[Known], now: float
    ) -> Index:
        """The one that the disks know; else the spec's. Raises Unavailable, NotFound."""
        holders = {name for name, node in self.alive.items() if node.has_data}
        reports = {name: said for name, said in reports.items() if name in holders}
        if not reports:
            raise Unavailable(f"no node with a data folder has reported yet; {_LABEL}")
        assert self._since is not None
        if (not known or holders - reports.keys()) and now - self._since < SETTLE_S:
            raise Unavailable("the nodes are still reporting")
        if known:
            found = in_force(known, reports, is_forgone=self.is_reshard_forgone)
            state, files = found.state, self._ask(found.node, "index_files", found.uuid)
            self.spec = ClusterSpec.model_validate(state.spec)
        else:
            files, state = self.source_files(self.spec.index), None
        manifest = manifest_of(files)
        if COMPLETE_FILE not in files:
            raise Unavailable(
                f"the index {manifest.name} is not built completely: run bitsift cluster down, "
                "then the same bitsift index --spec again"
            )
        if state is None:
            empty = Table(0, ((),) * manifest.shards)
            state = State(0, empty, self.spec.model_dump(mode="json"))
        held = [it for said in reports.values() for index in said.held for it in index.replicas]
        state = replace(state, epoch=newest_epoch(known, held))
        return Index(self, manifest, files, state, now)

    def successor(
        self, manifest: Manifest, files: dict[str, bytes], state: State, now: float
    ) -> Index:
        return Index(self, manifest, files, state, now)

    def serve(self, index: Index) -> None:
        """Serve this one from the next step on. What others are asked is forgotten."""
        self._index = index
        self._polls = {kind: Polls() for kind in _POLLED}

    def source_files(self, source: IndexSource) -> dict[str, bytes]:
        """What belongs to the whole of a spec's index. Raises NotFound, Unavailable, and what
        reading raises.
        """
        if source.name is not None:
            if self._index is not None and self._index.manifest.name == source.name:
                return self._index.enactor.index_files
            raise NotFound(
                f"the data folders hold no index {source.name}: run bitsift cluster down, then "
                "bitsift index SOURCE --spec SPEC.toml to build it"
            )
        holders = sorted(node.name for node in self.alive.values() if node.has_data)
        if not holders:
            raise Unavailable(f"no node with a data folder answers, to read the index; {_LABEL}")
        node = source.node or holders[0]
        if node not in self.alive:
            raise NotFound(f"node {node}, which has the index, does not answer: start it")
        found: dict[str, bytes] = self._ask(node, "source_files", source)
        return found

    def _ask(self, node: str, method: str, *arguments: Any) -> Any:
        return agent_said(self.agents[node], node, method, *arguments)
