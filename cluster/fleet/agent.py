"""AgentActor: the hands of the controller on one node that has a data folder.

It says what its disk holds, copies, and removes. It starts nothing that answers questions. One runs
on each node, detached, and Ray starts it again; what it was doing then is begun again by the
controller and goes on where it was.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from bitsift.cluster.fleet.catching_up import CatchingUp, CatchUpOrder, CatchUpReport
from bitsift.cluster.fleet.following import ActorSink, ActorSource, Follower, FollowProgress
from bitsift.cluster.fleet.hydration import Blocks, CopyProgress, FolderBlocks, Pace, hydrate
from bitsift.cluster.fleet.node_store import HeldIndex, NodeStore
from bitsift.cluster.fleet.readiness import listen, unready
from bitsift.cluster.fleet.removing import OF_AN_EXPORT, remove_named
from bitsift.cluster.fleet.sources import PeerBlocks, exported, index_files_of, of_source
from bitsift.cluster.fleet.spec import IndexSource
from bitsift.errors import NotFound, Overloaded, reason
from bitsift.shard_worker.layout import shard_folder
from bitsift.shard_worker.maintenance.backup import BackupFile
from bitsift.shard_worker.search.precedence import lowest_priority
from bitsift.shard_worker.store.counters import NO_PAST, Past
from bitsift.shard_worker.types import ShardIdentity

log = logging.getLogger(__name__)

_THREADS = {"report": 2, "disk": 1, "export": 4, "block": 8}
"""A long export delays neither blocks nor reports."""
COPIES_MAX = 1
"""At once, into one node: its disk and its rate are one."""
CATCH_UPS_MAX = 2
"""At once, of one node: each reads all ids and versions of two replicas."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """A copy into this node, under way or ended. ``error`` says why it ended early."""

    uuid: str
    shard: int
    is_running: bool
    done_bytes: int
    total_bytes: int
    fetched_bytes: int
    error: str | None


@dataclass(frozen=True, slots=True)
class FollowOrder:
    """The old ``shard`` of index ``uuid``, which ``actor`` has open on this node, is to be followed
    into the new ``shards`` of index ``successor``, of which ``sinks`` are all copies: the number,
    the node and the actor of each. ``since`` as in ``Follower``; ``rate`` is in bytes/s.
    """

    uuid: str
    shard: int
    actor: Any
    successor: str
    shards: int
    sinks: tuple[tuple[int, str, Any], ...]
    since: int
    rate: int


@dataclass(frozen=True, slots=True)
class FollowReport:
    """What a follower has come to. ``targets`` are the copies that it writes to; ``error`` says why
    it ended.
    """

    uuid: str
    shard: int
    successor: str
    targets: tuple[tuple[int, str], ...]
    is_running: bool
    progress: FollowProgress
    error: str | None


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What a node says of itself; ``free_bytes`` are those of its data folder's disk."""

    node: str
    held: tuple[HeldIndex, ...]
    copies: tuple[CopyReport, ...]
    followers: tuple[FollowReport, ...] = ()
    catch_ups: tuple[CatchUpReport, ...] = ()
    free_bytes: int = 0


@dataclass(slots=True)
class _Copy:
    uuid: str
    identity: ShardIdentity
    pace: Pace
    thread: threading.Thread | None = None
    progress: CopyProgress = field(default_factory=CopyProgress)
    error: str | None = None

    @property
    def is_running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def report(self) -> CopyReport:
        at = self.progress
        bytes_ = at.done_bytes, at.total_bytes, at.fetched_bytes
        return CopyReport(self.uuid, self.identity.shard, self.is_running, *bytes_, self.error)


@dataclass(slots=True)
class _Following:
    order: FollowOrder
    follower: Follower
    thread: threading.Thread | None = None
    error: str | None = None

    def report(self) -> FollowReport:
        order = self.order
        targets = tuple((shard, node) for shard, node, _ in order.sinks)
        is_running = self.thread is not None and self.thread.is_alive()
        return FollowReport(
            order.uuid, order.shard, order.successor, targets, is_running,
            replace(self.follower.progress), self.error,
        )  # fmt: skip


@ray.remote(  # type: ignore[call-overload]
    max_restarts=-1, max_task_retries=0, num_cpus=0.001, concurrency_groups=_THREADS
)
class AgentActor:
    """The data folder of one node."""

    def __init__(self, node: str, folder: str, ready_port: int | None = None) -> None:
        """Opens the folder at the first call: an error here would end the actor for good.

        At ``ready_port`` of the node's address it says whether all replicas are open.
        """
        self._node = node
        self._folder = Path(folder)
        self._opened: NodeStore | None = None
        self._opening = threading.Lock()
        self._copies: dict[tuple[str, int], _Copy] = {}
        self._exports: dict[tuple[str, int, str], Blocks] = {}
        self._followings: dict[tuple[str, int], _Following] = {}
        self._catch_ups: dict[tuple[str, int], CatchingUp] = {}
        if ready_port is not None:
            address = ray.util.get_node_ip_address()
            listen(address, ready_port, lambda: unready(self._store()))

    def _store(self) -> NodeStore:
        with self._opening:
            if self._opened is None:
                self._opened = NodeStore(self._folder)
            return self._opened

    @ray.method(concurrency_group="report")
    def report(self) -> AgentReport:
        """Raises Unavailable where the data folder cannot be used."""
        # First, so that a copy that ends now is not taken for a part that nobody makes.
        copies = tuple(copy.report() for copy in list(self._copies.values()))
        followers = tuple(it.report() for it in list(self._followings.values()))
        free_bytes = shutil.disk_usage(self._store().folder).free
        catch_ups = tuple(it.report() for it in list(self._catch_ups.values()))
        held = tuple(self._store().held())
        return AgentReport(self._node, held, copies, followers, catch_ups, free_bytes)

    # --- the disk --------------------------------------------------------------------------

    @ray.method(concurrency_group="disk")
    def fence(self, uuid: str, shard: int, epoch: int) -> str:
        """See ``NodeStore.fence``; the folder to open."""
        return str(self._store().fence(uuid, shard, epoch))

    @ray.method(concurrency_group="disk")
    def keep(self, uuid: str, state: Mapping[str, Any]) -> None:
        self._store().keep(uuid, state)

    @ray.method(concurrency_group="disk")
    def adopt(self, uuid: str, files: Mapping[str, bytes]) -> None:
        self._store().adopt(uuid, files)

    @ray.method(concurrency_group="disk")
    def drop(self, uuid: str, shard: int) -> None:
        self._store().drop(uuid, shard)

    @ray.method(concurrency_group="disk")
    def create(self, uuid: str, identity: ShardIdentity, past: Past = NO_PAST) -> None:
        """See ``NodeStore.create``."""
        self._store().create(uuid, identity, past)

    @ray.method(concurrency_group="export")
    def remove(self, uuid: str) -> None:
        """See ``NodeStore.remove``."""
        self._end_following(uuid)
        self._catch_ups = {key: it for key, it in self._catch_ups.items() if key[0] != uuid}
        self._store().remove(uuid)

    @ray.method(concurrency_group="disk")
    def index_files(self, uuid: str) -> dict[str, bytes]:
        return self._store().index_files(uuid)

    @ray.method(concurrency_group="disk")
    def source_files(self, source: IndexSource) -> dict[str, bytes]:
        """What belongs to the whole of the spec's index, as this node sees it."""
        return index_files_of(source)

    # --- copies that others make -----------------------------------------------------------

    @ray.method(concurrency_group="export")
    def export(
        self, uuid: str, shard: int, node: str, actor: Any, folder: str | None
    ) -> Sequence[BackupFile]:
        """Make ready what ``node`` copies: the shard that ``actor`` has open, or that of the index
        in ``folder``. Its files.
        """
        self._end_export(uuid, shard, node)
        place = self._store().export(uuid, shard, node)
        found: Blocks
        if folder is not None:
            found = FolderBlocks(shard_folder(Path(folder), shard))
        else:
            found = exported(actor, shard, place)
        self._exports[uuid, shard, node] = found
        return found.files()

    @ray.method(concurrency_group="block")
    def block(self, uuid: str, shard: int, node: str, digest: str) -> bytes:
        """Raises NotFound where this agent was started again since ``export``."""
        export = self._exports.get((uuid, shard, node))
        if export is None:
            raise NotFound(f"no copy of shard {shard} for node {node} has begun: begin it")
        return export.read_block(digest)

    @ray.method(concurrency_group="export")
    def release(self, uuid: str, shard: int, node: str) -> None:
        """``node`` has ended its copy."""
        self._end_export(uuid, shard, node)
        with contextlib.suppress(OSError):
            remove_named(self._store().export(uuid, shard, node), OF_AN_EXPORT)

    def _end_export(self, uuid: str, shard: int, node: str) -> None:
        export = self._exports.pop((uuid, shard, node), None)
        if export is not None:
            export.close()

    # --- copies that are made here ---------------------------------------------------------

    @ray.method(concurrency_group="disk")
    def copy(
        self, uuid: str, identity: ShardIdentity, source: PeerBlocks | IndexSource, rate: int
    ) -> None:
        """Begin to make the replica here equal to ``source``, at ``rate`` bytes/s at most.

        Nobody may have it open. ``report`` says how far it is. Raises Overloaded while another
        copy is made.
        """
        if sum(copy.is_running for copy in self._copies.values()) >= COPIES_MAX:
            raise Overloaded(f"node {self._node} is making another copy; try again")
        self._catch_ups.pop((uuid, identity.shard), None)  # it was of what is replaced
        copy = _Copy(uuid, identity, Pace(rate))
        copy.thread = threading.Thread(target=self._run, args=(copy, source), daemon=True)
        self._copies[uuid, identity.shard] = copy
        copy.thread.start()

    def _run(self, copy: _Copy, source: PeerBlocks | IndexSource) -> None:
        lowest_priority()
        shard = copy.identity.shard
        try:
            with contextlib.ExitStack() as stack:
                blocks: Blocks
                blocks = source if isinstance(source, PeerBlocks) else of_source(source, shard)
                stack.callback(blocks.close)
                folder = self._store().replica(copy.uuid, shard)
                hydrate(blocks, folder, copy.identity, copy.pace, copy.progress)
        except BaseException as error:  # anything: it must reach the operator
            log.exception("shard %d was not copied", shard)
            copy.error = reason(error)

    @ray.method(concurrency_group="disk")
    def equalize(self, order: CatchUpOrder) -> None:
        """Begin to give the replica here what it lacks; ``report`` says how far it is. Nothing
        where it goes on already, Overloaded while so many others do.
        """
        known = self._catch_ups.get((order.uuid, order.shard))
        if known is not None and known.is_running:
            return
        if sum(one.is_running for one in self._catch_ups.values()) >= CATCH_UPS_MAX:
            raise Overloaded(f"{CATCH_UPS_MAX} other replicas of node {self._node} catch up now")
        self._catch_ups[order.uuid, order.shard] = CatchingUp(order)

    # --- new shards that are filled from here ----------------------------------------------

    @ray.method(concurrency_group="disk")
    def follow(self, order: FollowOrder) -> None:
        """Begin; what followed the shard before ends. ``report`` says how far it is."""
        key = order.uuid, order.shard
        if key in self._followings:
            self._followings[key].follower.end()
        sinks: dict[int, list[ActorSink]] = {shard: [] for shard in range(order.shards)}
        for shard, node, actor in order.sinks:
            sinks[shard].append(ActorSink(actor, shard, node))
        source = ActorSource(order.actor, order.shard, self._node)
        following = _Following(order, Follower(source, sinks, Pace(order.rate), order.since))
        following.thread = threading.Thread(target=_follow, args=(following,), daemon=True)
        self._followings[key] = following
        following.thread.start()

    @ray.method(concurrency_group="report")
    def catch_up(self, uuid: str, shard: int, wanted: str) -> None:
        """See ``Follower.catch_up``. Nothing, where there is none."""
        following = self._followings.get((uuid, shard))
        if following is not None:
            following.follower.catch_up(wanted)

    @ray.method(concurrency_group="report")
    def end_following(self, uuid: str) -> None:
        """End all that follow shards of index ``uuid``, or into it."""
        self._end_following(uuid)

    def _end_following(self, uuid: str) -> None:
        for key, following in list(self._followings.items()):
            if uuid in (following.order.uuid, following.order.successor):
                following.follower.end()
                del self._followings[key]


def _follow(following: _Following) -> None:
    lowest_priority()
    try:
        following.follower.run()
    except BaseException as error:  # anything: it must reach the operator
        log.warning("shard %d is not followed: %s", following.order.shard, reason(error))
        following.error = reason(error)
