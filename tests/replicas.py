"""Replicas for tests: real shards, each opened from a copy of one folder, and what befalls them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.errors import BitsiftError
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.codes import Calibration
from bitsift.shard_worker.operations import Operation, Outcome
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import (
    EVERYTHING,
    Found,
    Query,
    Read,
    ShardIdentity,
    ShardStatus,
    Wanted,
)
from bitsift.write_token import NOTHING, Reached
from tests.fakes import UUID, make_shards


def copy_replicas(
    folder: Path,
    units: np.ndarray,
    dimension: int,
    shards: int,
    replicas: int,
    texts: Sequence[str] | None = None,
) -> Calibration:
    """Folders ``folder/REPLICA/shard-SHARD``, all copies of the first, of closed shards.

    Document i of ``units`` has the id ``str(i)``, as with ``make_shards``.
    """
    made, calibration = make_shards(folder / "0", units, dimension, shards, texts)
    for shard in made:
        shard.close()
    for copy in range(1, replicas):
        shutil.copytree(folder / "0", folder / str(copy))
    return calibration


def make_replicas(
    opened: contextlib.ExitStack,
    folder: Path,
    units: np.ndarray,
    dimension: int,
    shards: int,
    replicas: int,
    texts: Sequence[str] | None = None,
) -> list[list[Shard]]:
    """For each shard its replicas, open; ``opened`` closes them."""
    calibration = copy_replicas(folder, units, dimension, shards, replicas, texts)
    found: list[list[Shard]] = []
    for number in range(shards):
        identity = ShardIdentity(UUID, number, shards, dimension, calibration.width)
        found.append([])
        for copy in range(replicas):
            path = folder / str(copy) / f"shard-{number:05d}"
            shard = Shard(path, calibration, identity)
            opened.callback(shard.close)
            found[-1].append(shard)
    return found


class FaultyLink(LocalLink):
    """A real shard whose every call waits for ``delay_s`` and until it is ``running``.

    With ``slow_only`` it is searches alone that wait for ``delay_s``. Where ``error`` is set, it is
    raised instead, ``write_error`` by writes alone, ``error_after`` by a write that was done.
    ``calls`` counts what it was asked by name, and ``cancelled`` what it was told that nobody waits
    for any more.
    """

    def __init__(self, shard: Shard) -> None:
        super().__init__(shard)
        self.shard = shard
        self.delay_s = 0.0
        self.slow_only = False
        self.error: BitsiftError | None = None
        self.error_after: BitsiftError | None = None
        self.write_error: BitsiftError | None = None
        self.running = asyncio.Event()
        self.running.set()
        self.calls: Counter[str] = Counter()
        self.cancelled = 0

    async def _befall(self, name: str) -> None:
        self.calls[name] += 1
        if self.error is not None:
            raise self.error
        if self.delay_s and (name == "search" or not self.slow_only):
            await asyncio.sleep(self.delay_s)
        await self.running.wait()

    async def search(self, queries: Sequence[Query], timeout_s: float) -> Any:
        for query in queries:
            query.deadline.on_cancel(self._left)
        await self._befall("search")
        return await super().search(queries, timeout_s)

    def _left(self) -> None:
        self.cancelled += 1

    async def documents(self, reads: Sequence[Read]) -> Any:
        await self._befall("documents")
        return await super().documents(reads)

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        await self._befall("stored")
        return await super().stored(ids, least, wanted)

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        await self._befall("foresee")
        return await super().foresee(operations)

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        await self._befall("write")
        if self.write_error is not None:
            raise self.write_error
        outcomes = await super().write(operations, epoch, term)
        if self.error_after is not None:
            raise self.error_after
        return outcomes

    async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
        await self._befall("mend")
        if self.write_error is not None:
            raise self.write_error
        return await super().mend(operations, epoch)

    async def seal(self, epoch: int) -> int:
        await self._befall("seal")
        return await super().seal(epoch)

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        await self._befall("held")
        return await super().held(ids, epoch)

    async def changes(self, keys: bytes) -> Sequence[Operation]:
        await self._befall("changes")
        return await super().changes(keys)

    async def newest_version(self) -> int:
        await self._befall("newest_version")
        return await super().newest_version()

    async def status(self) -> ShardStatus:
        await self._befall("status")
        return await super().status()
