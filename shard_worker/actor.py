"""ShardActor: the thin Ray wrapper around one Shard.

It opens its shard in a background thread, in a state machine (LOADING, READY, FAILED with the
reason), because an exception in a Ray constructor leaves the actor dead for good. A FAILED shard
tries again every ``RETRY_S`` seconds, so a disk that appears late heals it.

Its methods run in Ray's own threads, a group of threads for each kind of work, so that none waits
for another kind. An asyncio actor with the same pools handed each call from thread to thread four
times more: two shards asked at once, 2.4-4.7 ms against 1.5-2.5 (2 busy cores).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import ray

from bitsift.errors import BitsiftError, RequestOutcome, ShardUnavailable, Unavailable
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.fencing import TableFence, check_epoch
from bitsift.shard_worker.logs import write_logs
from bitsift.shard_worker.maintenance.backup import copy_shard
from bitsift.shard_worker.open_mark import OpenMark
from bitsift.shard_worker.operations import Operation
from bitsift.shard_worker.own_digest import OwnDigest
from bitsift.shard_worker.own_status import of_this_process
from bitsift.shard_worker.replica_state import ReplicaState
from bitsift.shard_worker.search.precedence import lowest_priority, share_quickly
from bitsift.shard_worker.search.underway import Underway
from bitsift.shard_worker.search_server import Search, SearchServer
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.store.counters import Past
from bitsift.shard_worker.types import FIELDS, ShardIdentity, ShardSettings, ShardStatus, Wanted
from bitsift.shard_worker.wire.envelopes import SearchAddress
from bitsift.shard_worker.wire.frames import UNSTAMPED, Kind, Stamp
from bitsift.shard_worker.wire.listing import pack_listed, unpack_listing
from bitsift.shard_worker.wire.search import (
    pack_answers,
    pack_candidates,
    pack_documents,
    unpack_queries,
    unpack_reads,
)
from bitsift.shard_worker.wire.structures import pack_fact
from bitsift.shard_worker.wire.write import pack_outcomes, pack_writes, unpack_writes
from bitsift.shard_worker.written_since import Mark
from bitsift.write_token import NOTHING, Reached

log = logging.getLogger(__name__)

RETRY_S = 5.0
MAINTENANCE_CHECK_S = 5.0
_THREADS = {
    "search": 1, "exhaustive": 1, "read": 2, "load": 1, "write": 8, "maintenance": 1, "cancel": 1,
    "since": 1, "compare": 2, "list": 1,
}  # fmt: skip
"""Writers wait for each other in the shard, which commits what waits together. Bulk loads write in
a group of one thread: their batches are large, and would all be in RAM at once."""
MAINTENANCE_AGAIN_S = 60.0  # after a failure


@ray.remote(  # type: ignore[call-overload]
    max_restarts=-1, max_task_retries=0, num_cpus=1, concurrency_groups=_THREADS
)
class ShardActor:
    """One shard of one index, in a process of its own. Imports no torch."""

    def __init__(
        self,
        folder: str,
        calibration: dict[str, object],
        identity: ShardIdentity,
        settings: ShardSettings | None = None,
        epoch: int | None = None,
        settings_name: str = "",
    ) -> None:
        """``settings`` None: a bulk load, which builds no lists.

        ``epoch`` is that of a replica's start (fencing.py); None: there is one copy only.
        ``settings_name`` names the settings for whoever compares them with a cluster's spec.
        """
        share_quickly()
        self._folder = Path(folder)
        self._calibration = Calibration.from_json(calibration)
        self._identity = identity
        self._settings = settings
        if settings is not None:
            write_logs(settings.log_format)
        self._epoch, self._settings_name = epoch, settings_name
        self._fence: TableFence | None = None
        self._shard: Shard | None = None
        self._mark: OpenMark | None = None
        self._state: ReplicaState | None = None
        self._reason: str | None = None
        self._underway, self._digest = Underway(), OwnDigest()
        self._one_search, self._stopping = threading.Lock(), threading.Event()
        self._server: SearchServer | None = None
        threading.Thread(target=self._open, name="open", daemon=True).start()

    def _open(self) -> None:
        while self._shard is None and not self._stopping.is_set():
            try:
                self._check_epoch()
                self._fence = TableFence.beside(self._folder)
                settings = self._settings or ShardSettings()
                shard = Shard(self._folder, self._calibration, self._identity, settings)
                self._state, self._shard = ReplicaState(shard), shard
                self._reason = None
                self._say_open()
            except BaseException as error:  # anything: the reason must reach the operator
                self._reason = f"{type(error).__name__}: {error}"
                log.exception("shard %d cannot be opened", self._identity.shard)
                self._stopping.wait(RETRY_S)
        if self._settings is not None:
            self._keep_up()

    def _say_open(self) -> None:
        if self._epoch is not None:
            try:
                self._mark = OpenMark(self._folder)
            except OSError as error:  # it answers all the same; a full disk, for instance
                log.warning("nobody can see that shard %d is open: %s", self._identity.shard, error)

    def _check_epoch(self) -> None:
        if self._epoch is not None:
            check_epoch(self._folder, self._epoch)

    def _keep_up(self) -> None:
        """Train, compact and save when it is due, at the lowest priority.

        An actor in whose place another was started meanwhile closes the shard.
        """
        lowest_priority()
        while not self._stopping.wait(MAINTENANCE_CHECK_S):
            try:
                self._check_epoch()
            except BitsiftError as error:
                log.error("shard %d is closed: %s", self._identity.shard, error)
                self.close()
                self._reason = f"{type(error).__name__}: {error}"
                return
            try:
                self._ready().maintain()
                self._digest_own()
                self._replica().tidy()
            except BaseException:  # searches go on
                log.exception("the maintenance of shard %d failed", self._identity.shard)
                self._stopping.wait(MAINTENANCE_AGAIN_S)

    def _digest_own(self) -> None:
        """For /v1/cluster, where there are others to compare it with."""
        if self._epoch is not None:
            with self._ready().reading() as store:
                self._digest.refresh(store)

    def _ready(self) -> Shard:
        if self._shard is None:
            state = "loading" if self._reason is None else f"failed: {self._reason}"
            said = f"shard {self._identity.shard} is {state}"
            raise ShardUnavailable(said).with_outcome(RequestOutcome.NOT_DONE)
        return self._shard

    def _replica(self) -> ReplicaState:
        self._ready()
        assert self._state is not None  # it is there before the shard is
        return self._state

    def _tables(self) -> TableFence:
        assert self._fence is not None  # it is read before the shard is opened
        return self._fence

    def _stamp(self) -> Stamp:
        """Which opened copy of the shard answers, and the newest version that it knows."""
        shard = self._shard
        return UNSTAMPED if shard is None else Stamp(shard.replica, shard.newest_version)

    @ray.method(concurrency_group="search")
    def search(self, call: str, queries: bytes) -> bytes:
        """Packed candidates of each of the packed queries (wire.py).

        A query whose time is over, or that was given up, has a DeadlineExceeded in its place.
        ``call`` is how the caller names this call in ``cancel``.
        """
        with self._one_search:  # more at once would take a core from another shard
            asked = unpack_queries(queries)
            with self._underway.call(call, [query.deadline for query in asked]):
                return pack_answers(asked, self._ready().answers(asked), self._stamp())

    def searches(self) -> SearchAddress:
        """Where this process takes searches outside Ray (search_server.py).

        Raises Unavailable where it takes none, and ShardUnavailable until it is open.
        """
        self._ready()
        if self._server is None:
            if os.environ.get("RAY_USE_TLS") == "1":
                raise Unavailable("Ray encrypts its calls here, so searches are Ray's, too")
            ports = (self._settings or ShardSettings()).search_ports
            search = cast(Search, self.search)  # Ray's annotations make another method of it
            self._server = SearchServer(ray.util.get_node_ip_address(), ports, search)
        return self._server.address

    @ray.method(concurrency_group="exhaustive")
    def exhaustive(self, call: str, queries: bytes) -> bytes:
        """The same for ``exhaustive`` queries, in a thread of their own, of the lowest priority."""
        lowest_priority()
        asked = unpack_queries(queries)
        with self._underway.call(call, [query.deadline for query in asked]):
            return pack_candidates(self._ready().answers(asked), self._stamp())

    @ray.method(concurrency_group="read")
    def documents(self, call: str, reads: bytes) -> bytes:
        """Packed documents of each of the packed reads (wire.py), or why it failed."""
        asked = unpack_reads(reads)
        with self._underway.call(call, [read.deadline for read in asked]):
            return pack_documents(self._ready().read_each(asked), self._stamp())

    @ray.method(concurrency_group="list")
    def listed(self, call: str, listing: bytes) -> bytes:
        """Packed documents that pass a filter (wire/listing.py)."""
        asked = unpack_listing(listing)
        with self._underway.call(call, [asked.deadline]):
            return pack_listed(self._ready().listed(asked), self._stamp())

    @ray.method(concurrency_group="cancel")
    def cancel(self, call: str, places: Sequence[int]) -> None:
        """Nobody waits any more for what stands at ``places`` of ``call``."""
        self._underway.cancel(call, places)

    @ray.method(concurrency_group="write")
    def write(self, operations: bytes, epoch: int = 0, term: int = 0) -> bytes:
        """Do packed operations durably; packed outcomes of each, stamped with the newest version.

        ``epoch`` is that of the caller's replica table, ``term`` see applied.py. A bulk load, which
        has neither, calls it in the group ``load``.
        """
        return self._write(unpack_writes(operations), epoch, term)

    def _write(self, operations: Sequence[Operation], epoch: int, term: int = 0) -> bytes:
        shard = self._ready()
        with self._tables().writing(epoch):
            outcomes = shard.write(operations)
            shard.applied.advance(term, operations, outcomes)
        return pack_outcomes(outcomes, Stamp(shard.replica, shard.applied.newest))

    @ray.method(concurrency_group="write")
    def mend(self, operations: bytes, epoch: int) -> bytes:
        """``write`` what it lacks and other replicas have, in any order, until ``mended``."""
        lacked = unpack_writes(operations)
        self._replica().begin_mending(lacked)
        return self._write(lacked, epoch)

    @ray.method(concurrency_group="read")
    def mended(self, reached: tuple[int, int] = NOTHING) -> None:
        """It lacks nothing of what other replicas have, and is as far as ``reached``."""
        self._replica().mended(Reached(*reached))

    @ray.method(concurrency_group="read")
    def applied(self) -> tuple[int, int]:
        """How far it is: term and version (applied.py)."""
        return self._replica().applied()

    @ray.method(concurrency_group="read")
    def foresee(self, operations: bytes) -> bytes:
        """What ``write`` would say of packed operations now; nothing is done."""
        asked = unpack_writes(operations, Kind.HINTS)
        return pack_outcomes(self._ready().foresee(asked), self._stamp())

    @ray.method(concurrency_group="read")
    def document(self, document_id: str, least: Any = NOTHING, fields: Any = FIELDS) -> bytes:
        """The packed document with this id; see ``Shard.document``."""
        found = self._ready().document(document_id, Reached(*least), frozenset(fields))
        return pack_documents([[found]], self._stamp())

    @ray.method(concurrency_group="read")
    def stored(self, ids: Any, least: Any, fields: Any, bytes_max: int) -> bytes:
        """The packed documents with these ids; see ``Shard.stored``."""
        found = self._ready().stored(ids, Reached(*least), Wanted(frozenset(fields), bytes_max))
        return pack_documents([found], self._stamp())

    @ray.method(concurrency_group="read")
    def seal(self, epoch: int, is_new: bool = False) -> int:
        """The newest version on the disk; writes under older tables are refused from now on. A
        controller says that its epoch ``is_new`` (fencing.py).
        """
        state = self._replica()
        self._tables().admit(epoch, is_new=is_new)
        return state.newest_stored()

    @ray.method(concurrency_group="read")
    def version(self, document_id: str, epoch: int) -> int:
        """As ``held`` of one, without a sign: routers of earlier releases ask for it."""
        return abs(int(cast(Any, self.held)([document_id], epoch)[0]))

    @ray.method(concurrency_group="read")
    def held(self, ids: Sequence[str], epoch: int) -> list[int]:
        """See ``ReplicaState.held``; under a table of ``epoch``."""
        state = self._replica()
        self._tables().check(epoch)
        return state.held(ids)

    @ray.method(concurrency_group="compare")
    def facts(self) -> bytes:
        """Packed ReplicaFacts, to be compared with other replicas."""
        return pack_fact(self._replica().facts(), self._stamp())

    @ray.method(concurrency_group="compare")
    def digests(self, bits: int, since: int) -> bytes:
        return self._replica().digests(bits, since)

    @ray.method(concurrency_group="compare")
    def entries(self, bits: int, since: int, ranges: bytes) -> bytes:
        """Packed Entries."""
        return pack_fact(self._replica().entries(bits, since, ranges), self._stamp())

    @ray.method(concurrency_group="compare")
    def changes(self, keys: bytes) -> bytes:
        """Packed operations, for a replica that lacks them."""
        return pack_writes(self._replica().changes(keys), self._stamp())

    @ray.method(concurrency_group="since")
    def check_rows(self, first: int) -> bytes:
        """A packed RowCheck (maintenance/own_rows.py), at the lowest priority."""
        lowest_priority()
        return pack_fact(self._replica().check_rows(first), self._stamp())

    @ray.method(concurrency_group="write")
    def bury(self, generation: int, rows: Sequence[int], epoch: int) -> int:
        """Let damaged rows die, which ``mend`` is about to replace; returns how many lived."""
        state = self._replica()
        with self._tables().writing(epoch):
            return state.bury(generation, rows)

    @ray.method(concurrency_group="maintenance")
    def save_bits(self) -> None:
        self._ready().save_bits()

    @ray.method(concurrency_group="maintenance")
    def train(self) -> None:
        """Group the rows into lists now, for approximate searches; minutes for millions of rows."""
        self._ready().train()

    @ray.method(concurrency_group="maintenance")
    def compact(self) -> bool:
        """Drop deleted rows now, in minutes for millions; returns whether there were any."""
        return self._ready().compact()

    @ray.method(concurrency_group="maintenance")
    def backup(self, dest: str) -> bytes:
        """Copy the shard to the backup repository ``dest``, at the lowest priority."""
        lowest_priority()
        return pack_fact(copy_shard(self._ready(), dest), self._stamp())

    @ray.method(concurrency_group="since")
    def written_since(self, since: int, mark: Mark | None) -> tuple[bytes, Mark, int]:
        """See ``Shard.written_since``: packed operations, where the pass is then, the documents."""
        lowest_priority()
        found = self._ready().written_since(since, mark)
        return pack_writes(found.operations, self._stamp()), found.mark, found.documents

    @ray.method(concurrency_group="read")
    def past(self) -> Past:
        """See ``ReplicaState.past``."""
        return self._replica().past()

    @ray.method(concurrency_group="read")
    def refuse_writes(self, seconds: float) -> None:
        """Refuse writes for so long; what was being written has ended by then."""
        self._ready().refuse_writes(seconds)

    def status(self) -> bytes:
        """A packed ShardStatus. Never raises: the state and the reason are the answer."""
        base = ShardStatus(self._identity.shard, "LOADING")
        if self._shard is not None:
            base = self._shard.status()
            with contextlib.suppress(BitsiftError), self._shard.reading() as store:
                base = dataclasses.replace(base, digest=self._digest.of(store))
        elif self._reason is not None:
            base = dataclasses.replace(base, state="FAILED", reason=self._reason)
        node = ray.get_runtime_context().get_node_id()
        return pack_fact(of_this_process(base, node, self._settings_name), self._stamp())

    def close(self) -> None:
        """Release the directory; the process may be killed after this."""
        self._stopping.set()
        if self._server is not None:
            self._server.close()
        if self._mark is not None:
            self._mark.release()
        self._mark = None
        if self._shard is not None:
            self._shard.close()
            self._shard = None
