"""A document is read from the replica that has its newest version, of enough of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bitsift.errors import Fenced, RequestOutcome, ShardUnavailable
from bitsift.router.shards import newest
from bitsift.router.shards.newest import newest_of
from bitsift.router.shards.replica import Replica


class Versions:
    """A replica that says its version after ``delay_s``, or fails."""

    def __init__(self, found: int | Exception, delay_s: float = 0.0) -> None:
        self.found, self.delay_s, self.epochs = found, delay_s, list[int]()

    async def version(self, document_id: str, epoch: int) -> int:
        self.epochs.append(epoch)
        await asyncio.sleep(self.delay_s)
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def replicas_of(*links: Versions) -> list[Replica]:
    made: list[Any] = [Replica(0, f"node-{at}", link) for at, link in enumerate(links)]  # type: ignore[arg-type]
    return made


def test_of_those_that_answer_first_the_newest_is_chosen() -> None:
    replicas = replicas_of(Versions(5), Versions(7, 0.02), Versions(9, 30.0))
    for count, expected in ((1, 0), (2, 1)):
        found = asyncio.run(newest_of(lambda: (replicas, count, 1), "a"))  # noqa: B023
        assert found is replicas[expected]


def test_where_too_few_answer_it_is_said_what_befell_them() -> None:
    replicas = replicas_of(Versions(5), Versions(ShardUnavailable("it is down")))
    with pytest.raises(ShardUnavailable, match="2 of 2 replicas .* it is down") as raised:
        asyncio.run(newest_of(lambda: (replicas, 2, 1), "a"))
    assert raised.value.outcome is RequestOutcome.NOT_DONE


def test_replicas_that_do_not_say_their_version_are_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(newest, "TIMEOUT_S", 0.05)
    replicas = replicas_of(Versions(5, 30.0), Versions(7))
    with pytest.raises(ShardUnavailable, match="2 of 2 replicas"):
        asyncio.run(newest_of(lambda: (replicas, 2, 1), "a"))


def test_a_router_that_missed_a_table_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "FENCED_S", 0.2)
    late = Versions(Fenced("a newer one is in force"))
    replicas, epoch = replicas_of(Versions(5, 0.01), late), [1]

    async def scenario() -> None:
        asking = asyncio.ensure_future(newest_of(lambda: (replicas, 2, epoch[0]), "a"))
        await asyncio.sleep(0.08)
        epoch[0], late.found = 2, 9
        assert await asking is replicas[1]
        assert late.epochs[0] == 1
        assert late.epochs[-1] == 2
        late.found = Fenced("a newer one is in force")
        with pytest.raises(Fenced):
            await newest_of(lambda: (replicas, 2, 2), "a")

    asyncio.run(scenario())
