"""Once ready, a router stays ready: what an answer lacks, the answer says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bitsift.router.http import admin, document_routes, index_routes
from bitsift.router.http import gateway as routes
from bitsift.router.http.readiness import Readiness
from bitsift.router.shards.local import LocalLink
from bitsift.shard_worker.types import Found, ShardStatus
from tests.fakes import FrozenLink, HashEncoder, make_service, make_shards, make_writer
from tests.gateways import Running

DIMENSION = 64


def states(*names: str) -> list[ShardStatus]:
    return [ShardStatus(shard, name) for shard, name in enumerate(names)]


def test_at_first_every_shard_must_have_been_opened_or_have_failed() -> None:
    seen = Readiness()
    assert not seen.look(states("LOADING", "LOADING"))
    assert not seen.look(states("READY", "LOADING"))
    assert seen.look(states("READY", "FAILED"))
    assert not Readiness().look(states("FAILED", "UNREACHABLE"))


@pytest.mark.parametrize("later", ["LOADING", "FAILED", "UNREACHABLE"])
def test_later_no_state_of_a_shard_makes_it_unready(later: str) -> None:
    seen = Readiness()
    assert seen.look(states("READY", "READY"))
    assert seen.look(states("READY", later))
    assert seen.look(states(later, later))


def test_a_shard_that_was_open_once_may_load_again_before_the_others_are() -> None:
    seen = Readiness()
    assert not seen.look(states("READY", "LOADING"))
    assert seen.look(states("LOADING", "READY"))


def test_so_many_shards_are_enough_as_the_operator_says() -> None:
    seen = Readiness(min_ready_shards=2)
    assert not seen.look(states("READY", "LOADING", "LOADING"))
    assert seen.look(states("READY", "LOADING", "READY"))
    assert Readiness(min_ready_shards=9).look(states("READY", "READY"))


class ChangingLink(LocalLink):
    """A real shard that says the state it is told to say."""

    state = "READY"

    async def status(self) -> ShardStatus:
        return ShardStatus(1, self.state)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[Running, ChangingLink]]:
    units = HashEncoder(DIMENSION).encode_documents([f"text {i}" for i in range(20)])
    shards, calibration = make_shards(tmp_path, units, DIMENSION, 2)
    changing = ChangingLink(shards[1])
    links = [LocalLink(shards[0]), changing]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    yield running, changing
    running.stop()
    for shard in shards:
        shard.close()


def test_one_shard_that_restarts_takes_no_router_out_of_service(
    gateway: tuple[Running, ChangingLink],
) -> None:
    running, link = gateway
    link.state = "LOADING"
    first = httpx.get(f"{running.url}/readyz")
    assert first.status_code == 503
    assert "READY, LOADING" in first.json()["detail"]
    for state in ("READY", "LOADING", "FAILED"):
        link.state = state
        answer = httpx.get(f"{running.url}/readyz")
        assert (answer.status_code, answer.json()["shards"]) == (200, ["READY", state])


def test_without_its_encoder_it_is_unready_and_names_the_shards_all_the_same(
    gateway: tuple[Running, ChangingLink],
) -> None:
    running, _ = gateway
    assert httpx.get(f"{running.url}/readyz").status_code == 200
    running.service.encoder = None
    answer = httpx.get(f"{running.url}/readyz")
    assert answer.status_code == 503
    assert "encoder" in answer.json()["detail"]
    assert "READY, READY" in answer.json()["detail"]


def test_a_shard_that_hangs_does_not_make_the_probe_hang(tmp_path: Path) -> None:
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(tmp_path, nothing, DIMENSION, 1)
    links = [LocalLink(shards[0]), FrozenLink()]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    try:
        answer = httpx.get(f"{running.url}/readyz", timeout=30)
        assert answer.json()["shards"] == ["READY", "UNREACHABLE"]
        assert answer.elapsed.total_seconds() < 2.0, "the time that other routes wait for a state"
    finally:
        running.stop()
        shards[0].close()


class SilentLink(LocalLink):
    """A real shard that does not say its state, nor what a document is."""

    async def status(self) -> ShardStatus:
        await asyncio.Event().wait()
        raise AssertionError

    async def stored(self, *_: Any) -> Sequence[Found]:
        await asyncio.Event().wait()
        raise AssertionError


def test_a_shard_that_does_not_answer_is_waited_for_so_long_by_every_route(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "STATUS_TIMEOUT_S", 0.1)
    monkeypatch.setattr(admin, "STATUS_TIMEOUT_S", 0.1)
    monkeypatch.setattr(index_routes, "STATUS_TIMEOUT_S", 0.1)
    monkeypatch.setattr(document_routes, "READ_TIMEOUT_S", 0.1)
    nothing = np.empty((0, DIMENSION), dtype=np.float32)
    shards, calibration = make_shards(tmp_path, nothing, DIMENSION, 1)
    links = [SilentLink(shards[0])]
    running = Running(make_service(links, calibration), make_writer(links, calibration))
    try:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            (state,) = client.get("/v1/cluster").json()["shards"]
            assert state["state"] == "UNREACHABLE"
            index = client.get("/v1/index").json()
            assert index["documents"] == 0
            (named,) = index["not_ready"]
            assert (named["shard"], named["state"]) == (0, "UNREACHABLE")
            assert "did not answer" in named["reason"]
            (listed,) = client.get("/v1/indexes").json()["indexes"]
            assert listed["reason"].startswith("shard 0 is UNREACHABLE")
            read = client.get("/v1/documents/a")
            assert (read.status_code, read.json()["type"]) == (504, "bitsift:DeadlineExceeded")
            assert client.post("/v1/admin/compact", json={}).status_code == 200
    finally:
        running.stop()
        shards[0].close()
