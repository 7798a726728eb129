"""Ask every shard at once, under one deadline. What does not come back becomes coverage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from router.answer import Coverage, ShardFailure
from router.batching import Batcher
from shard_worker.backup import ShardCopy, copy_shard
from shard_worker.codes import shard_of
from shard_worker.errors import BitsiftError, Corrupt, DeadlineExceeded
from shard_worker.shard import Shard
from shard_worker.types import Candidates, Document, Operation, Outcome, Query, ShardStatus

QUERIES_PER_CALL_MAX = 64
READS_PER_CALL_MAX = 64
"""Questions whose documents are asked of a shard together."""
Found = Document | BitsiftError
T = TypeVar("T")


class ShardLink(Protocol):
    """One shard as the router sees it. Failures are BitsiftErrors."""

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]: ...

    async def documents(self, rows: Sequence[int]) -> list[Found]: ...

    async def document(self, document_id: str) -> Document: ...

    async def holds(self, ids: Sequence[str], digests: Sequence[bytes]) -> list[bool]: ...

    async def write(self, operations: Sequence[Operation]) -> list[list[Outcome]]: ...

    async def backup(self, dest: str) -> ShardCopy: ...

    async def compact(self) -> bool: ...

    async def status(self) -> ShardStatus: ...


class LocalLink:
    """A plain Shard in this process, searched in worker threads."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Candidates]:
        return await asyncio.to_thread(self._shard.search, queries)

    async def documents(self, rows: Sequence[int]) -> list[Found]:
        return await asyncio.to_thread(self._shard.documents, rows)

    async def document(self, document_id: str) -> Document:
        return await asyncio.to_thread(self._shard.document, document_id)

    async def holds(self, ids: Sequence[str], digests: Sequence[bytes]) -> list[bool]:
        return await asyncio.to_thread(self._shard.holds, ids, digests)

    async def write(self, operations: Sequence[Operation]) -> list[list[Outcome]]:
        return await asyncio.to_thread(self._shard.write, operations)

    async def backup(self, dest: str) -> ShardCopy:
        return await asyncio.to_thread(copy_shard, self._shard, dest)

    async def compact(self) -> bool:
        return await asyncio.to_thread(self._shard.compact)

    async def status(self) -> ShardStatus:
        return await asyncio.to_thread(self._shard.status)


@dataclass(frozen=True, slots=True)
class _Ask:
    query: Query
    deadline: float


@dataclass(frozen=True, slots=True)
class _Read:
    rows: Sequence[int]
    deadline: float


class FanOut:
    """All shards of one index. Deadlines are absolute, on this process's monotonic clock."""

    def __init__(self, links: Sequence[ShardLink]) -> None:
        self._links = tuple(links)
        self._batchers = [
            Batcher(self._searcher(link), QUERIES_PER_CALL_MAX) for link in self._links
        ]
        self._readers = [Batcher(self._reader(link), READS_PER_CALL_MAX) for link in self._links]

    def __len__(self) -> int:
        return len(self._links)

    @staticmethod
    def _searcher(link: ShardLink) -> Callable[[list[_Ask]], Awaitable[list[Candidates]]]:
        async def search(asks: list[_Ask]) -> list[Candidates]:
            timeout_s = max(ask.deadline for ask in asks) - time.monotonic()
            async with asyncio.timeout(timeout_s):
                return await link.search([ask.query for ask in asks], timeout_s)

        return search

    @staticmethod
    def _reader(link: ShardLink) -> Callable[[list[_Read]], Awaitable[list[list[Found]]]]:
        async def read(asks: list[_Read]) -> list[list[Found]]:
            rows = [row for ask in asks for row in ask.rows]
            async with asyncio.timeout(max(ask.deadline for ask in asks) - time.monotonic()):
                found = iter(await link.documents(rows))
            return [[next(found) for _ in ask.rows] for ask in asks]

        return read

    async def search(self, query: Query, deadline: float) -> tuple[list[Candidates], Coverage]:
        """Candidates of the shards that answered, in shard order, and the coverage."""
        asks = [batcher.enqueue(_Ask(query, deadline)) for batcher in self._batchers]
        found, failures = await _gather(dict(enumerate(asks)), deadline)
        for shard, candidates in found.items():
            if candidates.corrupt:
                message = f"{candidates.corrupt} rows left out: their checksums failed"
                failures.append(ShardFailure(shard, "ChecksumMismatch", message))
        return [found[shard] for shard in sorted(found)], Coverage(
            len(self), len(found), tuple(sorted(failures, key=lambda f: f.shard))
        )

    async def documents(
        self, rows: Mapping[int, Sequence[int]], deadline: float
    ) -> tuple[dict[tuple[int, int], Document], list[ShardFailure]]:
        """Documents by (shard, row) for ``rows`` per shard; what is missing is a failure."""
        asks = {
            shard: self._readers[shard].enqueue(_Read(wanted, deadline))
            for shard, wanted in rows.items()
        }
        answers, failures = await _gather(asks, deadline)
        documents = {}
        for shard, found in answers.items():
            for row, document in zip(rows[shard], found, strict=True):
                if isinstance(document, Document):
                    documents[shard, row] = document
                else:
                    failures.append(_failure(shard, document))
        return documents, failures

    async def document(self, document_id: str, timeout_s: float) -> tuple[int, Document]:
        """The shard that owns the id, and the document; raises what the shard does, NotFound…"""
        shard = shard_of(document_id, len(self))
        try:
            async with asyncio.timeout(timeout_s):
                return shard, await self._links[shard].document(document_id)
        except TimeoutError as error:
            raise DeadlineExceeded(f"shard {shard} did not answer in {timeout_s:.3f} s") from error

    async def of_each(self, call: Callable[[ShardLink], Awaitable[T]]) -> list[T]:
        """What ``call`` gives for every shard, without a deadline.

        Raises the first error, when all have ended.
        """
        found = await asyncio.gather(*map(call, self._links), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return [result for result in found if not isinstance(result, BaseException)]

    async def statuses(self, timeout_s: float) -> list[ShardStatus]:
        """The state of every shard; one that does not say is UNREACHABLE."""
        asks = {shard: link.status() for shard, link in enumerate(self._links)}
        found, failures = await _gather(asks, time.monotonic() + timeout_s)
        silent = [ShardStatus(f.shard, "UNREACHABLE", f.message) for f in failures]
        return sorted([*found.values(), *silent], key=lambda status: status.shard)


async def _gather(
    asks: Mapping[int, Awaitable[T]], deadline: float
) -> tuple[dict[int, T], list[ShardFailure]]:
    """Await all at once until ``deadline``; BitsiftErrors and lateness become failures."""
    tasks = {shard: asyncio.ensure_future(ask) for shard, ask in asks.items()}
    if not tasks:
        return {}, []
    budget_s = max(0.0, deadline - time.monotonic())
    try:
        await asyncio.wait(tasks.values(), timeout=budget_s)
    finally:
        late = {shard for shard, task in tasks.items() if not task.done()}
        for shard in late:
            tasks[shard].cancel()
    found: dict[int, T] = {}
    failures = []
    for shard, task in tasks.items():
        if shard in late or isinstance(task.exception(), TimeoutError):
            late_error = DeadlineExceeded(f"shard {shard} did not answer in {budget_s:.3f} s")
            failures.append(_failure(shard, late_error))
            continue
        error = task.exception()
        if error is None:
            found[shard] = task.result()
        elif isinstance(error, BitsiftError):
            failures.append(_failure(shard, error))
        elif isinstance(error, Exception):
            message = f"shard {shard} failed unexpectedly: {type(error).__name__}: {error}"
            failures.append(_failure(shard, Corrupt(message)))
        else:
            raise error
    return found, failures


def _failure(shard: int, error: BitsiftError) -> ShardFailure:
    return ShardFailure(shard, type(error).__name__, error.message)
