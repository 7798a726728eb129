"""One step of a controller after the other: look, decide, do. A plain class, of one thread."""

from __future__ import annotations

import functools
import logging
import queue
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from bitsift.cluster.fleet.actors import Fleet, RayNode, agent_of, ray_nodes
from bitsift.cluster.fleet.agent import AgentReport
from bitsift.cluster.fleet.decide import SETTLE_S, decide, lacking
from bitsift.cluster.fleet.enact import Enactor
from bitsift.cluster.fleet.observed import (
    Action,
    CopyReplica,
    Hold,
    Observed,
    Orders,
    Publish,
    Table,
)
from bitsift.cluster.fleet.orders import pending
from bitsift.cluster.fleet.polls import ASK_TIMEOUT_S, Polls, agent_said
from bitsift.cluster.fleet.reshard_order import ordered
from bitsift.cluster.fleet.resharding import RETIRED_S, Resharding
from bitsift.cluster.fleet.retiring import retire
from bitsift.cluster.fleet.sources import manifest_of
from bitsift.cluster.fleet.spec import ClusterSpec, IndexSource
from bitsift.cluster.fleet.state import State, state_from
from bitsift.cluster.fleet.watch import Place, Seen, Watch
from bitsift.cluster.manifest import Manifest
from bitsift.errors import BitsiftError, InvalidRequest, NotFound, Unavailable
from bitsift.router.shards.ray_calls import Callee, asked
from bitsift.shard_worker.layout import COMPLETE_FILE
from bitsift.shard_worker.types import ShardStatus
from bitsift.shard_worker.wire.structures import unpack_fact

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
LOOK_S = 1.5
"""How long a step waits for those that do not answer."""
_POLLED = ("agents", "replicas", "new replicas", "routers", "writer")
HELD_MARGIN_S = 3.0
"""A hold that ends sooner is none: what joins now must be placed before a write runs."""


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
        self.requests: queue.Queue[Request] = queue.Queue()
        self._index: Index | None = None
        self._polls = {kind: Polls() for kind in _POLLED}
        self._since: float | None = None

    def step(self, now: float) -> None:
        """Look, do what was asked for, and what is to be done. Raises BitsiftErrors, Ray's own."""
        self._since = now if self._since is None else self._since
        self.alive = ray_nodes()
        reports = self._reports()
        if self._index is None:
            self._index = self._find_index(reports, now)
        self.index.look(reports, now)
        self._answer_requests()
        self.index.act(now)

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
            except Exception as error:
                request.done.set_exception(error)

    # --- which index -----------------------------------------------------------------------

    def _find_index(self, reports: Mapping[str, AgentReport], now: float) -> Index:
        """The one that the disks know; else the spec's. Raises Unavailable, NotFound."""
        reports = {name: said for name, said in reports.items() if self.alive[name].has_data}
        known = [
            (state_from(held.state), held.uuid, node)
            for node, report in reports.items()
            for held in report.held
            if held.state is not None
        ]
        assert self._since is not None
        if not reports or (not known and now - self._since < SETTLE_S):
            raise Unavailable(
                "no node with a data folder has reported yet; label Ray nodes with "
                "--labels bitsift-node=NAME"
                if not reports
                else "the nodes are still reporting"
            )
        if known:
            state, uuid, node = max(known, key=lambda found: found[0].epoch)
            if state.orders.reshard is not None and now - self._since < SETTLE_S:
                raise Unavailable("another node may know that the new shards have taken over")
            files = self._ask(node, "index_files", uuid)
            self.spec = ClusterSpec.model_validate(state.spec)
        else:
            files, state = self.source_files(self.spec.index), None
        manifest = manifest_of(files)
        if COMPLETE_FILE not in files:
            raise Unavailable(
                f"the index {manifest.name} is not built completely: run bitsift cluster down, "
                "then the same bitsift index --spec again"
            )
        epochs = [h.epoch for r in reports.values() for i in r.held for h in i.replicas]
        if state is None:
            empty = Table(0, ((),) * manifest.shards)
            state = State(0, empty, self.spec.model_dump(mode="json"))
        state = replace(state, epoch=max([state.epoch, *epochs]))
        return Index(self, manifest, files, state, now)

    def successor(self, *index: Any) -> Index:
        return Index(self, *index)

    def serve(self, index: Index) -> None:
        """Serve this one from the next step on. What others are asked is forgotten."""
        self._index = index
        self._polls = {kind: Polls() for kind in _POLLED}

    def source_files(self, source: IndexSource) -> dict[str, bytes]:
        """What belongs to the whole of a spec's index. Raises NotFound, and what reading raises."""
        if source.name is not None:
            if self._index is not None and self._index.manifest.name == source.name:
                return self._index.enactor.index_files
            raise NotFound(
                f"the data folders hold no index {source.name}: run bitsift cluster down, then "
                "bitsift index SOURCE --spec SPEC.toml to build it"
            )
        node = source.node or min(node.name for node in self.alive.values() if node.has_data)
        if node not in self.alive:
            raise NotFound(f"node {node}, which has the index, does not answer: start it")
        found: dict[str, bytes] = self._ask(node, "source_files", source)
        return found

    def _ask(self, node: str, method: str, *arguments: Any) -> Any:
        return agent_said(self.agents[node], node, method, *arguments)


class Index:
    """The index that the cluster serves, as it is seen."""

    def __init__(
        self,
        control: Control,
        manifest: Manifest,
        files: dict[str, bytes],
        state: State,
        now: float,
    ) -> None:
        self._control = control
        self.manifest = manifest
        self.state = replace(state, table=replace(state.table, placed_at=now))
        self.watch = Watch(manifest.uuid)
        self.watch.expect(state.table.shards, now)
        self.enactor = Enactor(control.spec, manifest, files, control.agents, self.next_epoch)
        self.urls: dict[str, tuple[str, str | None]] = {}
        self.observed = Observed(self.state.table)
        self.reports: Mapping[str, AgentReport] = {}
        self.said: dict[Place, Seen] = {}
        self._since = now
        self._retired_at = now + RETIRED_S
        self.resharding: Resharding | None = None
        if state.orders.reshard is not None:
            self.resharding = Resharding(control, self, state.orders.reshard)

    def next_epoch(self) -> int:
        """For an actor; it is on the disk of the actor's replica before the actor starts."""
        self.state = replace(self.state, epoch=self.state.epoch + 1)
        return self.state.epoch

    # --- looking ---------------------------------------------------------------------------

    def look(self, reports: Mapping[str, AgentReport], now: float) -> None:
        is_held = now < self.enactor.held_until - HELD_MARGIN_S
        watch = self.watch
        watch.see_nodes(self._control.alive, reports, now)
        self.reports = reports
        self.said = self.statuses(self.enactor.fleet, watch.to_ask(reports), "replicas")
        watch.see_replicas(reports, self.said, now)
        routers, behind = self._routers(), self._behind()
        replicas = [
            replace(replica, is_behind=place in behind)
            for place, replica in sorted(watch.replicas.items())
        ]
        self.observed = Observed(
            table=self.state.table,
            nodes=tuple(node for _, node in sorted(watch.nodes.items())),
            replicas=tuple(replicas),
            routers=routers,
            orders=self.state.orders,
            is_held=is_held,
            since=self._since,
        )
        if self.resharding is not None:
            self.resharding.look(reports, now)

    def statuses(self, fleet: Fleet, places: list[Place], kind: str) -> dict[Place, Seen]:
        """What the actors of replicas say; without those that have none."""
        actors = {place: fleet.replica(*place) for place in places}
        there = {place: actor for place, actor in actors.items() if actor is not None}
        calls = {place: actor.status.remote for place, actor in there.items()}
        said = self._control.ask(kind, calls)
        found: dict[Place, Seen] = dict.fromkeys(there)
        for place in there.keys() & said.keys():
            answer = said[place]
            is_error = isinstance(answer, BitsiftError)
            found[place] = answer if is_error else unpack_fact(answer, ShardStatus)
        return found

    def _routers(self) -> dict[str, bool]:
        """Nodes with a router, and whether it listens: it is asked to each time, for Ray may have
        started it again.
        """
        serve = self._control.spec.serve
        routers = {node: self.enactor.fleet.router(node) for node in self.watch.nodes}
        there = {node: router for node, router in routers.items() if router is not None}
        calls = {
            node: functools.partial(router.listen.remote, serve.host, serve.port, serve.admin_port)
            for node, router in there.items()
        }
        said = self._control.ask("routers", calls)
        self.urls = {node: urls for node, urls in said.items() if isinstance(urls, tuple)}
        for node, error in said.items():
            if isinstance(error, BitsiftError):
                self.enactor.failures[node] = error.message
        return {node: node in self.urls for node in there}

    def _behind(self) -> set[Place]:
        writer = self.enactor.writer()
        if writer is None:
            return set()
        said = self._control.ask("writer", {"behind": writer.behind.remote}).get("behind", ())
        return set() if isinstance(said, BitsiftError) else set(said)

    # --- acting ----------------------------------------------------------------------------

    def act(self, now: float) -> None:
        orders = pending(self.observed)
        if orders != self.state.orders:
            self.change_orders(orders)
        for action in decide(self._control.spec, self.observed, now):
            try:
                self._do(action, now)
            except BitsiftError as error:  # it is decided again
                self.enactor.failures[type(action).__name__] = error.message
        if not self.state.orders.stopped:
            self._go_on(now)

    def _go_on(self, now: float) -> None:
        if now >= self.enactor.held_until:
            self._keep_up(now)
        if now >= self._retired_at:
            self._retire()
        if self.resharding is not None:
            self._reshard(self.resharding, now)

    def _do(self, action: Action, now: float) -> None:
        match action:
            case Hold():
                self.enactor.hold()
            case Publish(shards):
                self._publish(shards, now)
            case CopyReplica(shard, _, target) if self.observed.is_held:
                self.enactor.do(action)
                self.watch.held_for((shard, target), now)
            case _:
                self.enactor.do(action)

    def _keep_up(self, now: float) -> None:
        """Routers that were started again have an old table; actors may be others by now."""
        self.enactor.ensure_writer(self.observed.for_routers(), list(self.watch.nodes))
        table = self.enactor.fleet.table(self.state.table.epoch, self.state.table.shards)
        if table.shards != self.enactor.table.shards and table.epoch == self.enactor.table.epoch:
            self._publish(self.state.table.shards, now)
        else:
            self.enactor.place(table, list(self.urls))

    def _reshard(self, resharding: Resharding, now: float) -> None:
        try:
            resharding.act(now)
        except BitsiftError as error:  # it is decided again
            resharding.failure = error.message

    def _retire(self) -> None:
        for node, report in self.reports.items():
            for held in report.held:
                if held.uuid in self.state.retired:
                    here = self._control.agents[node], node, held
                    known = self.manifest.uuid, self.enactor.index_files, self.state
                    self.enactor.begin(f"old shards on {node}", retire, *here, *known)

    def begin_reshard(self, shards: int) -> None:
        """Raises InvalidRequest, Unavailable, StorageFull, FormatMismatch."""
        order = ordered(self, self._control.spec.placement.replicas, shards)
        self.change_orders(replace(self.state.orders, reshard=order))
        self.resharding = Resharding(self._control, self, order)
        self.enactor.failures.pop("the reshard", None)

    def drop_reshard(self, why: str) -> None:
        """All stays as it is; the new shards are removed. Raises InvalidRequest, Unavailable."""
        if (dropped := self.resharding) is None:
            raise InvalidRequest("the index is not being resharded")
        retired = (*self.state.retired, dropped.order.uuid)
        self.next_epoch()
        orders = replace(self.state.orders, reshard=None)
        self.keep(replace(self.state, orders=orders, retired=retired))
        self.observed = replace(self.observed, orders=orders)
        self.resharding, self._retired_at = None, self._since
        self.enactor.failures["the reshard"] = why
        dropped.release()

    def _publish(self, shards: tuple[tuple[str, ...], ...], now: float) -> None:
        epoch = self.next_epoch()
        self.keep(replace(self.state, table=Table(epoch, shards, now)))
        self.enactor.place(self.enactor.fleet.table(epoch, shards), list(self.urls))
        log.info("table %d: %s", epoch, shards)

    def change_orders(self, orders: Orders) -> None:
        self.next_epoch()
        self.keep(replace(self.state, orders=orders))
        self.observed = replace(self.observed, orders=orders)

    def change_spec(self, spec: ClusterSpec) -> None:
        """Raises InvalidRequest for another index, or for other data folders."""
        if spec.placement.data != self._control.spec.placement.data:
            raise InvalidRequest(
                f"the replicas are in {self._control.spec.placement.data}, but the spec says "
                f"{spec.placement.data}: run bitsift cluster down first"
            )
        if spec.index != self._control.spec.index:
            uuid = manifest_of(self._control.source_files(spec.index)).uuid
            if uuid not in (self.manifest.uuid, *self.state.retired):
                raise InvalidRequest(
                    f"the data folders hold index {self.manifest.uuid}, but the spec names index "
                    f"{uuid}: run bitsift cluster down, and give it other data folders"
                )
        self.next_epoch()
        orders = replace(self.state.orders, stopped=False)
        self.keep(replace(self.state, spec=spec.model_dump(mode="json"), orders=orders))
        self.observed = replace(self.observed, orders=orders)
        self._control.spec = self.enactor.spec = spec

    def keep(self, state: State, *, on_all: bool = False) -> None:
        """On every data disk that is there, before it is in force. Raises Unavailable where none
        has it, or with ``on_all`` where one has not.
        """
        here = [n.name for n in self.observed.nodes if n.lost_at is None and n.has_data]
        calls = []
        for node in here:
            agent = self._control.agents[node]
            adopt = agent.adopt.remote(self.manifest.uuid, self.enactor.index_files)
            calls.append([adopt, agent.keep.remote(self.manifest.uuid, state.to_json())])
        kept, why = 0, "no node is there"
        for call in calls:
            try:
                asked(call, Callee("an agent"), ASK_TIMEOUT_S)
                kept += 1
            except BitsiftError as error:
                log.warning("the state could not be stored: %s", why := error.message)
        if kept < (len(here) if on_all else 1):
            raise Unavailable(f"the state of the cluster was not stored ({why}): check the disks")
        self.state = state

    def lacking(self, now: float) -> dict[int, int]:
        return lacking(self._control.spec, self.observed, now)
