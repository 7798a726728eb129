"""Every socket of `index` and `serve`, against docs/security.md, and what each says to strangers.

Those of the demo: test_demo_streaming.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from tests.commands import COMMAND, answering, free_port
from tests.e2e.sockets import documented, kind, listening, sockets
from tests.faults.support import ROOT

UNIMPLEMENTED, REFUSED = b"grpc-status\x0212", b"grpc-status\x0216"
METHODS = {
    "bitsift": ["/ray.rpc.CoreWorkerService/GetCoreWorkerStats"],
    "gcs_server": ["/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"],
    "raylet": ["/ray.rpc.NodeManagerService/GetNodeStats", "/ray.rpc.ObjectManagerService/Pull"],
}
"""A call that each kind of process knows; an actor knows the first."""


def grpc(port: int, method: str, token: str | None) -> bytes:
    """What a gRPC server answers to an empty call, headers and trailers as they come."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return (
            struct.pack(">I", len(payload))[1:]
            + bytes([kind, flags])
            + struct.pack(">I", stream)
            + payload
        )

    headers = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost",
               "te": "trailers", "content-type": "application/grpc"}  # fmt: skip
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    packed = b"".join(
        bytes([0, len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    said = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(4, 0, 0, b"")
            + frame(1, 4, 1, packed)
            + frame(0, 1, 1, bytes(5))
        )
        while b"grpc-status" not in said or len(said) < said.index(b"grpc-status") + 14:
            part = connection.recv(1 << 16)
            assert part, said
            said += part
    return said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ports")
    rows = np.random.default_rng(0).standard_normal((4_000, 32)).astype(np.float32)
    np.save(folder / "corpus.npy", rows)
    lines = [json.dumps({"id": f"v{i}", "text": f"text {i}"}) for i in range(len(rows))]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    return folder


def index_command(corpus: Path) -> list[object]:
    return ["index", corpus / "corpus.jsonl", "--vectors", corpus / "corpus.npy",
            "--out", corpus / "index", "--shards", 2]  # fmt: skip


def test_every_socket_is_in_the_table_and_refuses_strangers(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands run in a folder with modules of the user's own that are called like parts of
    Bitsift.
    """
    home = corpus / "home"
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    for name in ("cluster", "router", "shard_worker"):
        (home / name).mkdir()
        (home / name / "__init__.py").write_text("raise SystemExit('the user's own')")
    monkeypatch.chdir(home)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(home), str(ROOT)]))
    table, seen = documented(), set()
    command = [*COMMAND, *map(str, index_command(corpus))]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            seen |= listening(process.pid)
            time.sleep(0.1)
    assert process.returncode == 0
    admin_port = free_port()
    options = ["--port", 0, "--admin-port", admin_port, "--json"]
    with answering([*COMMAND, "serve", corpus / "index", *options]) as (url, serving):
        open_for_searches(url)
        for owner, address, port in list(sockets(serving.pid)):
            assert address == "127.0.0.1", owner
            if kind(owner) == "ShardActor" and refuses_as_searches_do(port):
                seen.add("ShardActor searches")
                continue
            if port in (httpx.URL(url).port, admin_port):
                assert kind(owner) == "RouterActor"
                seen.add("RouterActor admin" if port == admin_port else "RouterActor HTTP")
                continue
            seen.add(kind(owner))
            check_refusal(kind(owner), port)
        assert ray_init(serving.pid, "a wrong one").returncode != 0
        assert ray_init(serving.pid, None).returncode != 0
        assert ray_init(serving.pid, token_of(serving.pid)).returncode == 0  # so the others count
    assert seen == set(table)
    assert not (home / ".ray").exists()


def open_for_searches(url: str) -> None:
    """Shards listen for searches when a router first asks one of them; it shows in the table."""
    vector = np.random.default_rng(1).standard_normal(32).tolist()
    for _ in range(3):
        answer = httpx.post(f"{url}/v1/search", json={"vector": vector}, trust_env=False)
        assert answer.is_success, answer.text
        time.sleep(0.5)


def refuses_as_searches_do(port: int) -> bool:
    """Whether whoever listens there says 32 random bytes to a stranger, and nothing more."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(bytes(64))
        connection.shutdown(socket.SHUT_WR)
        said = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                said += part
    return len(said) == 32


def check_refusal(owner: str, port: int) -> None:
    """Callers without a token, or with a wrong one, are told so, and nothing else."""
    for token in (None, "a wrong one"):
        if owner == "RuntimeEnvAgent":
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            url = f"http://127.0.0.1:{port}/get_or_create_runtime_env"
            answer = httpx.post(url, headers=headers, trust_env=False, timeout=30)
            assert answer.status_code in (401, 403), answer.text
            continue
        answers = [grpc(port, method, token) for method in METHODS.get(owner, METHODS["bitsift"])]
        assert sum(REFUSED in answer for answer in answers) == 1, answers
        assert all(REFUSED in answer or UNIMPLEMENTED in answer for answer in answers)


def gcs_of(session: int) -> psutil.Process:
    return next(owner for owner, _, _ in sockets(session) if kind(owner) == "gcs_server")


def token_of(session: int) -> str:
    return str(gcs_of(session).environ()["RAY_AUTH_TOKEN"])


def ray_init(session: int, token: str | None) -> subprocess.CompletedProcess[str]:
    """A driver of another program that tries to join."""
    port = next(port for owner, _, port in sockets(session) if kind(owner) == "gcs_server")
    program = f"import ray; ray.init('127.0.0.1:{port}', log_to_driver=False)"
    environment = {**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if token is not None:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
