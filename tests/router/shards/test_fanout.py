"""The fan-out's calls: what waits for a shard goes together, and each caller gets its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bitsift.errors import BitsiftError, ChecksumMismatch
from bitsift.options import Mode, SearchOptions
from bitsift.router.shards.fanout import FanOut
from bitsift.router.shards.remote import RemoteLink
from bitsift.shard_worker.deadline import Deadline
from bitsift.shard_worker.types import Candidates, Document, Origin, Query, Read, ShardStatus
from bitsift.shard_worker.wire.frames import WIRE_VERSION
from bitsift.shard_worker.wire.search import pack_candidates, unpack_queries
from tests.fakes import FrozenLink


class NumberedLink:
    """A shard whose row n is a document called n; row 13 is damaged. Keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    async def documents(self, reads: Sequence[Read]) -> list[Any]:
        self.calls.append([row for read in reads for row in read.rows])
        await asyncio.sleep(0)
        damaged = ChecksumMismatch("row 13")
        return [
            [damaged if row == 13 else Document(str(row), "", "", {}) for row in read.rows]
            for read in reads
        ]


class GatedLink(NumberedLink):
    """A shard that answers when ``gate`` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def documents(self, reads: Sequence[Read]) -> list[Any]:
        found = await super().documents(reads)
        await self.gate.wait()
        return found


class HangsOnceLink(NumberedLink):
    """A shard that never answers its first call. ``was_reached`` proves that it was asked."""

    was_reached = False

    async def documents(self, reads: Sequence[Read]) -> list[Any]:
        if not self.was_reached:
            self.was_reached = True
            await asyncio.Event().wait()
        return await super().documents(reads)


async def read(shards: FanOut, rows: dict[int, list[int]], timeout_s: float = 5.0) -> Any:
    deadline = Deadline.after(timeout_s)
    found = await shards.documents(
        {shard: Read(Origin(1, 0), wanted, deadline=deadline) for shard, wanted in rows.items()}
    )
    return found.documents, found.failures


def test_documents_of_several_questions_are_read_in_one_call() -> None:
    async def scenario() -> None:
        link = NumberedLink()
        shards = FanOut([link])  # type: ignore[list-item]
        asked = [[0], [1, 2], [3, 13], [4, 1]]
        answers = await asyncio.gather(*(read(shards, {0: rows}) for rows in asked))
        assert link.calls == [[0, 1, 2, 3, 13, 4, 1]]
        for rows, (documents, failures) in zip(asked, answers, strict=True):
            good = [row for row in rows if row != 13]
            assert {key: found.id for key, found in documents.items()} == {
                (0, row): str(row) for row in good
            }
            assert [failure.error for failure in failures] == ["ChecksumMismatch"] * (13 in rows)

    asyncio.run(scenario())


def test_documents_that_do_not_come_cost_the_deadline_and_are_named() -> None:
    async def scenario() -> None:
        shards = FanOut([NumberedLink(), FrozenLink()])  # type: ignore[list-item]
        for _ in range(2):
            documents, failures = await read(shards, {0: [7], 1: [7]}, timeout_s=0.4)
            assert set(documents) == {(0, 7)}
            assert [(failure.shard, failure.error) for failure in failures] == [
                (1, "DeadlineExceeded")
            ]

    asyncio.run(scenario())


def test_one_question_out_of_time_does_not_end_the_call_of_the_others() -> None:
    async def scenario() -> None:
        link = GatedLink()
        shards = FanOut([link])  # type: ignore[list-item]
        patient = asyncio.create_task(read(shards, {0: [2]}))
        _, failures = await read(shards, {0: [1]}, timeout_s=0.05)
        assert [failure.error for failure in failures] == ["DeadlineExceeded"]
        assert link.calls == [[1, 2]]
        link.gate.set()
        assert set((await patient)[0]) == {(0, 2)}

    asyncio.run(scenario())


def test_a_call_that_hung_does_not_keep_the_next_from_the_shard() -> None:
    async def scenario() -> None:
        link = HangsOnceLink()
        shards = FanOut([link])  # type: ignore[list-item]
        _, failures = await read(shards, {0: [1]}, timeout_s=0.05)
        assert link.was_reached
        assert [failure.error for failure in failures] == ["DeadlineExceeded"]
        documents, failures = await read(shards, {0: [2]})
        assert set(documents) == {(0, 2)}
        assert failures == []

    asyncio.run(scenario())


class KindsLink(NumberedLink):
    """A shard that keeps the modes of each call; ``exhaustive`` ones are answered never."""

    def __init__(self) -> None:
        super().__init__()
        self.searches: list[list[Mode]] = []

    async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Any]:
        self.searches.append([query.options.mode for query in queries])
        if queries[0].options.mode is Mode.EXHAUSTIVE:
            await asyncio.Event().wait()
        return [no_candidates() for _ in queries]


def no_candidates() -> Candidates:
    none = np.empty(0, np.int32)
    scores = none.astype(np.float32)
    origin, rows, codes = Origin(1, 0), none.astype(np.int64), np.empty((0, 8), np.int8)
    return Candidates(0, origin, rows, none, none, scores, scores, codes)


def a_query(mode: Mode = Mode.AUTO, timeout_s: float = 5.0) -> Query:
    return Query(
        SearchOptions(vector=np.ones(8, np.float32), mode=mode), deadline=Deadline.after(timeout_s)
    )


def test_exhaustive_queries_are_never_in_a_call_with_others() -> None:
    async def scenario() -> None:
        link = KindsLink()
        shards = FanOut([link])  # type: ignore[list-item]
        modes = [Mode.AUTO, Mode.EXHAUSTIVE, Mode.EXACT] * 4
        asks = [asyncio.create_task(shards.search(a_query(mode, 2.0))) for mode in modes]
        found = await asyncio.gather(*asks)
        answered = [coverage.answered for _, coverage in found]
        assert answered == [int(mode is not Mode.EXHAUSTIVE) for mode in modes]
        assert all(len({mode is Mode.EXHAUSTIVE for mode in call}) == 1 for call in link.searches)
        assert sum(map(len, link.searches)) == 12

    asyncio.run(scenario())


def test_a_query_that_was_answered_or_is_late_is_given_up() -> None:
    async def scenario() -> None:
        shards = FanOut([KindsLink(), FrozenLink()])  # type: ignore[list-item]
        query, told = a_query(timeout_s=0.1), []
        query.deadline.on_cancel(lambda: told.append("given up"))
        _, coverage = await shards.search(query)
        assert coverage.answered == 1
        assert told == ["given up"]

    asyncio.run(scenario())


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        BitsiftError.__new__(BitsiftError),  # as unpickling by hand leaves it: without a message
        RuntimeError("one line\nand another\n" * 50),
        Unspeakable(),
        asyncio.CancelledError(),
        SystemExit(1),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_shards_trouble_is_not_that_of_the_others(error: BaseException) -> None:
    class Troubled(NumberedLink):
        async def search(self, queries: Sequence[Query], timeout_s: float) -> list[Any]:
            raise error

        async def documents(self, reads: Sequence[Read]) -> list[Any]:
            raise error

    async def scenario() -> None:
        shards = FanOut([KindsLink(), Troubled()])  # type: ignore[list-item]
        async with asyncio.timeout(20):
            found, coverage = await shards.search(a_query())
            documents, failures = await read(shards, {0: [7], 1: [7]})
        assert (len(found), coverage.answered) == (1, 1)
        assert set(documents) == {(0, 7)}
        for failure in (*coverage.failures, *failures):
            assert failure.shard == 1
            assert failure.message
        assert len(coverage.failures) == len(failures) == 1

    asyncio.run(scenario())


def test_a_state_that_cannot_be_told_is_unreachable_whatever_was_raised() -> None:
    class Troubled(NumberedLink):
        async def status(self) -> ShardStatus:
            raise asyncio.CancelledError

    class Well(NumberedLink):
        async def status(self) -> ShardStatus:
            return ShardStatus(0, "READY")

    async def scenario() -> None:
        shards = FanOut([Well(), Troubled()])  # type: ignore[list-item]
        states = [status.state for status in await shards.statuses(5.0)]
        assert states == ["READY", "UNREACHABLE"]

    asyncio.run(scenario())


def test_a_shard_that_is_not_ready_counts_as_it_last_did() -> None:
    class Restarting(NumberedLink):
        state = "LOADING"

        async def status(self) -> ShardStatus:
            return ShardStatus(0, self.state, documents=7 if self.state == "READY" else 0)

    async def scenario() -> None:
        link = Restarting()
        shards = FanOut([link])  # type: ignore[list-item]

        async def said() -> tuple[str, int]:
            (status,) = await shards.last_known(5.0)
            return status.state, status.documents

        assert await said() == ("LOADING", 0)  # it never was
        link.state = "READY"
        assert await said() == ("READY", 7)
        for state in ("LOADING", "UNREACHABLE", "FAILED"):
            link.state = state
            assert await said() == (state, 7)

    asyncio.run(scenario())


class OtherRelease:
    """A shard's actor of another release: it answers in its own version of the wire."""

    class search:  # noqa: N801 (Ray's way: actor.search.remote)
        @staticmethod
        async def remote(call: str, queries: bytes) -> bytes:
            answer = bytearray(pack_candidates([no_candidates() for _ in unpack_queries(queries)]))
            answer[2] = WIRE_VERSION + 1
            return bytes(answer)


def test_a_shard_of_another_release_is_named_and_the_others_answer() -> None:
    async def scenario() -> None:
        shards = FanOut([KindsLink(), RemoteLink(1, OtherRelease)])  # type: ignore[list-item]
        found, coverage = await shards.search(a_query())
        assert (len(found), coverage.answered) == (1, 1)
        (failure,) = coverage.failures
        assert (failure.shard, failure.error) == (1, "FormatMismatch")
        assert "wire version 2, this process reads version 1" in failure.message

    asyncio.run(scenario())
