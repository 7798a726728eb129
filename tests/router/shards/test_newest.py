"""A document is read from a replica with a version of it that enough of them have."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bitsift.errors import Fenced, NotFound, RequestOutcome, ShardUnavailable
from bitsift.router.shards import newest
from bitsift.router.shards.newest import Readers, read_newest
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


def readers_of(count: int, agreeing: int, *links: Versions) -> Readers:
    return Readers(replicas_of(*links), count, agreeing, 1)


async def name(replica: Replica) -> str:
    return replica.node


def found_in(readers: Readers) -> str:
    return asyncio.run(read_newest(lambda: readers, "a", name))


def test_where_one_must_have_it_the_newest_of_those_that_answer_first_is_read() -> None:
    links = Versions(5), Versions(7, 0.02), Versions(9, 30.0)
    assert found_in(readers_of(1, 1, *links)) == "node-0"
    assert found_in(readers_of(2, 1, *links)) == "node-1"


def test_a_version_that_only_one_replica_has_is_not_read() -> None:
    assert found_in(readers_of(2, 2, Versions(7), Versions(5, 0.01), Versions(5, 0.02))) == "node-1"
    assert found_in(readers_of(2, 2, Versions(7), Versions(5, 0.01), Versions(7, 0.02))) == "node-0"


def test_while_the_replicas_differ_they_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "_OTHERS_S", 0.05)
    late = Versions(5)
    readers = readers_of(2, 2, Versions(7), late, Versions(7, 30.0))

    async def scenario() -> None:
        reading = asyncio.ensure_future(read_newest(lambda: readers, "a", name))
        await asyncio.sleep(0.2)
        assert not reading.done()
        late.found = 7
        assert await reading == "node-0"
        monkeypatch.setattr(newest, "TIMEOUT_S", 0.1)
        late.found = 5
        with pytest.raises(ShardUnavailable, match="in doubt") as raised:
            await read_newest(lambda: readers, "a", name)
        assert raised.value.outcome is RequestOutcome.NOT_DONE

    asyncio.run(scenario())


@pytest.mark.parametrize("is_there", [True, False])
def test_what_is_written_between_agreeing_and_reading_is_agreed_on_first(is_there: bool) -> None:
    links = Versions(5), Versions(5)
    readers, seen = readers_of(2, 2, *links), list[int | Exception]()

    async def read(replica: Replica) -> int:
        if not seen:
            for link in links:
                link.found = 7
        seen.append(links[0].found)
        if not is_there:
            raise NotFound("it was deleted")
        return len(seen)

    if is_there:
        assert asyncio.run(read_newest(lambda: readers, "a", read)) == 2
    else:
        with pytest.raises(NotFound):
            asyncio.run(read_newest(lambda: readers, "a", read))
    assert seen == [7, 7]


def test_where_too_few_answer_it_is_said_what_befell_them() -> None:
    with pytest.raises(ShardUnavailable, match="2 of 2 replicas .* it is down") as raised:
        found_in(readers_of(2, 1, Versions(5), Versions(ShardUnavailable("it is down"))))
    assert raised.value.outcome is RequestOutcome.NOT_DONE


def test_replicas_that_do_not_say_their_version_are_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(newest, "TIMEOUT_S", 0.05)
    with pytest.raises(ShardUnavailable, match="2 of 2 replicas"):
        found_in(readers_of(2, 1, Versions(5, 30.0), Versions(7)))


def test_a_router_that_missed_a_table_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "FENCED_S", 0.2)
    late = Versions(Fenced("a newer one is in force"))
    replicas, epoch = replicas_of(Versions(5, 0.01), late), [1]

    async def read() -> str:
        return await read_newest(lambda: Readers(replicas, 2, 1, epoch[0]), "a", name)

    async def scenario() -> None:
        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0.08)
        epoch[0], late.found = 2, 9
        assert await reading == "node-1"
        assert late.epochs[0] == 1
        assert late.epochs[-1] == 2
        late.found = Fenced("a newer one is in force")
        with pytest.raises(Fenced):
            await read()

    asyncio.run(scenario())
