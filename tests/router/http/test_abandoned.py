"""Work for a client that went away ends: in the queue, in the encoder's and in the shards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from bitsift.router.batching import Batcher
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.store.row_reader import RowReader
from tests.fakes import HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64
TEXTS = [f"a text about number {i}" for i in range(200)]
WITHIN_S = 20.0
"""A generous bound on what takes milliseconds: the machine may be busy."""


class GatedEncoder(HashEncoder):
    """Encodes when ``gate`` is open. ``asked`` holds every text, ``reached`` says that it began."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension)
        self.gate, self.reached = threading.Event(), threading.Event()
        self.asked: list[str] = []

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        self.asked.extend(texts)
        self.reached.set()
        assert self.gate.wait(60)
        return super().encode_queries(texts)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    units = HashEncoder(DIMENSION).encode_documents(TEXTS)
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2, TEXTS)
    links = [LocalLink(shard) for shard in shards]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield running
    running.stop()
    for shard in shards:
        shard.close()


@contextlib.contextmanager
def asking(gateway: Running, body: object) -> Iterator[socket.socket]:
    """A client that has sent a search, and hangs up at the end of the block."""
    address = urlsplit(gateway.url)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/search HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(head.encode() + content)
        yield client


def search(gateway: Running, timeout_s: float = WITHIN_S, **body: object) -> httpx.Response:
    options = {"timeout_ms": timeout_s * 1e3, **body}
    return httpx.post(f"{gateway.url}/v1/search", json=options, timeout=60)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


class EndlessScans:
    """Every scan of codes goes on until ``enough`` is set. ``running`` counts those at work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.enough, self.running = threading.Semaphore(0), threading.Event(), 0
        plain, lock = RowReader.scan_codes, threading.Lock()

        def scan(reader: RowReader, first: int, rows: int):  # type: ignore[no-untyped-def]
            with lock:
                self.running += 1
            try:
                yield from plain(reader, first, rows)
                self.begun.release()
                while not self.enough.wait(0.002):
                    yield from plain(reader, first, rows)
            finally:
                with lock:
                    self.running -= 1

        monkeypatch.setattr(RowReader, "scan_codes", scan)

    def wait_begun(self, scans: int) -> None:
        for _ in range(scans):
            assert self.begun.acquire(timeout=WITHIN_S), "no scan began"

    def wait_ended(self) -> None:
        wait_until(lambda: not self.running)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Iterator[EndlessScans]:
    scans = EndlessScans(monkeypatch)
    yield scans
    scans.enough.set()


def test_an_exhaustive_search_never_delays_another_query(
    gateway: Running, endless: EndlessScans
) -> None:
    with asking(gateway, {"query": TEXTS[3], "mode": "exhaustive", "timeout_ms": 60_000}):
        endless.wait_begun(2)
        for text in TEXTS[:20]:
            answer = search(gateway, query=text)
            assert answer.status_code == 200, answer.text
            assert answer.json()["partial"] is False
            assert answer.json()["hits"][0]["text"] == text
        assert endless.running == 2


def test_an_exhaustive_search_ends_when_its_client_hangs_up(
    gateway: Running, endless: EndlessScans
) -> None:
    with asking(gateway, {"query": TEXTS[3], "mode": "exhaustive", "timeout_ms": 60_000}):
        endless.wait_begun(2)
    endless.wait_ended()


def test_an_exhaustive_search_ends_at_its_deadline_with_504(
    gateway: Running, endless: EndlessScans
) -> None:
    answer = search(gateway, 0.3, query=TEXTS[3], mode="exhaustive")
    assert (answer.status_code, answer.json()["type"]) == (504, "bitsift:DeadlineExceeded")
    assert answer.json()["outcome"] == "not_done", "a read changes nothing, late or not"
    endless.wait_ended()


def test_of_questions_in_one_call_only_those_whose_client_hung_up_end(
    gateway: Running, endless: EndlessScans
) -> None:
    """Eight exhaustive queries share a pass; the call goes on for the one that is waited for."""
    slow: dict[str, Any] = {"mode": "exhaustive", "timeout_ms": 60_000}
    with asking(gateway, {"query": TEXTS[0], **slow}):
        endless.wait_begun(2)
        with asking(gateway, {"queries": TEXTS[:7], **slow}):
            time.sleep(0.3)
        found: list[httpx.Response] = []
        patient = threading.Thread(
            target=lambda: found.append(search(gateway, query=TEXTS[9], **slow))
        )
        patient.start()
    endless.wait_begun(2)
    endless.enough.set()
    patient.join(WITHIN_S)
    assert found[0].json()["hits"][0]["text"] == TEXTS[9]


def test_what_nobody_waits_for_any_more_is_never_encoded(gateway: Running) -> None:
    encoder = GatedEncoder(DIMENSION)
    gateway.service.encoder = encoder
    with asking(gateway, {"query": "the first", "timeout_ms": 60_000}):
        assert encoder.reached.wait(WITHIN_S)
        texts = [f"abandoned {number}" for number in range(50)]
        with asking(gateway, {"queries": texts, "timeout_ms": 60_000}):
            time.sleep(0.3)
        found: list[httpx.Response] = []
        last = threading.Thread(target=lambda: found.append(search(gateway, query=TEXTS[0])))
        last.start()
        time.sleep(0.5)  # by now the gateway has seen that they hung up
        encoder.gate.set()
        last.join(WITHIN_S)
        assert found[0].status_code == 200
    assert encoder.asked == ["the first", TEXTS[0]]


def test_one_question_that_fails_ends_the_others_of_its_request(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, plain = [], gateway.service.search

    async def one_fails(question, *rest, **more):  # type: ignore[no-untyped-def]
        if question.query == "fails":
            await asyncio.sleep(0.05)
            raise RuntimeError("the test's")
        try:
            await asyncio.sleep(WITHIN_S)
        except asyncio.CancelledError:
            ended.append(question.query)
            raise
        return await plain(question, *rest, **more)

    monkeypatch.setattr(gateway.service, "search", one_fails)
    answer = search(gateway, queries=["a", "fails", "b"])
    assert answer.status_code == 500
    wait_until(lambda: sorted(ended) == ["a", "b"])


def test_a_query_that_the_queue_leaves_no_time_is_told_to_come_again(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = GatedEncoder(DIMENSION)
    encoder.gate.set()
    gateway.service.encoder = encoder
    assert search(gateway, query="measures the encoder").status_code == 200
    encoder.gate.clear()
    encoder.reached.clear()
    batcher = gateway.service.query_vectors._batcher
    monkeypatch.setattr(batcher, "_item_s", 2.0)  # as of a model that takes two seconds a text
    with asking(gateway, {"queries": ["one", "two", "three"], "timeout_ms": 60_000}):
        assert encoder.reached.wait(WITHIN_S)
        refused = search(gateway, 1.0, query="in a hurry")
        assert (refused.status_code, refused.json()["type"]) == (429, "bitsift:Overloaded")
        assert "retry-after" in refused.headers
        encoder.gate.set()
    assert search(gateway, query="after that").status_code == 200


def test_a_full_queue_refuses_what_comes_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsift.errors import Overloaded
    from bitsift.router import batching

    monkeypatch.setattr(batching, "WAITING_MAX", 3)

    async def scenario() -> None:
        gate = asyncio.Event()

        async def run(items: list[int]) -> list[int]:
            await gate.wait()
            return items

        batcher = Batcher(run, limit=1)
        waiting = [batcher.enqueue(number) for number in range(3)]
        with pytest.raises(Overloaded, match="3 calls are already waiting"):
            await batcher.submit(3)
        waiting[2].cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await batcher.submit(4) == 4
        assert await waiting[0] == 0

    asyncio.run(scenario())
