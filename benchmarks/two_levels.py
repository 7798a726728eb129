"""A router between a router and its shards: of their lists it makes one, as a shard would send it.

For the router above it is a shard (an actor that a ``RemoteLink`` calls), whose rows are numbered
``shard * ROWS_MAX + row``. It runs the product's own fan-out and merging.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks.simulated_shards import Method
from bitsift.errors import BitsiftError
from bitsift.router.merge import ROWS_MAX, merge
from bitsift.router.shards.fanout import FanOut
from bitsift.shard_worker.types import (
    Candidates,
    Found,
    Message,
    Origin,
    Query,
    Read,
    spare_hits,
)
from bitsift.shard_worker.wire.search import (
    pack_candidates,
    pack_documents,
    unpack_queries,
    unpack_reads,
)


class MiddleRouter:
    """The router of ``shards``, number ``group`` of those that the router above asks.

    ``numbers`` are those of its shards in the index, in the order of the fan-out.
    """

    def __init__(self, group: int, shards: FanOut, numbers: Sequence[int], dimension: int) -> None:
        self._group = group
        self._shards = shards
        self._places = {number: place for place, number in enumerate(numbers)}
        self._dimension = dimension
        self._origins: dict[int, Origin] = {}

    @property
    def search(self) -> Method:
        return Method(self.searched)

    @property
    def documents(self) -> Method:
        return Method(self.read)

    @property
    def cancel(self) -> Method:
        return Method(lambda *_: None)

    async def searched(self, _: str, frame: bytes) -> bytes:
        """As a shard's actor: packed queries in, packed candidates out."""
        queries = unpack_queries(frame)
        return pack_candidates(await asyncio.gather(*map(self._one_list, queries)))

    async def _one_list(self, query: Query) -> Candidates:
        gathered, _ = await self._shards.search(dataclasses.replace(query, message=Message()))
        self._origins |= {part.shard: part.origin for part in gathered}
        ranking = merge(gathered, self._dimension)
        rows = ranking.shards * ROWS_MAX + ranking.rows
        sent = {
            part.shard * ROWS_MAX + row: document
            for part in gathered
            for row, document in part.documents.items()
        }
        likely = rows[: query.documents_due].tolist()
        best = Candidates(
            shard=self._group,
            origin=Origin(1, 0),
            rows=rows,
            distances=ranking.distances,
            hamming_ranks=ranking.hamming_ranks,
            estimates=(ranking.asymmetric * np.sqrt(self._dimension)).astype(np.float32),
            scores=ranking.scores,
            codes=np.empty((len(ranking), 0), np.int8),
            documents={row: sent[row] for row in likely if row in sent},
        )
        return best.leading(spare_hits(query.options.depth))

    async def read(self, _: str, frame: bytes) -> bytes:
        """As a shard's actor: packed reads in, packed documents out."""
        reads = unpack_reads(frame)
        return pack_documents(await asyncio.gather(*map(self._documents, reads)))

    async def _documents(self, read: Read) -> list[Found]:
        rows: dict[int, list[int]] = {}
        for merged in read.rows:
            rows.setdefault(merged // ROWS_MAX, []).append(merged % ROWS_MAX)
        fetched = await self._shards.documents(
            {
                self._places[shard]: Read(
                    self._origins[shard], of_shard, read.wanted, read.deadline
                )
                for shard, of_shard in rows.items()
            }
        )
        found = fetched.documents | fetched.unread
        lost = BitsiftError(f"not sent by its shard ({fetched.failures})")
        keys = [divmod(merged, ROWS_MAX) for merged in read.rows]
        return [found.get((self._places[shard], row), lost) for shard, row in keys]
