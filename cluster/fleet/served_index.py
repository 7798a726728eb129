"""The index that a cluster serves: seen, and brought step by step to what the spec says."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from bitsift.cluster.fleet.actors import Fleet
from bitsift.cluster.fleet.agent import AgentReport
from bitsift.cluster.fleet.decide import decide, lacking
from bitsift.cluster.fleet.enact import Enactor
from bitsift.cluster.fleet.joining import JOIN_S, Compared, Joining, compared
from bitsift.cluster.fleet.membership import Members, Place, ended, joined, sources
from bitsift.cluster.fleet.observed import (
    ALONE_MAX,
    Action,
    CopyReplica,
    Observed,
    Orders,
    Phase,
    Publish,
    Replica,
    Router,
    Table,
)
from bitsift.cluster.fleet.orders import pending
from bitsift.cluster.fleet.polls import ASK_TIMEOUT_S
from bitsift.cluster.fleet.reshard_order import ordered
from bitsift.cluster.fleet.resharding import RETIRED_S, Resharding
from bitsift.cluster.fleet.retiring import retire
from bitsift.cluster.fleet.served import Serving
from bitsift.cluster.fleet.sources import manifest_of, why_other
from bitsift.cluster.fleet.spec import ClusterSpec
from bitsift.cluster.fleet.state import State
from bitsift.cluster.fleet.sync import sync_of
from bitsift.cluster.fleet.watch import Seen, Watch
from bitsift.cluster.manifest import Manifest
from bitsift.errors import BitsiftError, Fenced, InvalidRequest, Unavailable
from bitsift.router.reports import RouterReport, WriterReport
from bitsift.router.shards.missed import Missed
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.shards.ray_calls import Callee, asked
from bitsift.shard_worker.types import ShardStatus
from bitsift.shard_worker.wire.structures import unpack_fact

log = logging.getLogger(__name__)

HELD_MARGIN_S = 3.0
"""A hold that ends sooner is none: what it is needed for must be done before a write runs."""


class Index:
    """The index that the cluster serves, as it is seen."""

    def __init__(
        self,
        control: Serving,
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
        self.missed: dict[Place, Missed] = {}
        """What replicas were not sent, by the writer that runs now."""
        self._since = now
        self._retired_at = now + RETIRED_S
        self.resharding: Resharding | None = None
        if state.orders.reshard is not None:
            self.resharding = Resharding(control, self, state.orders.reshard)
        self._sealed = {n for n, nodes in enumerate(state.table.shards) if len(nodes) > 1}
        """Shards whose replicas may be sealed with an epoch that the writer has no table of."""

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
        routers, writer = self._routers(), self._writer()
        self.missed = {} if writer is None else writer.missed
        behind = {place for place, missed in self.missed.items() if missed.behind is not None}
        replicas = [
            replace(replica, is_behind=place in behind)
            for place, replica in sorted(watch.replicas.items())
        ]
        self.observed = Observed(
            table=self.state.table,
            nodes=tuple(node for _, node in sorted(watch.nodes.items())),
            replicas=tuple(replicas),
            routers=routers,
            writer=None if writer is None else writer.settings,
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
        said = self._control.ask(kind, {it: it.status.remote for it in there.values()})
        answers = {place: said.get(actor) for place, actor in there.items()}
        return {
            place: unpack_fact(answer, ShardStatus) if isinstance(answer, bytes) else answer
            for place, answer in answers.items()
        }

    def _routers(self) -> dict[str, Router]:
        """Those of the nodes that have one. Each is asked to listen each time, for Ray may have
        started it again; one that is being restarted stays where it is.
        """
        serve, enactor = self._control.spec.serve, self.enactor
        found = {node: enactor.fleet.router(node) for node in self.watch.nodes}
        there = {node: router for node, router in found.items() if router is not None}
        where = serve.host, serve.port, serve.admin_port
        calls = {it: functools.partial(it.report.remote, *where) for it in there.values()}
        said = self._control.ask("routers", calls)
        routers = {node: Router(is_well=False) for node in found if enactor.is_busy(node)}
        self.urls = {}
        for node, router in there.items():
            report = said.get(router)
            why = report.message if isinstance(report, BitsiftError) else None
            if isinstance(report, RouterReport):
                self.urls[node], why = (report.url, report.admin_url), report.failure
                routers.setdefault(node, Router(report.is_loaded, report.settings))
                enactor.failures.pop(node, None)
            routers.setdefault(node, Router(is_well=False))
            if why is not None:
                enactor.failures[node] = why
        return routers

    def _writer(self) -> WriterReport | None:
        writer = self.enactor.writer()
        calls = {} if writer is None else {writer: writer.report.remote}
        said = self._control.ask("writer", calls).get(writer)
        return said if isinstance(said, WriterReport) else None

    # --- acting ----------------------------------------------------------------------------

    def act(self, now: float) -> None:
        orders = pending(self.observed)
        if orders != self.state.orders:
            self.change_orders(orders)
        for action in decide(self._control.spec, self.observed, now):
            try:
                self._do(action, now)
            except Fenced:
                raise
            except BitsiftError as error:  # it is decided again
                self.enactor.failures[type(action).__name__] = error.message
        if not self.state.orders.stopped:
            self._go_on(now)

    def _go_on(self, now: float) -> None:
        if now >= self.enactor.held_until:
            self._keep_up(now)
            self._change_members(self.state.table.shards, now)
        if now >= self._retired_at:
            self._retire()
        if self.resharding is not None:
            self._reshard(self.resharding, now)

    def _do(self, action: Action, now: float) -> None:
        match action:
            case Publish(shards):
                self._change_members(shards, now)
            case CopyReplica():
                self.watch.copied((action.shard, action.target))
                self.enactor.do(action)
            case _:
                self.enactor.do(action)

    def _keep_up(self, now: float) -> None:
        """Routers that were started again have an old table; actors may be others by now."""
        is_new = self.enactor.ensure_writer(self.observed.for_routers(), list(self.watch.nodes))
        table, given = self.table(), self.enactor.table
        is_other = (table.shards, table.replicas) != (given.shards, given.replicas)
        if is_new or (is_other and table.epoch == given.epoch):
            self._publish(self.state.table.shards, now)
        else:
            self.enactor.place(table, list(self.urls))
        self.enactor.tell(list(self.urls), self.syncs(now))

    def table(self) -> ReplicaTable:
        """The table in force, with the actors of its replicas."""
        table, wanted = self.state.table, self._control.spec.placement.replicas
        return self.enactor.fleet.table(table.epoch, table.shards, wanted)

    def _change_members(self, shards: Members, now: float) -> None:
        """Where enough of those that may acknowledge writes now can be sealed: so a writer that is
        cut off from here acknowledges nothing more. Elsewhere the table stays as it is.
        """
        before, wanted = self.state.table.shards, self._control.spec.placement.replicas
        answering = {(r.shard, r.node) for r in self.observed.replicas if r.phase is Phase.READY}
        here = {(n, node) for n in range(len(before)) for node in self.observed.answering(n)}
        gone = self._gone(now) - here
        able = ended(before, wanted, answering, gone, here)
        changed = {n for n in able if shards[n] != before[n] or n in self._sealed}
        if not changed:
            return
        places = {(n, node) for n in changed for node in (*before[n], *shards[n])}
        new = {(n, node) for n, node in places & answering if node not in before[n]}
        if new:
            self._hold()
        self._sealed |= changed
        epoch = self.next_epoch()
        sealed = self.enactor.seal(epoch, places & answering)
        changed &= ended(before, wanted, sealed, gone, here)
        found = self._compared([self._joining(n, shards[n], sealed) for n in changed], epoch, now)
        if changed := changed & ended(before, wanted, found.known, gone, here):
            self._publish(joined(before, shards, changed, found.complete, wanted), now)
            self._sealed -= changed

    def _hold(self) -> None:
        """So that no write is refused for want of a table. Some may not end, because too few
        replicas answer until another joins: those are refused.
        """
        try:
            self.enactor.hold(JOIN_S + ASK_TIMEOUT_S)
        except BitsiftError as error:
            log.warning("a replica joins though writes go on: %s", error.message)

    def _joining(self, shard: int, after: Collection[str], sealed: set[Place]) -> Joining:
        before, wanted = self.state.table.shards[shard], self._control.spec.placement.replicas
        here = sorted(node for at, node in sealed if at == shard)
        old = sources(before, after, here, wanted)
        stay, leaving = [n for n in old if n in after], [n for n in old if n not in after]
        return self.enactor.joining(shard, stay, [n for n in here if n not in before], leaving)

    def _compared(self, joinings: list[Joining], epoch: int, now: float) -> Compared:
        """Which of them have all that was acknowledged, sealed with ``epoch``."""
        found = compared(joinings, epoch)
        for place, error in found.failed.items():
            self.watch.refused(place, error, now)
            self.enactor.failures[place] = error.message
        for place in found.complete:
            self.enactor.failures.pop(place, None)
        return found

    def _gone(self, now: float) -> set[Place]:
        """The replicas that an operator has given up; and, where one of two goes on alone, those of
        nodes that were lost for longer than the grace period.
        """
        placement, orders = self._control.spec.placement, self.state.orders
        found = {(loss.shard, node) for loss in orders.losses for node in loss.nodes}
        if placement.replicas > ALONE_MAX:
            return found
        lost = {n.name: n.lost_at for n in self.observed.nodes if n.lost_at is not None}
        nodes = {name for name, at in lost.items() if now - at >= placement.grace_s}
        return found | {(r.shard, r.node) for r in self.observed.replicas if r.node in nodes}

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

    def _publish(self, shards: Members, now: float) -> None:
        epoch = self.next_epoch()
        self.keep(replace(self.state, table=Table(epoch, shards, now)))
        self.enactor.place(self.table(), list(self.urls))
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
            found = manifest_of(self._control.source_files(spec.index))
            if found.uuid not in (self.manifest.uuid, *self.state.retired):
                raise InvalidRequest(why_other(self.manifest, found))
        self.next_epoch()
        orders = replace(self.state.orders, stopped=False)
        self.keep(replace(self.state, spec=spec.model_dump(mode="json"), orders=orders))
        self.observed = replace(self.observed, orders=orders)
        self._control.spec = self.enactor.fleet.spec = spec

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

    def sync(self, replica: Replica, now: float) -> dict[str, Any]:
        """Whether a replica has what was acknowledged: see ``sync_of``."""
        place = replica.shard, replica.node
        missed, catch_up = self.missed.get(place), self.watch.catch_ups.get(place)
        return sync_of(self.observed, replica, missed, catch_up, now)

    def syncs(self, now: float) -> list[dict[str, Any]]:
        """That of each, for routers."""
        return [
            {"shard": it.shard, "node": it.node} | self.sync(it, now)
            for it in self.observed.replicas
        ]

    def lacking(self, now: float) -> dict[int, int]:
        return lacking(self._control.spec, self.observed, now)
