"""Searches over a connection of their own: a real server and real sockets, without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from bitsift.errors import (
    BitsiftError,
    DeadlineExceeded,
    RequestOutcome,
    ShardUnavailable,
    Unavailable,
)
from bitsift.router.shards import search_channel
from bitsift.router.shards.ray_calls import shard_callee
from bitsift.router.shards.search_channel import WAITING_MAX, NoChannel, SearchChannel
from bitsift.shard_worker import search_server
from bitsift.shard_worker.search_server import CONNECTIONS_MAX, SearchServer
from bitsift.shard_worker.wire import envelopes
from bitsift.shard_worker.wire.envelopes import SearchAddress, introduce, pack_request
from tests.commands import wait_until

HOST = "127.0.0.1"
CALLEE = shard_callee(3, "b")


class Panic(BaseException):
    """What compiled libraries raise."""


class Shard:
    """Answers a frame with itself, once it may; ``b"…"`` names what it raises."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.calls: list[str] = []
        self.raises: dict[bytes, BaseException] = {}

    def search(self, call: str, frame: bytes) -> bytes:
        self.calls.append(call)
        assert self.may_answer.wait(20)
        if frame in self.raises:
            raise self.raises[frame]
        return frame


@pytest.fixture
def shard() -> Shard:
    return Shard()


@pytest.fixture
def server(shard: Shard) -> Iterator[SearchServer]:
    made = SearchServer(HOST, [0], shard.search)
    yield made
    shard.may_answer.set()
    made.close()


def channel_to(*servers: SearchServer) -> SearchChannel:
    """One that finds the next of ``servers`` each time it looks, and the last from then on."""
    found = [server.address for server in servers]

    async def find() -> SearchAddress:
        return found.pop(0) if len(found) > 1 else found[0]

    return SearchChannel(CALLEE, find)


async def connected(channel: SearchChannel, frame: bytes = b"hello") -> bytes:
    """The first answer that comes through ``channel``."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(NoChannel):
                return await channel.search("first", frame)
            await asyncio.sleep(0.01)


def run(scenario: Callable[[], Awaitable[None]], *, loop: Any = uvloop.new_event_loop) -> None:
    async def with_an_end() -> None:
        async with asyncio.timeout(60):
            await scenario()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(with_an_end())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between attempts to connect."""
    monkeypatch.setattr(search_channel, "RETRY_S", 0.0)


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_frames_of_any_size_are_answered_in_order(server: SearchServer, loop: Any) -> None:
    async def scenario() -> None:
        channel = channel_to(server)
        with pytest.raises(NoChannel):  # the first is asked through Ray
            await channel.search("first", b"")
        assert await connected(channel) == b"hello"
        frames = [bytes([size % 251]) * size for size in (0, 1, 5, 4_000, 65_536, 3 << 20, 7)]
        calls = [channel.search(f"call {n}", frame) for n, frame in enumerate(frames)]
        assert await asyncio.gather(*calls) == frames

    run(scenario, loop=loop)


def test_what_a_shard_raises_arrives_as_through_ray(server: SearchServer, shard: Shard) -> None:
    late = DeadlineExceeded("stopped 0.100 s after the deadline")
    late = late.with_outcome(RequestOutcome.NOT_DONE)
    late.retry_after_s = 7.0
    shard.raises = {b"late": late, b"memory": MemoryError(), b"panic": Panic("of a library")}

    async def scenario() -> None:
        channel = channel_to(server)
        await connected(channel)
        with pytest.raises(DeadlineExceeded, match=r"^stopped 0\.100 s after") as raised:
            await channel.search("call", b"late")
        assert (raised.value.outcome, raised.value.retry_after_s) == (late.outcome, 7.0)
        with pytest.raises(ShardUnavailable, match=r"^shard 3 on b failed \(MemoryError\)$"):
            await channel.search("call", b"memory")
        with pytest.raises(ShardUnavailable, match=r"failed \(Panic: of a library\)$") as failed:
            await channel.search("call", b"panic")
        assert failed.value.outcome is RequestOutcome.UNKNOWN
        assert await channel.search("call", b"and on") == b"and on"

    run(scenario)


def test_when_it_breaks_all_under_way_is_asked_through_ray_and_the_next_process_is_found(
    shard: Shard, server: SearchServer
) -> None:
    other = SearchServer(HOST, [0], shard.search)

    async def scenario() -> None:
        channel = channel_to(other, server)
        await connected(channel)
        shard.may_answer.clear()
        calls = [asyncio.create_task(channel.search(f"call {n}", b"x")) for n in range(3)]
        while "call 0" not in shard.calls:
            await asyncio.sleep(0.01)
        other.close()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in found] == [NoChannel] * 3
        shard.may_answer.set()
        assert await connected(channel, b"again") == b"again"
        other_port = other.address.port
        assert server.address.port != other_port

    run(scenario)


def test_a_search_that_is_given_up_in_silence_leaves_the_connection(
    shard: Shard, server: SearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        channel = channel_to(server)
        await connected(channel)
        for patience_s, still_there in ((60.0, True), (0.0, False)):
            monkeypatch.setattr(search_channel, "MISS_S_MIN", patience_s)
            shard.may_answer.clear()
            call = asyncio.create_task(channel.search(f"after {patience_s}", b"x"))
            while f"after {patience_s}" not in shard.calls:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            shard.may_answer.set()
            if still_there:  # the answer that nobody waits for is not the next one's
                assert await channel.search("next", b"next") == b"next"
            else:
                with pytest.raises(NoChannel):
                    await channel.search("next", b"next")

    run(scenario)


def test_so_many_searches_wait_on_a_connection_and_no_more(
    shard: Shard, server: SearchServer
) -> None:
    async def scenario() -> None:
        channel = channel_to(server)
        await connected(channel)
        shard.may_answer.clear()
        calls = [asyncio.create_task(channel.search(f"call {n}", b"x")) for n in range(WAITING_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(NoChannel):
            await channel.search("one more", b"x")
        shard.may_answer.set()
        assert await asyncio.gather(*calls) == [b"x"] * WAITING_MAX

    run(scenario)


def test_only_holders_of_the_secret_are_answered_and_only_by_one(
    shard: Shard, server: SearchServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, search_channel.__name__)
    wrong = server.address._replace(secret=b"another secret")

    async def scenario() -> None:
        async def find() -> SearchAddress:
            return wrong

        channel = SearchChannel(CALLEE, find)
        for _ in range(3):
            with pytest.raises(NoChannel):
                await channel.search("call", b"x")
            while channel._connecting:
                await asyncio.sleep(0.01)
        said = [it.getMessage() for it in caplog.records if it.levelno >= logging.INFO]
        assert len(said) == 1  # not once a second
        assert said[0].startswith("searches of shard 3 on b go through Ray: ConnectionAborted")

    run(scenario)
    assert not shard.calls

    def impostor(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(bytes(32))
            connection.recv(64)
            connection.sendall(bytes(32))

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=impostor, args=(listener,), daemon=True)
        thread.start()
        with (
            socket.create_connection(listener.getsockname(), 10) as connection,
            pytest.raises(ConnectionRefusedError),
        ):
            introduce(connection, server.address.secret)
        thread.join(10)


def hung_up(connection: socket.socket, within_s: float = 10) -> bool:
    """Whether the other side ends the connection, whatever it says before."""
    connection.settimeout(within_s)
    with contextlib.suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return True


def test_a_stranger_that_says_nothing_is_not_waited_for(
    server: SearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_server, "GREETING_S", 0.1)
    with socket.create_connection((HOST, server.address.port)) as connection:
        assert hung_up(connection)


def test_a_stranger_that_goes_on_saying_a_little_is_not_waited_for_any_longer(
    server: SearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_server, "GREETING_S", 0.5)
    with socket.create_connection((HOST, server.address.port), 10) as connection:
        connection.recv(1 << 10)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 60:  # a greeting has 64
                connection.sendall(b"x")
                sent += 1
                time.sleep(0.1)
        assert 0 < sent < 60
    assert wait_until(lambda: not server._open, 10)


def test_a_connection_that_brings_nothing_is_closed(
    server: SearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_server, "IDLE_S", 0.1)
    with socket.create_connection((HOST, server.address.port)) as connection:
        introduce(connection, server.address.secret)
        assert hung_up(connection)


def test_a_shard_that_does_not_prove_itself_is_waited_for_so_long_and_searched_through_ray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_channel, "CONNECT_S", 0.1)
    monkeypatch.setattr(search_channel, "RETRY_S", 60.0)

    async def scenario(silent: socket.socket) -> None:
        async def find() -> SearchAddress:
            return SearchAddress(HOST, silent.getsockname()[1], b"secret")

        channel = SearchChannel(CALLEE, find)
        with pytest.raises(NoChannel):
            await channel.search("first", b"hello")
        while not channel._has_failed:
            await asyncio.sleep(0.01)
        with pytest.raises(NoChannel):
            await channel.search("second", b"hello")

    with socket.create_server((HOST, 0)) as silent:
        run(lambda: scenario(silent))


def test_a_router_that_takes_no_answers_is_hung_up_on(
    server: SearchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_server, "IDLE_S", 0.2)
    with socket.create_connection((HOST, server.address.port)) as connection:
        introduce(connection, server.address.secret)
        connection.setblocking(False)
        request = pack_request("call", bytes(1 << 20))
        with contextlib.suppress(BlockingIOError):
            while True:
                connection.send(request)
        assert wait_until(lambda: not server._open, 10)


def test_a_machine_that_is_gone_is_told_by_the_kernel(server: SearchServer) -> None:
    """What it has not acknowledged for so long ends the connection."""
    with socket.create_connection((HOST, server.address.port)) as connection:
        introduce(connection, server.address.secret)
        search_server.set_options(connection, 1.0)
        (taken,) = server._open
        for end in (connection, taken):
            lost_ms = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert lost_ms == search_server.LOST_MS


def test_there_are_so_many_connections_at_most(server: SearchServer) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(CONNECTIONS_MAX):
            one = held.enter_context(socket.create_connection((HOST, server.address.port), 10))
            introduce(one, server.address.secret)
        with socket.create_connection((HOST, server.address.port)) as one_more:
            assert hung_up(one_more)
    assert wait_until(lambda: not server._open, 10)
    with socket.create_connection((HOST, server.address.port), 10) as later:
        introduce(later, server.address.secret)


@pytest.mark.parametrize("head", [b"\xff\xff\xff\xff\x00", b"\x00\x00\x00\x00\x00", b"\x01\x00"])
def test_what_is_no_request_ends_the_connection(
    server: SearchServer, shard: Shard, head: bytes
) -> None:
    with socket.create_connection((HOST, server.address.port), 10) as connection:
        introduce(connection, server.address.secret)
        connection.sendall(head)
        connection.shutdown(socket.SHUT_WR)
        assert hung_up(connection)
    assert not shard.calls


def test_an_envelope_has_so_many_bytes_at_most() -> None:
    most = envelopes.BYTES_MAX
    assert envelopes.answer_head((most).to_bytes(4, "little") + b"\x00") == (0, most - 1)
    with pytest.raises(BitsiftError, match="an envelope of"):
        envelopes.answer_head((most + 1).to_bytes(4, "little") + b"\x00")


def test_it_listens_on_the_first_port_that_is_free(shard: Shard) -> None:
    with socket.create_server((HOST, 0)) as taken, socket.create_server((HOST, 0)) as freed:
        first, second = (one.getsockname()[1] for one in (taken, freed))
        freed.close()
        server = SearchServer(HOST, [first, second], shard.search)
        assert server.address.port == second
        with pytest.raises(Unavailable, match="no port"):
            SearchServer(HOST, [first, second], shard.search)
        server.close()
