"""Doing what was decided. What takes seconds goes on in threads, one step of a replica at once."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from bitsift.cluster.fleet.actors import Fleet, end, end_and_wait
from bitsift.cluster.fleet.catching_up import CatchUpOrder
from bitsift.cluster.fleet.joining import Joining
from bitsift.cluster.fleet.observed import (
    Action,
    CatchUp,
    CopyReplica,
    DropReplica,
    EndWriter,
    MakeReplica,
    RestartRouter,
    StartReplica,
    StartRouter,
    StopReplica,
    StopRouter,
)
from bitsift.cluster.fleet.polls import ASK_TIMEOUT_S, agent_said
from bitsift.cluster.fleet.sources import PeerBlocks
from bitsift.cluster.fleet.spec import ClusterSpec, IndexSource
from bitsift.cluster.manifest import Manifest
from bitsift.errors import BitsiftError, Fenced, Unavailable, reason
from bitsift.router.shards.placement import ReplicaTable
from bitsift.router.shards.ray_calls import Callee, asked
from bitsift.router.write_gate import HOLD_MAX_S
from bitsift.shard_worker.store.counters import Past

log = logging.getLogger(__name__)

HELD_S = 10.0
"""What a hold of the writer is asked for; it is asked for again while it is needed."""
SETTLED_S = 6.0
"""For the writer to make replicas equal; one that does not answer is given up after 5 s."""
WRITER = "the writer"
_WORKERS = 16


class Enactor:
    """The hands of a controller. ``epoch`` gives a new one each time that it is called."""

    def __init__(
        self,
        spec: ClusterSpec,
        manifest: Manifest,
        index_files: dict[str, bytes],
        agents: dict[str, Any],
        epoch: Callable[[], int],
    ) -> None:
        self.fleet = Fleet(spec, manifest)
        self._manifest = manifest
        self.index_files = index_files
        self._agents = agents
        self._epoch = epoch
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="enact")
        self._running: dict[Hashable, Future[None]] = {}
        self.failures: dict[Hashable, str] = {}
        """Why the last step of a replica, or of a router, was not done."""
        self.table = ReplicaTable(
            0, ((),) * manifest.shards, manifest.uuid, spec.placement.replicas
        )
        """What routers and the writer have been given last."""
        self.held_until = 0.0
        self.hold_name = ""
        """Of the hold until then. It stays while that is prolonged before it ends."""
        self.past = Past()
        """What a replica that is made takes over."""
        self._writer_at: str | None = None

    def is_busy(self, key: Hashable) -> bool:
        running = self._running.get(key)
        return running is not None and not running.done()

    def do(self, action: Action) -> None:
        """Begin it, unless another step of the same replica or router is being done."""
        match action:
            case MakeReplica(shard, node):
                self.begin((shard, node), self._make, shard, node)
            case StartReplica(shard, node):
                epoch = self._epoch()
                self.begin((shard, node), self._start, shard, node, epoch)
            case StopReplica(shard, node):
                self.begin((shard, node), self.fleet.stop_replica, shard, node)
            case DropReplica(shard, node):
                self.begin((shard, node), self._drop, shard, node)
            case CopyReplica(shard, source, target):
                self.begin((shard, target), self._copy, shard, source, target)
            case CatchUp(shard, source, node):
                self.begin((shard, node), self._catch_up, shard, source, node)
            case StartRouter(node):
                self.begin(node, self._start_router, node)
            case StopRouter(node):
                self.begin(node, self.fleet.stop_router, node)
            case RestartRouter(node):
                self.begin(node, self._restart_router, node)
            case EndWriter():
                self.begin(WRITER, self._end_writer)

    def begin(self, key: Hashable, step: Callable[..., None], *arguments: Any) -> None:
        """Do ``step`` in a thread, unless one of this key is being done."""
        if self.is_busy(key):
            return

        def run() -> None:
            try:
                step(*arguments)
                self.failures.pop(key, None)
            except Exception as error:  # whatever it is: it is decided again
                self.failures[key] = reason(error)
                if not isinstance(error, BitsiftError):
                    log.exception("%s %s failed", step.__name__, arguments)

        self._running[key] = self._pool.submit(run)

    def _agent(self, node: str) -> Any:
        if node not in self._agents:
            raise Unavailable(f"the agent of node {node} does not answer; it is being restarted")
        return self._agents[node]

    def _ask(self, node: str, method: str, *arguments: Any) -> Any:
        return agent_said(self._agent(node), node, method, *arguments)

    def _start(self, shard: int, node: str, epoch: int) -> None:
        self.fleet.start_replica(shard, node, self._agent(node), epoch)

    def _make(self, shard: int, node: str) -> None:
        identity = self._manifest.identity(shard)
        self._ask(node, "create", self._manifest.uuid, identity, self.past)

    def _drop(self, shard: int, node: str) -> None:
        self._ask(node, "drop", self._manifest.uuid, shard)

    def _copy(self, shard: int, source: str | None, target: str) -> None:
        uuid, identity = self._manifest.uuid, self._manifest.identity(shard)
        self.fleet.stop_replica(shard, target)
        self._ask(target, "adopt", uuid, self.index_files)
        # An actor that Ray starts again in the meantime opens nothing.
        self._ask(target, "fence", uuid, shard, self._epoch())
        blocks: PeerBlocks | IndexSource = self.fleet.spec.index
        peer = source if source is not None else self.fleet.spec.index.node
        if source is not None or (peer is not None and peer != target):
            assert peer is not None
            actor = None if source is None else self.fleet.replica(shard, source)
            folder = None if source is not None else self.fleet.spec.index.folder
            blocks = PeerBlocks(self._agent(peer), peer, uuid, shard, target, actor, folder)
        self._ask(target, "copy", uuid, identity, blocks, self.fleet.spec.placement.copy_rate)

    def _catch_up(self, shard: int, source: str, node: str) -> None:
        uuid, epoch = self._manifest.uuid, self.table.epoch
        actor, peer = self.fleet.replica(shard, node), self.fleet.replica(shard, source)
        self._ask(node, "equalize", CatchUpOrder(uuid, shard, epoch, node, actor, source, peer))

    # --- routers and the writer ------------------------------------------------------------

    def _start_router(self, node: str) -> None:
        writer = self.writer()
        if writer is None:
            raise Unavailable("the writer has not started yet")
        if self.fleet.router(node) is None:
            self.fleet.start_router(node, self.table, writer)

    def _restart_router(self, node: str) -> None:
        self.fleet.stop_router(node)
        self._start_router(node)

    def _end_writer(self) -> None:
        """While routers keep new writes waiting: those that have begun end first. The writes of a
        router that does not answer may fail until another writer is there.
        """
        writer, routers = self.writer(), [self.fleet.router(node) for node in list(self._agents)]
        held = [router.hold_writes.remote(HOLD_MAX_S) for router in routers if router is not None]
        until = time.monotonic() + HOLD_MAX_S / 2
        for call in held:
            with contextlib.suppress(BitsiftError):
                asked(call, Callee("a router"), max(0.0, until - time.monotonic()))
        if writer is not None:
            with contextlib.suppress(BitsiftError):  # the next one makes the replicas equal
                asked(writer.hold.remote(HOLD_MAX_S), Callee("the writer"), SETTLED_S)
            end_and_wait(writer)

    def take_over(self, other: Enactor) -> None:
        """Of routers and the writer, which serve another index from now on."""
        self._writer_at = other._writer_at

    def writer(self) -> Any | None:
        return self.fleet.writer(self._writer_at)

    def ensure_writer(self, fit: list[str], known: list[str]) -> bool:
        """One writer, on a node of ``fit``: the one that runs on a node of ``known``, if it may.

        Returns whether it was started: it needs a table of an epoch that no other writer has.
        """
        found = [node for node in known if self.fleet.writer(node) is not None]
        kept = next((node for node in found if node in fit), None)
        for node in found:
            if node != kept and fit:
                end(self.fleet.writer(node))
        is_new = kept is None and bool(fit)
        if is_new:
            kept = fit[0]
            self.fleet.start_writer(kept, self.table)
        self._writer_at = kept
        return is_new

    def place(self, table: ReplicaTable, routers: list[str]) -> None:
        """Give it to the routers, then to the writer: no old document is found after a write.

        A router that does not answer is given it with the next step.
        """
        self.table, writer = table, self.writer()
        calls = []
        for node in routers:
            router = self.fleet.router(node)
            if router is not None:
                calls.append((node, router.place.remote(table)))
                if writer is not None:
                    router.write_through.remote(writer)
        for node, call in calls:
            try:
                asked(call, Callee(f"the router on {node}"), ASK_TIMEOUT_S)
            except BitsiftError as error:
                self.failures[node] = reason(error)
        if writer is not None:
            asked(writer.place.remote(table), Callee("the writer"), ASK_TIMEOUT_S)
        self.held_until = 0.0

    def tell(self, routers: list[str], syncs: list[dict[str, Any]]) -> None:
        """Let routers say which replicas are in step."""
        for node in routers:
            router = self.fleet.router(node)
            if router is not None:
                router.learn.remote(syncs)

    def seal(self, epoch: int, places: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
        """The replicas (shard, node) that refuse writes under older tables from now on.

        Raises Fenced where one of them knows a newer table: another controller is in charge.
        """
        actors = {place: self.fleet.replica(*place) for place in places}
        there = {place: actor for place, actor in actors.items() if actor is not None}
        calls = {place: actor.seal.remote(epoch, True) for place, actor in there.items()}
        sealed = set[tuple[int, str]]()
        for place, call in calls.items():
            try:
                asked(call, Callee(f"shard {place[0]} on {place[1]}"), ASK_TIMEOUT_S)
                sealed.add(place)
            except Fenced:
                raise
            except BitsiftError as error:
                self.failures[place] = error.message
        return sealed

    def joining(
        self, shard: int, members: Iterable[str], new: Iterable[str], leaving: Iterable[str]
    ) -> Joining:
        """Of replicas of ``shard`` on these nodes."""
        actors = (
            {node: self.fleet.replica(shard, node) for node in some}
            for some in (members, new, leaving)
        )
        return Joining(shard, *actors)

    def settle(self) -> set[tuple[int, str]]:
        """While writes are held: the replicas (shard, node) of the table that may lack some of what
        was acknowledged. All others have all of it then. Raises BitsiftErrors.
        """
        writer = self.writer()
        if writer is None:
            raise Unavailable("the writer has not started yet")
        return set(asked(writer.settle.remote(), Callee("the writer"), SETTLED_S))

    def hold(self, seconds: float = HELD_S) -> None:
        """No write runs from here on until ``held_until``. Raises BitsiftErrors."""
        writer = self.writer()
        begun = time.monotonic()
        if begun >= self.held_until:
            self.hold_name = secrets.token_hex(8)
        if writer is not None:
            asked(writer.hold.remote(seconds), Callee("the writer"), ASK_TIMEOUT_S)
        self.held_until = begun + seconds
