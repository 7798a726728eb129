"""Abandoned questions stop in the shards' own processes: real Ray, real sockets."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.sources.synthetic import SyntheticSpec, synthetic_queries
from tests.commands import COMMAND, answering, wait_until

SPEC = SyntheticSpec(60_000, 256)
WITHIN_S = 120.0
CLIENTS = 40
"""Eight exhaustive queries share a pass: so many take five passes over all codes."""
TRIES = 10
TICKS = os.sysconf("SC_CLK_TCK")
IDLE_S = 0.04
"""Processor time that idle shards use between two looks: a few ticks of the kernel's."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    index = tmp_path_factory.mktemp("abandoned") / "index"
    write_index(index, SPEC, 2)
    with answering([*COMMAND, "serve", index, "--port", "0", "--json"]) as (url, _):
        yield url


def body(mode: str = "auto", timeout_ms: float = 60_000) -> dict[str, object]:
    vector = synthetic_queries(SPEC, 1)[0].tolist()
    return {"vector": vector, "mode": mode, "timeout_ms": timeout_ms}


def hung_up(stack: ExitStack, url: str, content: bytes) -> None:
    """A client that asks, and hangs up at the end of ``stack``."""
    address = urlsplit(url)
    client = stack.enter_context(socket.create_connection((address.hostname, address.port)))
    head = (
        f"POST /v1/search HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    client.sendall(head.encode() + content)


class Shards:
    """The shards' processes, looked at without a request: that would wait for those at work."""

    def __init__(self, url: str) -> None:
        shards = httpx.get(f"{url}/v1/cluster").json()["shards"]
        self._stats = [Path(f"/proc/{shard['pid']}/stat") for shard in shards]

    def cpu_s(self) -> float:
        """Processor time that they have used."""
        fields = [stat.read_text().rpartition(")")[2].split() for stat in self._stats]
        return sum(int(user) + int(system) for *_, user, system in (f[:13] for f in fields)) / TICKS

    def worked(self, work_s: float) -> None:
        """Return as soon as they have used ``work_s`` more."""
        start, deadline = self.cpu_s(), time.monotonic() + WITHIN_S
        while self.cpu_s() < start + work_s:
            assert time.monotonic() < deadline, "never began"
            time.sleep(0.005)

    def are_idle(self) -> bool:
        before = self.cpu_s()
        time.sleep(0.5)
        return self.cpu_s() - before <= IDLE_S


def asked(url: str) -> list[str]:
    answer = httpx.post(f"{url}/v1/search", json=body("exhaustive"), timeout=120).json()
    assert answer["partial"] is False
    return [hit["id"] for hit in answer["hits"]]


def abandoned(url: str, shards: Shards, work_s: float) -> tuple[float, float]:
    """Processor time that the shards used before all clients hung up, a tenth of ``work_s`` at
    least, and after that, until they were idle.
    """
    content = json.dumps(body("exhaustive")).encode()
    start = shards.cpu_s()
    with ExitStack() as clients:
        for _ in range(CLIENTS):
            hung_up(clients, url, content)
        shards.worked(work_s / 10)
    begun = shards.cpu_s()
    assert wait_until(shards.are_idle, WITHIN_S), "the shards went on"
    return begun - start, shards.cpu_s() - begun


def test_shards_stop_exhaustive_searches_whose_clients_hang_up(gateway: str) -> None:
    """Counted in processor time: on a busy machine all takes longer, and no more of that."""
    shards = Shards(gateway)
    start = shards.cpu_s()
    with ThreadPoolExecutor(CLIENTS) as stay:
        answers = list(stay.map(asked, [gateway] * CLIENTS))
    work_s = shards.cpu_s() - start
    assert work_s > 5 * IDLE_S
    for _ in range(TRIES):  # until they hung up in the first half of it
        before_s, after_s = abandoned(gateway, shards, work_s)
        if before_s < work_s / 2:
            break
    assert before_s < work_s / 2
    assert after_s < (work_s - before_s) / 2, (work_s, before_s)
    assert asked(gateway) == answers[0]


def test_ordinary_queries_are_answered_while_exhaustive_ones_are_at_work(gateway: str) -> None:
    content = json.dumps(body("exhaustive")).encode()
    expected = httpx.post(f"{gateway}/v1/search", json=body(), timeout=60).json()["hits"]
    with ExitStack() as clients:
        for _ in range(CLIENTS):
            hung_up(clients, gateway, content)
        for _ in range(20):
            answer = httpx.post(f"{gateway}/v1/search", json=body(timeout_ms=5_000), timeout=60)
            assert answer.json()["hits"] == expected
            assert answer.json()["partial"] is False


def test_an_exhaustive_search_that_has_no_time_is_a_504(gateway: str) -> None:
    answer = httpx.post(f"{gateway}/v1/search", json=body("exhaustive", 1.0), timeout=60)
    assert answer.status_code == 504
    assert answer.json()["type"] == "bitsift:DeadlineExceeded"


def test_the_cluster_says_how_late_its_event_loop_was(gateway: str) -> None:
    time.sleep(0.2)
    facts = httpx.get(f"{gateway}/v1/cluster").json()["event_loop"]
    assert facts["samples"] > 0
    assert 0 <= facts["lag_p50_ms"] <= facts["lag_p99_ms"] <= facts["lag_max_ms"]
    assert 0 <= facts["block_p99_ms"] <= facts["lag_p99_ms"]
    assert facts["block_p99_ms"] <= facts["block_max_ms"] <= facts["lag_max_ms"]
    assert np.isfinite(facts["lag_max_ms"])
