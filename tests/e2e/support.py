"""What the tests of the commands' lives share: the steps of a start, locks, another's cluster."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bitsift.cluster.manifest import read_manifest
from bitsift.cluster.serving.launch import check_free
from bitsift.errors import Unavailable
from tests.commands import STOP_S, family, wait_until

START_S = 120

SERVE_STEPS = (
    "starting Ray", "starting 2 shards", "listening on", "opening the shards", "logs are in",
)  # fmt: skip
"""The lines of a server's start."""


def check_unlocked(index: Path) -> None:
    """Raises Unavailable where a process has a shard open."""
    check_free(index, read_manifest(index))


def is_unlocked(index: Path) -> bool:
    with contextlib.suppress(Unavailable):
        check_unlocked(index)
        return True
    return False


def actors(session: int) -> list[str]:
    """Command lines of the actors of a session."""
    return [line for line in family(session) if "Actor" in line]


@contextlib.contextmanager
def running_head() -> Iterator[tuple[int, str, dict[str, str]]]:
    """A Ray cluster of one node on loopback: (session, address, what its drivers need)."""
    folder = Path(tempfile.mkdtemp(prefix="bitsift-ray-"))  # pytest's are too long for sockets
    environment = {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "HOME": str(folder),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0",
        "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}",
        "--num-cpus=2", "--object-store-memory=100000000", "--no-monitor",
        "--include-log-monitor=false",
    ]  # fmt: skip
    address = folder / "ray_current_cluster"
    with (folder / "out").open("wb") as out:
        head = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=os.environ | environment
        )
    try:
        assert wait_until(address.exists, START_S), (folder / "out").read_text()
        yield head.pid, address.read_text().strip(), environment
    finally:
        head.terminate()
        head.wait(STOP_S)
        assert wait_until(lambda: not family(head.pid)), family(head.pid)
        shutil.rmtree(folder)
