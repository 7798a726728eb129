"""A reshard under way, as a controller sees it and does what ``next_steps`` says.

The new shards are an index of another uuid in each data folder. What makes them the index is that
the state of the cluster is kept under that uuid, with a greater epoch than any under the old one:
before that all is as it was, after it the old shards are *retired*. So it does not matter at which
instant a controller ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bitsift.cluster.fleet.agent import AgentReport, FollowOrder, FollowReport
from bitsift.cluster.fleet.enact import HELD_S, Enactor
from bitsift.cluster.fleet.membership import Place
from bitsift.cluster.fleet.observed import MakeReplica, Orders, Reshard, StartReplica, Table
from bitsift.cluster.fleet.polls import ASK_TIMEOUT_S, outcome
from bitsift.cluster.fleet.reshard_order import index_files_of, successor_of
from bitsift.cluster.fleet.reshard_steps import (
    CatchUp,
    Close,
    Drop,
    Follow,
    Following,
    LeaveOut,
    Made,
    Open,
    Seen,
    Step,
    Switch,
    next_steps,
    without,
)
from bitsift.cluster.fleet.served import Served, Serving
from bitsift.cluster.fleet.state import State
from bitsift.cluster.fleet.watch import Watch
from bitsift.errors import BitsiftError, Corrupt, ShardUnavailable, Unavailable
from bitsift.router.shards.ray_calls import asked, shard_callee
from bitsift.shard_worker.store.counters import Past
from bitsift.shard_worker.types import ShardStatus
from bitsift.shard_worker.wire.structures import unpack_fact

log = logging.getLogger(__name__)

SEAL_S = HELD_S - 2.0
"""Old shards take writes again before the writer sends any: none fails if a controller ends now."""
RETIRED_S = 90.0
"""Old shards answer so long after the switch: longer than any question may take."""
FOR_GOOD_S = 3_600.0
"""From just before the switch. A controller that ends before it is followed by one that finds the
old index in force, and has its shards take writes."""


class Resharding:
    """One reshard of ``index``, from the order to the switch."""

    def __init__(self, control: Serving, index: Served, order: Reshard) -> None:
        self._control = control
        self._index = index
        self.order = order
        self.manifest = successor_of(index.manifest, order)
        self.watch = Watch(order.uuid)
        self.enactor = Enactor(control.spec, self.manifest, {}, control.agents, index.next_epoch)
        self._lost = dict[str, float]()
        """Nodes of the order that are not there, and since when they were missed."""
        self._since = dict[int, int]()
        """By old shard: the version that followers have reached in all copies of the order."""
        self._reports: dict[int, FollowReport] = {}
        self._nodes: dict[int, str] = {}
        self._behind = set[Place]()
        """Old replicas that may lack what was acknowledged, by the writer that holds writes now."""
        self._seals: str = ""
        """The name of the hold under which the old shards are sealed."""
        self._sealed_until = float("-inf")
        self._closing_since: float | None = None
        self._closed_at = float("-inf")
        self._is_new = True
        self.failure: str | None = None

    # --- looking ---------------------------------------------------------------------------

    def look(self, reports: Mapping[str, AgentReport], now: float) -> None:
        watch = self.watch
        watch.see_nodes(self._control.alive, reports, now)
        said = self._index.statuses(self.enactor.fleet, watch.to_ask(reports), "new replicas")
        watch.see_replicas(reports, said, now)
        here = {node.name for node in self._index.observed.nodes if node.lost_at is None}
        away = {node for _, node in self.order.places() if node not in here}
        self._lost = {node: self._lost.get(node, now) for node in away}
        self._reports, self._nodes = {}, {}
        for node, report in reports.items():
            for found in report.followers:
                if (found.uuid, found.successor) != (self._index.manifest.uuid, self.order.uuid):
                    continue
                if found.targets == tuple(self.order.places()):
                    self._since[found.shard] = max(
                        self._since.get(found.shard, 0), found.progress.since
                    )
                if found.shard not in self._reports or found.is_running:
                    self._reports[found.shard], self._nodes[found.shard] = found, node

    def seen(self, now: float) -> Seen:
        """The hold counts only where the last reports came after it, and while it lasts."""
        observed, enactor = self._index.observed, self._index.enactor
        here = {node.name: node for node in observed.nodes if node.lost_at is None}
        ready = {(r.shard, r.node) for r in observed.replicas if r.phase == "ready"}
        ready -= {(r.shard, r.node) for r in observed.replicas if r.is_behind} | self._behind
        running = {shard: r for shard, r in self._reports.items() if r.is_running}
        is_held = observed.is_held and enactor.hold_name == self._seals
        return Seen(
            old=tuple(
                tuple(node for node in nodes if node in here and (shard, node) in ready)
                for shard, nodes in enumerate(observed.table.shards)
            ),
            here=frozenset(here),
            lost=self._lost,
            copies=self.watch.replicas,
            followers={
                shard: Following(self._nodes[shard], report.targets, report.progress)
                for shard, report in running.items()
            },
            hold=self._seals if is_held else "",
            closing_since=self._closing_since,
            closed_at=self._closed_at,
        )

    # --- acting ----------------------------------------------------------------------------

    def act(self, now: float) -> None:
        """The next steps. Raises BitsiftErrors: they are decided again."""
        self.failure = None
        if self._is_new:  # a controller before this one may have come close to the switch
            self._seal(0.0)
            self._is_new = False
        for step in next_steps(self.order, self.seen(now), now):
            self._do(step, now)

    def _do(self, step: Step, now: float) -> None:
        match step:
            case MakeReplica():
                self.enactor.past = self._past()
                self.enactor.do(step)
            case StartReplica():
                self.enactor.do(step)
            case Made():
                self._keep(replace(self.order, is_made=True))
            case LeaveOut(places):
                log.warning("the reshard goes on without %s", places)
                self._keep(without(self.order, places))
            case Drop(why):
                log.warning("the reshard is dropped: %s", why)
                self._index.drop_reshard(why)
            case Follow(shard, node):
                self._follow(shard, node)
            case CatchUp(shard, node):
                agent = self._control.agents[node]
                agent.catch_up.remote(self._index.manifest.uuid, shard, self._seals)
            case Close():
                self._close(now)
            case Open():
                self._open(now)
            case Switch():
                self._switch(now)

    def _keep(self, order: Reshard) -> None:
        self._index.change_orders(replace(self._index.state.orders, reshard=order))
        self.order = order

    def _past(self) -> Past:
        """Of all old shards: asked once."""
        if self.enactor.past != Past():
            return self.enactor.past
        calls = [(shard, actor.past.remote()) for shard, actor in self._old_actors(first_only=True)]
        found = [asked(call, shard_callee(shard), ASK_TIMEOUT_S * 6) for shard, call in calls]
        return Past(
            max(past.newest_version for past in found),
            max(past.forgotten_version for past in found),
        )

    def _old_actors(self, *, first_only: bool = False) -> list[tuple[int, Any]]:
        """Those of the table that are there. Raises Unavailable for a shard that has none."""
        fleet, found = self._index.enactor.fleet, list[tuple[int, Any]]()
        for shard, nodes in enumerate(self._index.state.table.shards):
            actors = [it for it in (fleet.replica(shard, node) for node in nodes) if it is not None]
            if not actors:
                raise ShardUnavailable(f"no copy of shard {shard} is there at the moment")
            found += [(shard, actor) for actor in (actors[:1] if first_only else actors)]
        return found

    def _follow(self, shard: int, node: str) -> None:
        spec, index = self._control.spec, self._index
        actor = index.enactor.fleet.replica(shard, node)
        sinks = [
            (number, place, self.enactor.fleet.replica(number, place))
            for number, place in self.order.places()
        ]
        if actor is None or any(sink is None for _, _, sink in sinks):
            raise Unavailable("an actor starts again")
        # One of several may have been given what is older than it, and what another never had.
        is_alone = spec.placement.replicas == len(index.state.table.shards[shard]) == 1
        order = FollowOrder(
            uuid=index.manifest.uuid,
            shard=shard,
            actor=actor,
            successor=self.order.uuid,
            shards=self.order.shards,
            sinks=tuple(sinks),
            since=self._since.get(shard, 0) if is_alone else 0,
            rate=spec.placement.copy_rate,
        )
        asked(self._control.agents[node].follow.remote(order), shard_callee(shard), ASK_TIMEOUT_S)

    # --- the switch ------------------------------------------------------------------------

    def _close(self, now: float, seal_s: float = SEAL_S) -> None:
        """Hold the writer; and seal the old shards, for one that Ray starts again holds nothing."""
        if self._closing_since is None:
            self._closing_since = now
        enactor = self._index.enactor
        if time.monotonic() >= self._sealed_until:
            enactor.held_until = 0.0  # some may have been written to: another hold, another pass
        try:
            enactor.hold()
            self._behind = enactor.settle()
            self._sealed_until = time.monotonic() + seal_s
            self._seal(seal_s)
        except BitsiftError:  # one that is not sealed may be written to: from the beginning
            self._seals, self._sealed_until, enactor.held_until = "", float("-inf"), 0.0
            raise
        self._seals = enactor.hold_name

    def _seal(self, seconds: float) -> None:
        calls = [
            (shard, actor.refuse_writes.remote(seconds)) for shard, actor in self._old_actors()
        ]
        for shard, call in calls:
            asked(call, shard_callee(shard), ASK_TIMEOUT_S)

    def _open(self, now: float) -> None:
        self._closing_since, self._closed_at, self._seals = None, now, ""
        self._behind, self._sealed_until = set(), float("-inf")
        self._index.enactor.held_until = 0.0  # the table is placed again, which ends the hold
        self._seal(0.0)

    def release(self) -> None:
        """Nothing is held and sealed any more, and nothing followed."""
        for agent in self._control.agents.values():
            agent.end_following.remote(self.order.uuid)
        if self._closing_since is not None:
            self._open(time.monotonic())

    def _switch(self, now: float) -> None:
        """Old and new hold the same: have all disks say so, then routers and the writer."""
        documents = self._counted()
        hold, held_until = self._seals, self._index.enactor.held_until
        if time.monotonic() < held_until - (HELD_S - SEAL_S):
            self._close(now, FOR_GOOD_S)  # there is time again for what follows
        if self._seals != hold or held_until == self._index.enactor.held_until:
            return  # a write may have come in between
        old, files = self._index, index_files_of(self.manifest, documents)
        epoch, before = old.next_epoch(), old.state
        orders = Orders(drained=before.orders.drained)
        table = Table(epoch, self.order.targets, now)
        state = State(epoch, table, before.spec, orders, (*before.retired, old.manifest.uuid))
        new = self._control.successor(self.manifest, files, state, now)
        new.observed = replace(old.observed, table=table, replicas=(), orders=orders)
        try:
            new.keep(state, on_all=True)
        except BitsiftError as error:  # some may have it: the old index must be kept after it
            old.drop_reshard(error.message)
            raise
        self._hand_over(new)

    def _hand_over(self, new: Served) -> None:
        """The new index is in force: the disks say so."""
        old, table = self._index, new.state.table
        new.enactor.take_over(old.enactor)
        new.urls = old.urls
        self._control.serve(new)
        log.info("%d shards take over, table %d", self.order.shards, table.epoch)
        new.enactor.place(new.table(), list(new.urls))

    def _counted(self) -> tuple[int, ...]:
        """The documents of each new shard. Raises Corrupt where they are not those of the old."""
        calls = {}
        for place in self.order.places():
            actor = self.enactor.fleet.replica(*place)
            if actor is None:
                raise ShardUnavailable(f"new shard {place[0]} on {place[1]} starts again")
            calls[place] = actor.status.remote()
        found = dict[int, set[tuple[int, int]]]()
        for (shard, _), call in calls.items():
            said = outcome(call)
            if isinstance(said, BitsiftError):
                raise said
            status = unpack_fact(said, ShardStatus)
            found.setdefault(shard, set()).add((status.documents, status.version))
        expected = sum(report.progress.documents for report in self._reports.values())
        counted = [min(copies)[0] for _, copies in sorted(found.items())]
        if any(len(copies) > 1 for copies in found.values()) or sum(counted) != expected:
            self._open(time.monotonic())
            raise Corrupt(
                f"the new shards hold {sum(counted):,} documents, the old ones {expected:,}: drop "
                "it with bitsift cluster reshard --undo, and verify the index"
            )
        return tuple(counted)

    # --- what is said ----------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """As JSON: the stage that it is in, and how far it is."""
        stage = "making"
        if self.order.is_made:
            stage = "copying" if self._closing_since is None else "switching"
        reports = [report for _, report in sorted(self._reports.items())]
        if stage == "copying" and reports and all(r.progress.passes for r in reports):
            stage = "catching up"
        return {
            "shards": self.order.shards,
            "uuid": self.order.uuid,
            "stage": stage,
            "targets": [list(nodes) for nodes in self.order.targets],
            "rows": sum(report.progress.rows for report in reports),
            "total_rows": sum(report.progress.total_rows for report in reports),
            "passes": [report.progress.passes for report in reports],
            "errors": [report.error for report in reports if report.error is not None],
            "failure": self.failure,
        }
