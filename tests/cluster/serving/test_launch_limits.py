"""What a cluster's start, end and memory are limited to, and what happens beyond."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from bitsift.cluster.bench.index import write_index
from bitsift.cluster.serving import launch, ray_cluster
from bitsift.cluster.sources.synthetic import SyntheticSpec
from bitsift.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from bitsift.router.shards.ray_calls import SHARDS, sent
from bitsift.shard_worker.types import ShardStatus
from bitsift.shard_worker.wire.search import statuses_of
from bitsift.shard_worker.wire.structures import pack_fact

STORE_BYTES = 80 << 20
"""Little more than the least that Ray takes."""


@ray.remote(num_cpus=0, max_restarts=0)
class StuckShard:
    """A shard that never opens, and never closes."""

    def status(self) -> bytes:
        return pack_fact(ShardStatus(0, "LOADING", pid=os.getpid()))

    def close(self) -> None:
        while True:
            time.sleep(60)

    def loading(self, progress: None) -> None:
        """As a router that hangs."""
        self.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ray_cluster, "OBJECT_STORE_BYTES", STORE_BYTES)
        with ray_cluster.ray_cluster(None):
            yield


def stuck() -> Any:
    return StuckShard.remote()  # type: ignore[attr-defined]


def test_a_router_that_does_not_take_that_a_load_has_ended_is_given_up(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = stuck()
    monkeypatch.setattr(launch, "OPEN_TIMEOUT_S", 0.1)
    serving: Any = SimpleNamespace(router=actor)
    with pytest.raises(DeadlineExceeded):
        launch.Serving.loaded(serving)
    ray.kill(actor)


def test_a_shard_that_does_not_open_is_given_up(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = stuck()
    ray.get(actor.status.remote())
    monkeypatch.setattr(launch, "OPEN_TIMEOUT_S", 1.0)
    with pytest.raises(Unavailable, match="did not open in 1 s"):
        launch.wait_open([actor])


def test_a_start_that_fails_leaves_nothing_open_while_its_caller_lives_on(
    cluster: None, tmp_path: Path
) -> None:
    """A command ends, and Ray with it ends what it started; a program that calls this does not."""
    manifest = write_index(tmp_path / "index", SyntheticSpec(200, 64), 2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidRequest, match=f"cannot listen on 127.0.0.1:{port}"):
            launch.serve(tmp_path / "index", "127.0.0.1", port)
    launch.check_free(tmp_path / "index", manifest)


def test_a_shard_that_does_not_close_is_killed(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = stuck()
    (status,) = statuses_of([ray.get(actor.status.remote())])
    process = psutil.Process(status.pid)
    monkeypatch.setattr(launch, "STOP_TIMEOUT_S", 0.5)
    launch.stop_shards([actor])
    process.wait(30)


@ray.remote(num_cpus=0)
class Caller:
    """As a router, which has the actor from another process."""

    def call(self, actor: Any, times: int) -> list[str]:
        """What came of each call: nothing yet, or why it was not sent."""
        said = []
        for _ in range(times):
            try:
                sent(actor.status, SHARDS)
                said.append("sent")
            except Overloaded as error:
                said.append(error.outcome)
        return said


def test_an_actor_has_so_many_calls_waiting_and_no_more(
    cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "PENDING_CALLS_MAX", 5)
    actor = launch._start(StuckShard, None)
    ray.get(actor.status.remote())
    actor.close.remote()  # never ends
    caller = Caller.remote()  # type: ignore[attr-defined]
    assert ray.get(caller.call.remote(actor, 8)) == ["sent"] * 5 + ["not_done"] * 3
    ray.kill(actor)


def test_what_the_object_store_has_no_room_for_goes_to_rays_temporary_folder(
    cluster: None,
) -> None:
    session = Path(ray_cluster.logs_folder()).parent
    parts = [np.full(STORE_BYTES // 4, number, dtype=np.uint8) for number in range(8)]
    kept = [ray.put(part) for part in parts]
    for part, reference in zip(parts, kept, strict=True):
        np.testing.assert_array_equal(ray.get(reference), part)
    spilled = [path for path in session.glob("ray_spilled_objects*/*") if path.is_file()]
    assert sum(path.stat().st_size for path in spilled) >= STORE_BYTES
