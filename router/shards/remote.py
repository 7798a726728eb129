"""A ShardActor seen as a shard, a WriterActor as a writer. Whatever a call raises leaves here as a
BitsiftError that says what became of the call (ray_calls.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bitsift.errors import BitsiftError, Overloaded, Unavailable
from bitsift.options import Mode
from bitsift.router import tracing
from bitsift.router.shards.ray_calls import WRITER, Callee, asked, called, put, sent, shard_callee
from bitsift.router.shards.remote_calls import named_call
from bitsift.router.shards.search_channel import NoChannel, SearchChannel
from bitsift.router.write_gate import WriteGate
from bitsift.shard_worker.inventory import Entries, ReplicaFacts
from bitsift.shard_worker.logs import REQUEST_ID
from bitsift.shard_worker.maintenance.backup import ShardCopy
from bitsift.shard_worker.maintenance.own_rows import RowCheck
from bitsift.shard_worker.operations import Operation, Outcome, statuses
from bitsift.shard_worker.search.listing import Listed, Listing
from bitsift.shard_worker.types import (
    EVERYTHING,
    Candidates,
    Found,
    Query,
    Read,
    ShardStatus,
    Wanted,
)
from bitsift.shard_worker.wire.envelopes import SearchAddress
from bitsift.shard_worker.wire.frames import Kind, head_of
from bitsift.shard_worker.wire.listing import pack_listing, unpack_listed
from bitsift.shard_worker.wire.search import (
    pack_queries,
    pack_reads,
    unpack_candidates,
    unpack_documents,
)
from bitsift.shard_worker.wire.structures import unpack_fact
from bitsift.shard_worker.wire.write import pack_writes, unpack_outcomes, unpack_writes
from bitsift.write_status import WriteStatus
from bitsift.write_token import NOTHING, Reached

T = TypeVar("T")
LOADED_TIMEOUT_S = 3_600.0
"""For a batch of a bulk load to be durable, behind all that other processes have sent."""
INLINE_BYTES_MAX = 64 << 10
"""Ray sends arguments up to 100 KiB along with the call. Larger ones are put into its object store
in a thread: copying them would stop the event loop."""
UNPACKED_BYTES_MAX = 128 << 10
"""What is unpacked in the event loop: 1 ms. A batch of questions takes several times as long."""


class RemoteLink:
    """One shard behind a Ray actor handle. Calls are at most once; deadlines are the caller's."""

    def __init__(self, shard: int, actor: Any, node: str = "") -> None:
        """``node`` is where its replica is, for messages; "" where there is one machine only."""
        self._callee = shard_callee(shard, node)
        self._actor = actor
        self.reached = NOTHING
        has_one = hasattr(actor, "searches")  # a shard of an earlier release has none
        self._channel = SearchChannel(self._callee, self._find) if has_one else None

    async def search(
        self, queries: Sequence[Query], timeout_s: float
    ) -> Sequence[Candidates | BitsiftError]:
        ask = self._exhaustive if queries[0].options.mode is Mode.EXHAUSTIVE else self._search
        with named_call([query.deadline for query in queries], self._cancel) as call:
            packed = await ask(call, pack_queries(queries))
        return await _unpacked(unpack_candidates, packed)

    async def _search(self, call: str, frame: bytes) -> bytes:
        if self._channel is not None:
            with contextlib.suppress(NoChannel):
                return await self._channel.search(call, frame)
        return bytes(await self._ask("search", call, frame))

    async def _exhaustive(self, call: str, frame: bytes) -> bytes:
        return bytes(await self._ask("exhaustive", call, frame))

    async def _find(self) -> SearchAddress:
        return SearchAddress(*await self._ask("searches"))

    async def documents(self, reads: Sequence[Read]) -> Sequence[list[Found] | BitsiftError]:
        with named_call([read.deadline for read in reads], self._cancel) as call:
            packed = await self._ask("documents", call, pack_reads(reads))
        return await _unpacked(unpack_documents, packed)

    async def listed(self, listing: Listing) -> Listed:
        self._check_has("listed", "lists no documents")
        with named_call([listing.deadline], self._cancel) as call:
            packed = await self._ask("listed", call, pack_listing(listing))
        found = await _unpacked(unpack_listed, packed)
        if len(found.facets) != len(listing.facets):
            raise Unavailable(f"{self._callee.name} is of a release without facets: update it")
        if listing.sort and len(found.places) != len(found.documents):
            raise Unavailable(f"{self._callee.name} is of a release that does not sort: update it")
        return found

    def _cancel(self, call: str, places: list[int]) -> None:
        with contextlib.suppress(Overloaded):  # then it costs to its deadline
            sent(self._actor.cancel, self._callee, call, places)

    async def stored(
        self, ids: Sequence[str], least: Reached = NOTHING, wanted: Wanted = EVERYTHING
    ) -> Sequence[Found]:
        self._check_has("stored", "gives no documents with their versions")
        fields = sorted(wanted.fields)
        packed = await self._ask("stored", list(ids), tuple(least), fields, wanted.bytes_max)
        (found,) = await _unpacked(unpack_documents, packed)
        assert isinstance(found, list), found
        return found

    def _check_has(self, method: str, said: str) -> None:
        """Raises Unavailable where the shard is of an earlier release."""
        if not hasattr(self._actor, method):
            raise Unavailable(f"{self._callee.name} is of a release that {said}: update it")

    async def foresee(self, operations: Sequence[Operation]) -> Sequence[Outcome]:
        data = pack_writes(operations, kind=Kind.HINTS)  # small: no texts
        return unpack_outcomes(await self._ask("foresee", data))

    async def write(
        self, operations: Sequence[Operation], epoch: int = 0, term: int = 0
    ) -> Sequence[Outcome]:
        data = await asyncio.to_thread(pack_writes, operations)
        said = await self._ask("write", data, *([epoch, term] if epoch else []))
        outcomes = unpack_outcomes(said)
        written = Reached(version=head_of(said, Kind.OUTCOMES).stamp.clock)
        self.reached = max(self.reached, written)
        return outcomes

    def load(self, operation: Operation) -> Loading:
        """``write`` for a bulk load, which has no event loop: under way when this returns.

        Its calls have a thread of their own in the shard.
        """
        method = self._actor.write.options(concurrency_group="load")
        return Loading(sent(method, self._callee, pack_writes([operation])), self._callee)

    async def newest_version(self) -> int:
        return head_of(await self._ask("status"), Kind.FACTS).stamp.clock

    async def seal(self, epoch: int) -> int:
        return int(await self._ask("seal", epoch))

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        self._check_has("held", "decides no conditions of writes")
        return list(await self._ask("held", list(ids), epoch))

    async def facts(self) -> ReplicaFacts:
        return unpack_fact(await self._ask("facts"), ReplicaFacts)

    async def digests(self, bits: int, since: int) -> bytes:
        return bytes(await self._ask("digests", bits, since))

    async def entries(self, bits: int, since: int, ranges: bytes) -> Entries:
        return unpack_fact(await self._ask("entries", bits, since, ranges), Entries)

    async def mend(self, operations: Sequence[Operation], epoch: int) -> Sequence[Outcome]:
        data = await asyncio.to_thread(pack_writes, operations)
        return unpack_outcomes(await self._ask("mend", data, epoch))

    async def mended(self, reached: Reached = NOTHING) -> None:
        await self._ask("mended", tuple(reached))

    async def applied(self) -> Reached:
        return Reached(*await self._ask("applied"))

    async def check_rows(self, first: int) -> RowCheck:
        return unpack_fact(await self._ask("check_rows", first), RowCheck)

    async def bury(self, generation: int, rows: Sequence[int], epoch: int) -> int:
        return int(await self._ask("bury", generation, list(rows), epoch))

    async def changes(self, keys: bytes) -> Sequence[Operation]:
        return await asyncio.to_thread(unpack_writes, await self._ask("changes", keys))

    async def backup(self, dest: str) -> ShardCopy:
        return unpack_fact(await self._ask("backup", dest), ShardCopy)

    async def compact(self) -> bool:
        return bool(await self._ask("compact"))

    async def status(self) -> ShardStatus:
        return unpack_fact(await self._ask("status"), ShardStatus)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        return await called(getattr(self._actor, method), self._callee, *arguments)


@dataclass(frozen=True, slots=True)
class Loading:
    """One operation of a bulk load, under way."""

    _reference: Any
    _callee: Callee

    def statuses(self) -> list[WriteStatus]:
        """Those of its documents, when they are durable; waits. Raises BitsiftErrors."""
        (found,) = statuses(unpack_outcomes(asked(self._reference, self._callee, LOADED_TIMEOUT_S)))
        return found


class RemoteWriter:
    """The WriteService of a WriterActor. Calls wait while the ``gate`` is held: nobody writes."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self.gate = WriteGate()

    def hand_over(self, actor: Any) -> None:
        """Another actor writes from now on; calls under way end where they are. The same one ends
        no hold: it is still to be ended.
        """
        if actor != self._actor:
            self._actor = actor
            self.gate.release()

    async def upsert(self, body: bytes) -> bytes:
        return bytes(await self._ask("upsert", body))

    async def upsert_lines(
        self, block: bytes, first_line: int, only_errors: bool
    ) -> tuple[bytes, dict[str, int], str | None]:
        answer: tuple[bytes, dict[str, int], str | None] = await self._ask(
            "upsert_lines", block, first_line, only_errors
        )
        return answer

    async def delete(self, body: bytes) -> bytes:
        return bytes(await self._ask("delete", body))

    async def patch(self, body: bytes) -> bytes:
        return bytes(await self._ask("patch", body))

    async def _ask(self, method: str, data: bytes, *arguments: Any) -> Any:
        with tracing.span("write", operation=method, bytes=len(data)):
            sendable = data if len(data) <= INLINE_BYTES_MAX else await put(data, WRITER)
            async with self.gate.turn():
                request_id = REQUEST_ID.get()
                if request_id and hasattr(self._actor, "for_request"):  # earlier ones have none
                    told = request_id, method, sendable, *arguments
                    return await called(self._actor.for_request, WRITER, *told)
                return await called(getattr(self._actor, method), WRITER, sendable, *arguments)


async def _unpacked(unpack: Callable[[bytes], T], data: bytes) -> T:
    """What ``unpack`` makes of ``data``; of a large one in a thread, with which the loop takes
    turns.
    """
    if len(data) <= UNPACKED_BYTES_MAX:
        return unpack(data)
    return await asyncio.to_thread(unpack, data)
