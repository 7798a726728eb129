"""A document is read from a replica with a version of it that enough of them have."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from bitsift.errors import Fenced, NotFound, RequestOutcome, ShardUnavailable
from bitsift.router.shards import newest
from bitsift.router.shards.newest import Readers, held_newest, stored_newest
from bitsift.router.shards.replica import Replica
from bitsift.shard_worker.stored import missing
from bitsift.shard_worker.types import Document, Found


class Versions:
    """A replica that says its version of everything after ``delay_s``, or fails."""

    def __init__(self, found: int | Exception, delay_s: float = 0.0) -> None:
        self.found, self.delay_s, self.epochs = found, delay_s, list[int]()

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        self.epochs.append(epoch)
        await asyncio.sleep(self.delay_s)
        return [self.now()] * len(ids)

    def now(self) -> int:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


class ByName(Versions):
    """One that has other versions of other documents."""

    def __init__(self, **versions: int) -> None:
        super().__init__(0)
        self.versions = versions

    async def held(self, ids: Sequence[str], epoch: int) -> Sequence[int]:
        return [self.versions[name] for name in ids]


def replicas_of(*links: Versions) -> list[Replica]:
    made: list[Any] = [Replica(0, f"node-{at}", link) for at, link in enumerate(links)]  # type: ignore[arg-type]
    return made


def readers_of(count: int, agreeing: int, *links: Versions) -> Readers:
    return Readers(replicas_of(*links), count, agreeing, 1)


async def read(replica: Replica, ids: Sequence[str]) -> Sequence[Found]:
    """Documents whose texts are the name of the node."""
    link: Any = replica.link
    versions = [abs(link.now())] * len(ids)
    if isinstance(link, ByName):
        versions = [link.versions[name] for name in ids]
    return [
        Document(name, "", replica.node, {}, version=version)
        for name, version in zip(ids, versions, strict=True)
    ]


async def read_one(readers: Readers) -> str:
    (found,) = await stored_newest(lambda: readers, ["a"], read)
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Document)
    return found.text


def found_in(readers: Readers) -> str:
    return asyncio.run(read_one(readers))


def test_where_one_must_have_it_the_newest_of_those_that_answer_first_is_read() -> None:
    links = Versions(5), Versions(7, 0.02), Versions(9, 30.0)
    assert found_in(readers_of(1, 1, *links)) == "node-0"
    assert found_in(readers_of(2, 1, *links)) == "node-1"


def test_a_version_that_only_one_replica_has_is_not_read() -> None:
    assert found_in(readers_of(2, 2, Versions(7), Versions(5, 0.01), Versions(5, 0.02))) == "node-1"
    assert found_in(readers_of(2, 2, Versions(7), Versions(5, 0.01), Versions(7, 0.02))) == "node-0"


def test_what_enough_have_deleted_is_not_there_whatever_one_has() -> None:
    readers = readers_of(2, 2, Versions(-7), Versions(5, 0.01), Versions(-7, 0.02))
    with pytest.raises(NotFound):
        found_in(readers)
    assert asyncio.run(held_newest(lambda: readers, ["a"])) == [-7]


def test_each_of_several_documents_is_read_where_its_newest_version_is() -> None:
    links = ByName(a=9, b=5, c=-8), ByName(a=6, b=7, c=-8), ByName(a=6, b=5, c=3)
    readers = readers_of(3, 1, *links)
    found = asyncio.run(stored_newest(lambda: readers, ["a", "b", "c"], read))
    texts = [it.text if isinstance(it, Document) else str(it) for it in found]
    assert texts == ["node-0", "node-1", str(missing("c"))]
    assert asyncio.run(held_newest(lambda: readers, ["c", "a"])) == [-8, 9]


def test_while_the_replicas_differ_they_are_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "_OTHERS_S", 0.05)
    late = Versions(5)
    readers = readers_of(2, 2, Versions(7), late, Versions(7, 30.0))

    async def scenario() -> None:
        reading = asyncio.ensure_future(read_one(readers))
        await asyncio.sleep(0.2)
        assert not reading.done()
        late.found = 7
        assert await reading == "node-0"
        monkeypatch.setattr(newest, "TIMEOUT_S", 0.1)
        late.found = 5
        with pytest.raises(ShardUnavailable, match="in doubt") as raised:
            await read_one(readers)
        assert raised.value.outcome is RequestOutcome.NOT_DONE

    asyncio.run(scenario())


@pytest.mark.parametrize("is_there", [True, False])
def test_what_is_written_between_agreeing_and_reading_is_agreed_on_first(is_there: bool) -> None:
    links = Versions(5), Versions(5)
    readers, seen = readers_of(2, 2, *links), list[int]()

    async def read_late(replica: Replica, ids: Sequence[str]) -> Sequence[Found]:
        if not seen:
            for link in links:
                link.found = 7 if is_there else -7
        seen.append(links[0].now())
        return [missing("a")] if links[0].now() < 0 else await read(replica, ids)

    (found,) = asyncio.run(stored_newest(lambda: readers, ["a"], read_late))
    if is_there:
        assert isinstance(found, Document)
        assert found.version == 7
        assert seen == [7, 7]
    else:
        assert isinstance(found, NotFound)
        assert seen == [-7], "what is agreed to be deleted is not read"


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

    async def read_now() -> str:
        table = lambda: Readers(replicas, 2, 1, epoch[0])  # noqa: E731
        (found,) = await stored_newest(table, ["a"], read)
        assert isinstance(found, Document)
        return found.text

    async def scenario() -> None:
        reading = asyncio.ensure_future(read_now())
        await asyncio.sleep(0.08)
        epoch[0], late.found = 2, 9
        assert await reading == "node-1"
        assert late.epochs[0] == 1
        assert late.epochs[-1] == 2
        late.found = Fenced("a newer one is in force")
        with pytest.raises(Fenced):
            await read_now()

    asyncio.run(scenario())
