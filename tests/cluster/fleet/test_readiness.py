"""A node is ready when each replica on its disk is open."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bitsift.cluster.fleet import readiness
from bitsift.cluster.fleet.node_store import NodeStore
from bitsift.cluster.fleet.readiness import CONNECTIONS_MAX, ReadyServer, listen, unready
from bitsift.errors import Unavailable
from bitsift.shard_worker.layout import SHARD_FILE
from bitsift.shard_worker.open_mark import OpenMark
from tests.commands import wait_until
from tests.threads import ended

UUID = "00000000-0000-0000-0000-000000000001"
OTHER = "00000000-0000-0000-0000-000000000002"


def holding(folder: Path, uuid: str, *shards: int, epoch: int, retired: str = "") -> NodeStore:
    """A data folder with shards of which nobody has one open."""
    store = NodeStore(folder)
    store.adopt(uuid, {"manifest.json": b"{}"})
    store.keep(uuid, {"epoch": epoch, "retired": [retired] if retired else []})
    for shard in shards:
        store.replica(uuid, shard).mkdir()
        (store.replica(uuid, shard) / SHARD_FILE).write_text("{}")
    return store


def test_a_node_with_nothing_on_it_is_ready(tmp_path: Path) -> None:
    assert unready(NodeStore(tmp_path / "a")) is None


def test_each_replica_must_be_open(tmp_path: Path) -> None:
    store = holding(tmp_path / "a", UUID, 0, 3, epoch=1)
    assert unready(store) == "shard 0 is not open; shard 3 is not open"
    first = OpenMark(store.replica(UUID, 0))
    assert unready(store) == "shard 3 is not open"
    second = OpenMark(store.replica(UUID, 3))
    assert unready(store) is None
    first.release()
    assert unready(store) == "shard 0 is not open"
    second.release()


def test_a_replica_that_is_being_copied_is_waited_for(tmp_path: Path) -> None:
    store = holding(tmp_path / "a", UUID, epoch=1)
    (tmp_path / "a" / UUID / "shard-00002.incoming").mkdir()
    assert unready(store) == "shard 2 is being copied"


def test_shards_that_another_number_of_them_replaced_are_not(tmp_path: Path) -> None:
    holding(tmp_path / "a", OTHER, 0, epoch=5).close()
    store = holding(tmp_path / "a", UUID, 1, epoch=9, retired=OTHER)
    assert unready(store) == "shard 1 is not open"


@contextlib.contextmanager
def served(check: Callable[[], str | None]) -> Iterator[tuple[str, int]]:
    with ReadyServer("127.0.0.1", 0, check) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield "127.0.0.1", server.server_address[1]
        finally:
            server.shutdown()
            ended(thread)


def asked(address: str, port: int, path: str = "/readyz") -> httpx.Response:
    return httpx.get(f"http://{address}:{port}{path}", timeout=20, trust_env=False)


def test_the_answer_is_a_status_and_what_is_lacking() -> None:
    said: list[str | None] = ["shard 3 is not open"]
    with served(lambda: said[0]) as at:
        response = asked(*at)
        assert (response.status_code, response.text) == (503, "shard 3 is not open\n")
        said[0] = None
        response = asked(*at)
        assert (response.status_code, response.text) == (200, "ready\n")
        assert asked(*at, path="/").status_code == 404


def test_a_disk_that_cannot_be_read_is_not_ready() -> None:
    def check() -> str | None:
        raise Unavailable("/data is no data folder: Input/output error")

    with served(check) as at:
        response = asked(*at)
    assert response.status_code == 503
    assert "Input/output error" in response.text


def test_so_many_connections_are_taken_at_once_and_those_that_send_nothing_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "REQUEST_TIMEOUT_S", 1.0)
    with served(lambda: None) as at, contextlib.ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(at, 20)) for _ in range(CONNECTIONS_MAX)
        ]
        one_more = stack.enter_context(socket.create_connection(at, 20))
        assert one_more.recv(1) == b""
        assert all(connection.recv(1) == b"" for connection in idle)
        assert asked(*at).status_code == 200


def test_who_sends_a_little_again_and_again_is_not_waited_for_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(readiness, "REQUEST_TIMEOUT_S", 0.5)
    with served(lambda: None) as at, socket.create_connection(at, 20) as connection:
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 100:
                connection.sendall(b"G")
                sent += 1
                time.sleep(0.1)
        assert 0 < sent < 100
        assert asked(*at).status_code == 200


def test_it_listens_as_soon_as_the_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "BIND_AGAIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        listen("127.0.0.1", port, lambda: None)

    def answers() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return asked("127.0.0.1", port).status_code == 200
        return False

    assert wait_until(answers, 20)
