"""ShardActor: the thin Ray wrapper round one Shard.

It opens its shard in a background thread, in a state machine (LOADING, READY, FAILED with the
reason), because an exception in a Ray constructor leaves the actor dead for good. A FAILED shard
tries again every ``RETRY_S`` seconds, so a disk that appears late heals it.

Its methods run in Ray's own threads, a group of threads for each kind of work, so that none waits
for another kind. An asyncio actor with the same pools handed each call from thread to thread four
times more: two shards asked at once, 2.4-4.7 ms against 1.5-2.5 (2 busy cores).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import faiss
import ray

from shard_worker.backup import ShardCopy, copy_shard
from shard_worker.codes import Calibration
from shard_worker.deadline import Deadline
from shard_worker.errors import DeadlineExceeded, ShardUnavailable
from shard_worker.shard import Shard
from shard_worker.types import (
    Document,
    Documents,
    Outcome,
    ShardIdentity,
    ShardSettings,
    ShardStatus,
)
from shard_worker.wire import (
    pack_candidates,
    pack_documents,
    pack_outcomes,
    unpack_queries,
    unpack_writes,
)

log = logging.getLogger(__name__)

RETRY_S = 5.0
UPKEEP_CHECK_S = 5.0
_THREADS = {"search": 1, "read": 2, "load": 1, "write": 8, "upkeep": 1}
"""Writers wait for each other in the shard, which commits what waits together. Not those of a bulk
load: its batches are large, and would all be in RAM at once."""
SWITCH_INTERVAL_S = 2e-4
"""How long a thread may keep Python's lock from another that wants it. A search asks for it some
hundred times, and Python's 5 ms would make it wait for writes and upkeep each time."""
UPKEEP_AGAIN_S = 60.0
"""After an upkeep that failed."""


@ray.remote(  # type: ignore[call-overload]
    max_restarts=-1, max_task_retries=0, num_cpus=1, concurrency_groups=_THREADS
)
class ShardActor:
    """One shard of one index, in a process of its own. Imports no torch.

    Its FAISS is pinned to one thread: a machine gets one shard per core (DESIGN §5).
    """

    def __init__(
        self,
        folder: str,
        calibration: dict[str, object],
        identity: ShardIdentity,
        settings: ShardSettings | None = None,
    ) -> None:
        """``settings`` None: a bulk load, which groups no rows into lists meanwhile."""
        faiss.omp_set_num_threads(1)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._folder = Path(folder)
        self._calibration = Calibration.from_json(calibration)
        self._identity = identity
        self._settings = settings
        self._shard: Shard | None = None
        self._reason: str | None = None
        self._stopping = threading.Event()
        threading.Thread(target=self._open, name="open", daemon=True).start()

    def _open(self) -> None:
        while self._shard is None and not self._stopping.is_set():
            try:
                settings = self._settings or ShardSettings()
                self._shard = Shard(self._folder, self._calibration, self._identity, settings)
                self._reason = None
            except Exception as error:  # anything: the reason must reach the operator
                self._reason = f"{type(error).__name__}: {error}"
                log.exception("shard %d cannot be opened", self._identity.shard)
                self._stopping.wait(RETRY_S)
        if self._settings is not None:
            self._keep_up()

    def _keep_up(self) -> None:
        """Train, compact and save when it is due, at the lowest priority."""
        _give_way()
        while not self._stopping.wait(UPKEEP_CHECK_S):
            try:
                self._ready().maintain()
            except Exception:  # searches go on
                log.exception("the upkeep of shard %d failed", self._identity.shard)
                self._stopping.wait(UPKEEP_AGAIN_S)

    def _ready(self) -> Shard:
        if self._shard is None:
            state = "loading" if self._reason is None else f"failed: {self._reason}"
            raise ShardUnavailable(f"shard {self._identity.shard} is {state}")
        return self._shard

    @ray.method(concurrency_group="search")
    def search(self, queries: bytes, deadline: Deadline) -> bytes:
        """Packed candidates of each of the packed queries (wire.py).

        Work whose time is over is dropped. The router cancels it as well, where it still can.
        """
        late_s = deadline.late_s()
        if late_s > 0:
            raise DeadlineExceeded(
                f"shard {self._identity.shard} came to this {late_s:.3f} s after its deadline"
            )
        return pack_candidates(self._ready().search(unpack_queries(queries)))

    @ray.method(concurrency_group="read")
    def documents(self, rows: Sequence[int]) -> bytes:
        """Packed documents of ``rows`` (wire.py)."""
        return pack_documents(self._ready().documents(rows))

    @ray.method(concurrency_group="read")
    def positions_of(self, ids: Sequence[str]) -> list[int | None]:
        return self._ready().positions_of(ids)

    @ray.method(concurrency_group="load")
    def append(self, batch: Documents, replace: bool = False) -> list[Outcome]:
        return self._ready().append(batch, replace=replace)

    @ray.method(concurrency_group="write")
    def write(self, operations: bytes) -> bytes:
        """Do packed operations durably; packed outcomes of each (wire.py)."""
        return pack_outcomes(self._ready().write(unpack_writes(operations)))

    @ray.method(concurrency_group="read")
    def document(self, document_id: str) -> Document:
        return self._ready().document(document_id)

    @ray.method(concurrency_group="read")
    def holds(self, ids: Sequence[str], digests: Sequence[bytes]) -> list[bool]:
        return self._ready().holds(ids, digests)

    @ray.method(concurrency_group="upkeep")
    def save_bits(self) -> None:
        self._ready().save_bits()

    @ray.method(concurrency_group="upkeep")
    def train(self) -> None:
        """Group the rows into lists now, for approximate searches; minutes for millions of rows."""
        self._ready().train()

    @ray.method(concurrency_group="upkeep")
    def compact(self) -> bool:
        """Drop dead rows now; minutes for millions of rows. Returns whether there were any."""
        return self._ready().compact()

    @ray.method(concurrency_group="upkeep")
    def backup(self, dest: str) -> ShardCopy:
        """Copy the shard to the backup repository ``dest``, at the lowest priority."""
        _give_way()
        return copy_shard(self._ready(), dest)

    def status(self) -> ShardStatus:
        """Never raises: the state and the reason are the answer."""
        base = ShardStatus(self._identity.shard, "LOADING")
        if self._shard is not None:
            base = self._shard.status()
        elif self._reason is not None:
            base = dataclasses.replace(base, state="FAILED", reason=self._reason)
        return dataclasses.replace(
            base,
            resident_bytes=resident_bytes(),
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
        )

    def close(self) -> None:
        """Release the directory; the process may be killed after this."""
        self._stopping.set()
        if self._shard is not None:
            self._shard.close()
            self._shard = None


def _give_way() -> None:
    """Give this thread, and those that it starts, the lowest priority (Linux)."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def resident_bytes() -> int:
    """RAM of this process that is its own: resident minus file-backed shared pages (Linux)."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
