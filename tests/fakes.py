"""Named stand-ins for what a test cannot wait for: never for what it tests."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitsift.errors import BitsiftError
from bitsift.router.description import IndexDescription, ModelSpec
from bitsift.router.service import SearchService
from bitsift.router.shadow.settings import ShadowSettings
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.local import LocalLink
from bitsift.router.shards.placement import Placement
from bitsift.router.write.service import WriteService
from bitsift.shard_worker.codes import Calibration, normalize
from bitsift.shard_worker.maintenance.backup import ShardCopy
from bitsift.shard_worker.operations import Insert, Operation, Outcome
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.shard_worker.shard import Shard
from bitsift.shard_worker.types import (
    EVERYTHING,
    Candidates,
    Found,
    Query,
    Read,
    ShardIdentity,
    ShardStatus,
    Wanted,
)
from bitsift.write_status import WriteStatus
from bitsift.write_token import NOTHING, Reached
from tests.writing import written

UUID = "00000000-0000-0000-0000-000000000001"
HASH_MODEL = ModelSpec("hash", "0", 64, "", "", None)


class HashEncoder:
    """Texts to unit vectors that depend on nothing but the text: an encoder without a model."""

    backend = "hash"

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
            rows.append(np.random.default_rng(seed).standard_normal(self.dimension))
        return normalize(np.array(rows, dtype=np.float32), self.dimension)[:, : self.dimension]

    encode_documents = encode_queries


class BrokenLink:
    """A shard that raises ``error`` on every call."""

    reached = NOTHING

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        self.calls += 1
        raise self.error

    async def documents(self, reads: Sequence[Read]) -> list[Any]:
        self.calls += 1
        raise self.error

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        raise self.error

    async def listed(self, listing: Listing) -> Listed:
        raise self.error

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        raise self.error

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self.calls += 1
        raise self.error

    async def status(self) -> ShardStatus:
        raise self.error


class FrozenLink:
    """A shard that never answers. ``was_reached`` proves that it was asked."""

    was_reached = False
    reached = NOTHING

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        self.was_reached = True
        await asyncio.Event().wait()
        raise AssertionError

    async def documents(self, reads: Sequence[Read]) -> list[Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        await asyncio.Event().wait()
        raise AssertionError

    async def listed(self, listing: Listing) -> Listed:
        await asyncio.Event().wait()
        raise AssertionError

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        return [[WriteStatus.MISSING] * len(operation) for operation in operations]

    async def newest_version(self) -> int:
        await asyncio.Event().wait()
        raise AssertionError

    async def backup(self, dest: str) -> ShardCopy:
        await asyncio.Event().wait()
        raise AssertionError

    async def compact(self) -> bool:
        await asyncio.Event().wait()
        raise AssertionError

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        self.was_reached = True
        await asyncio.Event().wait()
        raise AssertionError

    async def status(self) -> ShardStatus:
        await asyncio.Event().wait()
        raise AssertionError


class LateTextsLink(LocalLink):
    """A real shard whose documents cannot be read."""

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> list[Candidates | BitsiftError]:
        found = await super().search(queries, timeout_s)
        return [
            one if isinstance(one, BitsiftError) else dataclasses.replace(one, documents={})
            for one in found
        ]

    async def documents(self, reads: Sequence[Read]) -> list[Any]:
        raise BitsiftError("the disk is gone")


def make_shards(
    folder: Path, units: np.ndarray, dimension: int, shards: int, texts: Sequence[str] | None = None
) -> tuple[list[Shard], Calibration]:
    """Real shards over ``units`` (n, padded dimension); document i has the id ``str(i)``."""
    calibration = Calibration.from_sample(
        units if len(units) else HashEncoder(dimension).encode_queries(["nothing"]), dimension
    )
    codes = calibration.quantize(units)[0] if len(units) else np.empty((0, units.shape[1]), "i1")
    parts = Placement(shards).by_owner([str(i) for i in range(len(units))])
    opened = []
    for number in range(shards):
        identity = ShardIdentity(UUID, number, shards, dimension, calibration.width)
        path = folder / f"shard-{number:05d}"
        Shard.create(path, identity)
        shard = Shard(path, calibration, identity)
        mine = parts[number].tolist() if number in parts else []
        written(
            shard,
            Insert(
                ids=[str(i) for i in mine],
                titles=[f"title {i}" for i in mine],
                texts=[texts[i] if texts else f"text {i}" for i in mine],
                metadata=[f'{{"number":{i}}}' for i in mine],
                positions=mine,
                codes=codes[mine],
            ),
        )
        opened.append(shard)
    return opened, calibration


def make_description(
    shards: int, calibration: Calibration, *, has_model: bool = True
) -> IndexDescription:
    """Of an index of ``shards`` shards, whose model is a HashEncoder."""
    return IndexDescription(
        name="test",
        uuid=UUID,
        created="2026-01-01T00:00:00+00:00",
        shards=shards,
        calibration=calibration,
        model=HASH_MODEL if has_model else None,
        examples=("one", "two"),
    )


def make_service(
    links: Sequence[Any],
    calibration: Calibration,
    shadow: ShadowSettings = ShadowSettings(),  # noqa: B008 (frozen)
) -> SearchService:
    """A service over ``links`` with a HashEncoder."""
    description, encoder = (
        make_description(len(links), calibration),
        HashEncoder(calibration.dimension),
    )
    return SearchService(description, FanOut(links), encoder, shadow=shadow)


def make_writer(
    links: Sequence[Any], calibration: Calibration, encoder: Any = None, *, has_model: bool = True
) -> WriteService:
    """A writer over ``links`` with ``encoder``, or a HashEncoder."""
    description = make_description(len(links), calibration, has_model=has_model)
    used = encoder or HashEncoder(calibration.dimension)
    return WriteService(description, links, (lambda: used) if has_model else None)
