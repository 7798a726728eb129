"""Servers on a Ray cluster that others started: nothing of theirs stays, nothing is harmed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bitsift.cluster.manifest import read_manifest
from tests.commands import (
    COMMAND,
    answering,
    ended,
    lines_until,
    processes,
    started,
    wait_until,
)
from tests.e2e.support import (
    START_S,
    actors,
    check_unlocked,
    is_unlocked,
    running_head,
)
from tests.sweeps import chosen


@pytest.fixture(scope="module")
def ray_head() -> Iterator[tuple[int, str, dict[str, str]]]:
    with running_head() as head:
        yield head


AWAY = {
    "starting 2 shards": signal.SIGTERM,
    "listening on": signal.SIGKILL,
    "opening the shards": signal.SIGINT,
    "logs are in": signal.SIGKILL,
}
AWAY_IN_TEST = {"starting 2 shards", "logs are in"}
"""A start that ends by itself, and a server that cannot clean up; `make chaos` runs all."""


@pytest.mark.parametrize(("step", "number"), chosen(AWAY.items(), AWAY_IN_TEST))
def test_a_cluster_elsewhere_keeps_nothing_of_a_server_that_is_gone(
    ready_index: Path, ray_head: tuple[int, str, dict[str, str]], step: str, number: signal.Signals
) -> None:
    session, address, environment = ray_head
    command = ["serve", ready_index, "--port", 0]
    if step == "logs are in":  # Ray's own variable does as well
        environment = environment | {"RAY_ADDRESS": address}
    else:
        command += ["--ray-address", address]
    with started(*command, environment=environment) as process:
        lines_until(process, step)
        assert step != "logs are in" or actors(session)
        time.sleep(random.random())
        process.send_signal(number)
        status, said = ended(process)
    assert status == (-number if number is signal.SIGKILL else 0), said
    assert wait_until(lambda: not actors(session)), actors(session)
    if number is signal.SIGKILL:  # Ray ends the shards; the kernel frees their locks as they go
        assert wait_until(lambda: is_unlocked(ready_index))
    check_unlocked(ready_index)


@pytest.mark.long  # on a cluster of its own: test_life_cycle.py
def test_a_taken_port_is_named_and_nothing_is_left(
    ready_index: Path, ray_head: tuple[int, str, dict[str, str]]
) -> None:
    session, address, environment = ray_head
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = ["serve", ready_index, "--port", port, "--ray-address", address]
        with started(*command, environment=environment) as process:
            status, said = ended(process)
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert wait_until(lambda: not actors(session)), actors(session)
    check_unlocked(ready_index)


def test_a_start_that_fails_midway_leaves_only_what_was_there(
    ready_index: Path, ray_head: tuple[int, str, dict[str, str]]
) -> None:
    session, address, environment = ray_head
    name = f"{read_manifest(ready_index).uuid}/router"
    foreign = (
        "import ray, sys\n"
        f"ray.init({address!r}, namespace='bitsift', log_to_driver=False)\n"
        "@ray.remote\n"
        "class ForeignActor:\n"
        "    def answer(self): return 'here'\n"
        f"actor = ForeignActor.options(name={name!r}).remote()\n"
        "for _ in range(2):\n"
        "    print(ray.get(actor.answer.remote()), flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    command = ["serve", ready_index, "--port", 0, "--ray-address", address]
    with subprocess.Popen(
        [sys.executable, "-c", foreign], env=os.environ | environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "here\n"
        with started(*command, environment=environment) as process:
            status, said = ended(process)
        assert status == 1
        assert f"is already serving the index: it runs {name}" in said
        assert len(actors(session)) == 1
        check_unlocked(ready_index)
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "here\n"
    assert wait_until(lambda: not actors(session))


@pytest.mark.long  # on a cluster of its own: tests/chaos/test_kill_matrix.py
def test_a_router_that_dies_listens_again(
    ready_index: Path, ray_head: tuple[int, str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, address, environment = ray_head
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    command = [*COMMAND, "serve", ready_index, "--port", 0, "--json", "--ray-address", address]
    with answering(command) as (url, _):
        routers = [pid for pid, line in processes(session) if "RouterActor" in line]
        os.kill(routers[0], signal.SIGKILL)

        def ready() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/readyz").is_success
            return False

        assert wait_until(lambda: not ready())
        assert wait_until(ready, START_S)
    assert wait_until(lambda: not actors(session))
