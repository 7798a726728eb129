"""Calls to real actors: whatever one raises becomes a BitsiftError, and leaves others' results."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from bitsift.errors import (
    BitsiftError,
    Overloaded,
    RequestOutcome,
    ShardUnavailable,
    StorageFull,
    Unavailable,
)
from bitsift.router.shards.remote import UNPACKED_BYTES_MAX, RemoteLink, RemoteWriter, _unpacked
from bitsift.router.write.shard_writes import ShardWrites
from bitsift.shard_worker.operations import Delete
from bitsift.write_status import WriteStatus

NOT_DONE, UNKNOWN = RequestOutcome.NOT_DONE, RequestOutcome.UNKNOWN


class TwoArguments(Exception):
    """Pickles, and cannot be unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class NotEvenPicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("cannot be pickled")


RAISED: dict[str, Callable[[], BaseException]] = {
    "no text": lambda: MemoryError(),
    "no text, and caught as asyncio's own": lambda: TimeoutError(),
    "lines": lambda: ValueError("first\nsecond"),
    "two arguments": lambda: TwoArguments("a", "b"),
    "not picklable": lambda: NotEvenPicklable("x"),
    "own": lambda: Overloaded("busy"),
    "own, with another outcome": lambda: StorageFull("no room").with_outcome(UNKNOWN),
}


@ray.remote(num_cpus=0, max_restarts=0)
class Failing:
    """A shard, and a writer, whose calls raise what their first id names."""

    def write(self, operations: bytes) -> bytes:
        from bitsift.shard_worker.wire.write import pack_outcomes, unpack_writes

        (name,) = unpack_writes(operations)[0].ids
        if name == "dies":
            os._exit(1)
        if name in RAISED:
            raise RAISED[name]()
        return pack_outcomes([[WriteStatus.MISSING]])

    def stored(self, *_: Any) -> None: ...

    def delete(self, body: bytes) -> bytes:
        if body in (b"good", b"x" * (1 << 20)):
            return b"done"
        raise RAISED[body.decode()]()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=1, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def actors(cluster: None) -> tuple[Any, Any]:
    """Two that live on, whatever they raise: a new one takes two seconds of a processor."""
    return Failing.remote(), Failing.remote()  # type: ignore[attr-defined]


async def write_to_both(failing: Any, good: Any, name: str) -> dict[int, Any]:
    writes = ShardWrites([RemoteLink(0, failing), RemoteLink(1, good)])
    return dict(await writes.write({0: Delete([name]), 1: Delete(["good"])}))


@pytest.mark.parametrize("name", [*RAISED, "dies"])
def test_one_shards_error_of_any_kind_leaves_the_others_results(
    actors: tuple[Any, Any], name: str
) -> None:
    failing, good = actors
    if name == "dies":
        failing = Failing.remote()  # type: ignore[attr-defined]
    found = asyncio.run(write_to_both(failing, good, name))
    assert found[1] == [WriteStatus.MISSING]
    assert isinstance(found[0], BitsiftError)
    own = RAISED[name]() if name in RAISED else None
    if isinstance(own, BitsiftError):
        assert (type(found[0]), found[0].message) == (type(own), own.message)
        assert found[0].outcome is own.outcome
    else:
        assert type(found[0]) is ShardUnavailable
        assert found[0].outcome is UNKNOWN
        assert "\n" not in found[0].message


def test_calls_of_any_size_reach_the_writer_and_its_errors_come_back(cluster: None) -> None:
    writer = RemoteWriter(Failing.remote())  # type: ignore[attr-defined]
    assert asyncio.run(writer.delete(b"good")) == b"done"
    assert asyncio.run(writer.delete(b"x" * (1 << 20))) == b"done"
    with pytest.raises(Overloaded, match="busy"):
        asyncio.run(writer.delete(b"own"))
    with pytest.raises(Unavailable, match=r"^the writer failed \(MemoryError\)$"):
        asyncio.run(writer.delete(b"no text"))


def test_writes_that_are_held_go_to_the_writer_that_takes_the_place_of_one(cluster: None) -> None:
    async def scenario() -> None:
        ended: Any = None
        writer = RemoteWriter(ended)
        await writer.gate.hold(30.0)
        waiting = asyncio.ensure_future(writer.delete(b"good"))
        writer.hand_over(ended)  # what a controller says each second
        await asyncio.sleep(0.05)
        assert not waiting.done()
        writer.hand_over(Failing.remote())  # type: ignore[attr-defined]
        assert await asyncio.wait_for(waiting, 30) == b"done"

    asyncio.run(scenario())


def test_a_call_that_ray_refuses_to_send_was_not_done(cluster: None) -> None:
    link = RemoteLink(0, Failing.remote())  # type: ignore[attr-defined]
    with pytest.raises(ShardUnavailable) as raised:
        asyncio.run(link.stored([threading.Lock()]))  # type: ignore[list-item]
    assert raised.value.outcome is NOT_DONE
    full = Failing.options(max_pending_calls=1).remote()  # type: ignore[attr-defined]

    async def scenario() -> list[Any]:
        calls = (RemoteLink(0, full).write([Delete(["good"])]) for _ in range(50))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    found = asyncio.run(scenario())
    refused = [error for error in found if isinstance(error, BaseException)]
    assert refused, "the limit of pending calls was never met"
    assert all(isinstance(e, Overloaded) and e.outcome is NOT_DONE for e in refused)
    assert [[WriteStatus.MISSING]] in found


def test_calls_that_are_given_up_at_once_hold_up_no_other(cluster: None) -> None:
    """``ray.cancel`` of a call that was not sent yet left a gap: the actor waited for it for 30 s,
    and with it every call that came after.
    """
    link = RemoteLink(0, Failing.remote())  # type: ignore[attr-defined]

    async def scenario() -> None:
        await link.write([Delete(["good"])])
        for turns in range(200):
            call = asyncio.create_task(link.stored(["x"]))
            for _ in range(turns % 8):
                await asyncio.sleep(0)
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            async with asyncio.timeout(20):
                await link.write([Delete(["good"])])

    asyncio.run(scenario())


def test_a_large_answer_is_unpacked_outside_the_event_loop() -> None:
    def where(_: bytes) -> int:
        return threading.get_ident()

    async def scenario() -> tuple[int, int, int]:
        small = await _unpacked(where, bytes(UNPACKED_BYTES_MAX))
        large = await _unpacked(where, bytes(UNPACKED_BYTES_MAX + 1))
        return small, large, threading.get_ident()

    small, large, loop = asyncio.run(scenario())
    assert small == loop != large
