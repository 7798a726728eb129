"""ShardActor: the thin Ray wrapper round one Shard.

It opens its shard in a background thread, in a state machine (LOADING, READY, FAILED with the
reason), because an exception in a Ray constructor leaves the actor dead for good. A FAILED shard
tries again every ``RETRY_S`` seconds, so a disk that appears late heals it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import faiss
import ray

from shard_worker.codes import Calibration
from shard_worker.errors import DeadlineExceeded, ShardUnavailable
from shard_worker.shard import Shard
from shard_worker.types import (
    Documents,
    Outcome,
    ShardIdentity,
    ShardStatus,
)
from shard_worker.wire import pack_candidates, pack_documents, unpack_queries

log = logging.getLogger(__name__)

RETRY_S = 5.0
T = TypeVar("T")


@ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=1)
class ShardActor:
    """One shard of one index, in a process of its own. Imports no torch.

    Its FAISS is pinned to one thread: a machine gets one shard per core (DESIGN §5).
    """

    def __init__(
        self, folder: str, calibration: dict[str, object], identity: ShardIdentity
    ) -> None:
        faiss.omp_set_num_threads(1)
        self._folder = Path(folder)
        self._calibration = Calibration.from_json(calibration)
        self._identity = identity
        self._shard: Shard | None = None
        self._reason: str | None = None
        self._stopping = threading.Event()
        self._search_pool = ThreadPoolExecutor(1, "search")
        self._read_pool = ThreadPoolExecutor(2, "read")
        self._write_pool = ThreadPoolExecutor(1, "write")
        threading.Thread(target=self._open, name="open", daemon=True).start()

    def _open(self) -> None:
        while self._shard is None and not self._stopping.is_set():
            try:
                self._shard = Shard(self._folder, self._calibration, self._identity)
                self._reason = None
            except Exception as error:  # anything: the reason must reach the operator
                self._reason = f"{type(error).__name__}: {error}"
                log.exception("shard %d cannot be opened", self._identity.shard)
                self._stopping.wait(RETRY_S)

    def _ready(self) -> Shard:
        if self._shard is None:
            state = "loading" if self._reason is None else f"failed: {self._reason}"
            raise ShardUnavailable(f"shard {self._identity.shard} is {state}")
        return self._shard

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def search(self, queries: bytes, timeout_s: float) -> bytes:
        """Packed candidates of each of the packed queries (wire.py).

        Work still queued when its time is over is dropped.
        """
        shard, deadline = self._ready(), time.monotonic() + timeout_s

        def work() -> bytes:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"shard {self._identity.shard} was busy for longer than {timeout_s:.3f} s"
                )
            return pack_candidates(shard.search(unpack_queries(queries)))

        return await self._run(self._search_pool, work)

    async def documents(self, rows: Sequence[int]) -> bytes:
        """Packed documents of ``rows`` (wire.py)."""
        shard = self._ready()
        return await self._run(self._read_pool, lambda: pack_documents(shard.documents(rows)))

    async def positions_of(self, ids: Sequence[str]) -> list[int | None]:
        return await self._run(self._read_pool, functools.partial(self._ready().positions_of, ids))

    async def append(self, batch: Documents, replace: bool = False) -> list[Outcome]:
        work = functools.partial(self._ready().append, batch, replace=replace)
        return await self._run(self._write_pool, work)

    async def save_bits(self) -> None:
        await self._run(self._write_pool, self._ready().save_bits)

    async def status(self) -> ShardStatus:
        """Never raises: the state and the reason are the answer."""
        base = ShardStatus(self._identity.shard, "LOADING")
        if self._shard is not None:
            base = await self._run(self._read_pool, self._shard.status)
        elif self._reason is not None:
            base = dataclasses.replace(base, state="FAILED", reason=self._reason)
        return dataclasses.replace(
            base,
            resident_bytes=resident_bytes(),
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
        )

    async def close(self) -> None:
        """Release the directory; the process may be killed after this."""
        self._stopping.set()
        if self._shard is not None:
            self._shard.close()
            self._shard = None


def resident_bytes() -> int:
    """RAM of this process that is its own: resident minus file-backed shared pages (Linux)."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
