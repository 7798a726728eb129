"""A Ray cluster that is not there is said at once; of one of our own nothing is left."""

from __future__ import annotations

import contextlib
import logging.config
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from bitsift.cluster.serving import ray_cluster as ray_cluster_module
from bitsift.cluster.serving.ray_cluster import (
    logs_folder,
    ray_cluster,
)
from bitsift.errors import Unavailable
from tests.commands import wait_until


@pytest.mark.timeout(60)
def test_an_address_where_nobody_listens_is_said_and_not_tried_for_ever() -> None:
    with socket.socket() as bound:  # never listens
        bound.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"no Ray cluster at {address}"), ray_cluster(address):
            pass


@pytest.mark.timeout(60)
def test_an_address_that_takes_no_connection_is_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_cluster_module, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as held:
        for _ in range(3):  # no more of them are answered until one is accepted
            one = held.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        address = f"127.0.0.1:{full.getsockname()[1]}"
        late = f"no Ray cluster at {address}: timed out"
        with pytest.raises(Unavailable, match=late), ray_cluster(address):
            pass


@pytest.fixture
def rays_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where Ray keeps its sessions, with one of another process in it; a socket's path is short."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        other = Path(folder) / "ray" / "session_2026-01-01_00-00-00_000000_1"
        other.mkdir(parents=True)
        (other / "raylet.out").touch()
        yield other.parent


def sessions(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("session_*"))


@pytest.mark.parametrize("raised", [None, KeyboardInterrupt])
def test_a_cluster_of_our_own_leaves_nothing_at_a_clean_end_and_others_alone(
    rays_folder: Path, raised: type[BaseException] | None
) -> None:
    (other,) = sessions(rays_folder)
    with contextlib.suppress(KeyboardInterrupt), ray_cluster(None):
        assert Path(logs_folder()).is_relative_to(rays_folder)
        if raised is not None:
            raise raised
    assert sessions(rays_folder) == [other]
    assert (rays_folder / other / "raylet.out").exists()


def test_ray_data_works_in_the_next_cluster_of_this_process(rays_folder: Path) -> None:
    no_change: dict[str, Any] = {"version": 1, "disable_existing_loggers": False}
    for _ in range(3):  # each dictConfig, as uvicorn's, closes some of the files of logs
        with ray_cluster(None):
            assert sum(row["id"] for row in ray.data.range(3).iter_rows()) == 3
        logging.config.dictConfig(no_change)


def test_the_logs_of_a_cluster_in_which_something_failed_are_kept_and_it_is_said_where(
    rays_folder: Path,
) -> None:
    said: list[str] = []
    logs: list[Path] = []

    def fail() -> None:
        with ray_cluster(None, said.append):
            logs.append(Path(logs_folder()))
            raise Unavailable("the test's")

    with pytest.raises(Unavailable, match="the test"):
        fail()
    assert said[-1] == f"the logs of Ray are kept in {logs[0]}"
    assert list(logs[0].iterdir())


def test_what_ray_finds_wrong_with_its_cluster_is_not_on_our_standard_output(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with ray_cluster(None, healing=True):
        worker: Any = ray._private.worker.global_worker
        for place in range(3):
            ray._private.utils.publish_error_to_driver(
                "test", f"something is wrong, {place}", gcs_client=worker.gcs_client
            )
        arrived = wait_until(lambda: "something is wrong" in capfd.readouterr().out, 5)
    assert not arrived
