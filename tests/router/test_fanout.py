"""The fan-out's calls: what waits for a shard goes together, and each caller gets its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from router.fanout import FanOut
from shard_worker.errors import ChecksumMismatch
from shard_worker.types import Document
from tests.fakes import FrozenLink


class NumberedLink:
    """A shard whose row n is a document called n; row 13 is damaged. Keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    async def documents(self, rows: Sequence[int]) -> list[Any]:
        self.calls.append(list(rows))
        await asyncio.sleep(0)
        damaged = ChecksumMismatch("row 13")
        return [damaged if row == 13 else Document(str(row), "", "", {}) for row in rows]


class GatedLink(NumberedLink):
    """A shard that answers when ``gate`` is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def documents(self, rows: Sequence[int]) -> list[Any]:
        found = await super().documents(rows)
        await self.gate.wait()
        return found


class HangsOnceLink(NumberedLink):
    """A shard that never answers its first call. ``was_reached`` proves that it was asked."""

    was_reached = False

    async def documents(self, rows: Sequence[int]) -> list[Any]:
        if not self.was_reached:
            self.was_reached = True
            await asyncio.Event().wait()
        return await super().documents(rows)


async def read(shards: FanOut, rows: dict[int, list[int]], timeout_s: float = 5.0) -> Any:
    return await shards.documents(rows, time.monotonic() + timeout_s)


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
