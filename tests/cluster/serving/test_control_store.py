"""What Ray's control store knows is asked for without a risk to the process that asks."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from bitsift.cluster.serving import control_store
from bitsift.cluster.serving.control_store import all_actors, all_nodes, living_nodes
from bitsift.cluster.serving.own_ray import OwnRay
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.errors import Unavailable
from tests.commands import wait_until


class Sleeper:
    def pid(self) -> int:
        return os.getpid()


@contextlib.contextmanager
def busy_asking() -> Iterator[None]:
    """Two threads that ask all the time, so that some call is on its way when the store stops."""
    stopped = threading.Event()

    def ask() -> None:
        while not stopped.is_set():
            with contextlib.suppress(Unavailable):
                all_nodes()
                all_actors()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join(60)


def test_a_store_that_does_not_answer_is_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, late = time.monotonic(), ray.exceptions.RpcError("Deadline Exceeded", rpc_code=4)

    class Silent:
        """Ray's client, of a store that says nothing."""

        def get_all_node_info(self, timeout: float) -> None:
            time.sleep(timeout)
            raise late

        async def async_get_all_actor_info(self, timeout: float) -> None:
            self.get_all_node_info(timeout)

    monkeypatch.setattr(control_store, "_client", Silent)
    monkeypatch.setattr(control_store, "TIMEOUT_S", 0.05)
    for ask in (all_nodes, all_actors):
        with pytest.raises(Unavailable, match="Ray's control store"):
            ask()
    assert 0.1 <= time.monotonic() - begun < 20


@pytest.mark.slow
def test_a_store_that_ends_is_said_and_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_store, "TIMEOUT_S", 1.0)
    with ray_cluster(None, healing=True):
        own = OwnRay()
        sleeper: Any = ray.remote(num_cpus=0)(Sleeper).remote()
        name = sleeper._actor_id.hex()
        pid = ray.get(sleeper.pid.remote())
        assert own.node_is_alive()
        assert own.actors({name: "it", "ff" * 16: "none"})["it"].pid == pid
        assert [facts.resources_total["CPU"] > 0 for facts in living_nodes()] == [True]
        with busy_asking():
            assert own.gcs_pid is not None
            os.kill(own.gcs_pid, signal.SIGTERM)
            with pytest.raises(Unavailable, match="Ray's control store"):
                ask_until_it_fails(own)
            own.start_gcs()
            assert wait_until(lambda: answers(own))
        assert own.actors({name: "it"})["it"].is_alive


def ask_until_it_fails(own: OwnRay) -> None:
    while own.node_is_alive():
        pass


def answers(own: OwnRay) -> bool:
    try:
        return own.node_is_alive()
    except Unavailable:
        return False
