"""`ray stop`, which ends whatever is Ray's on a machine, at every step of a server's start.

`make test` does so to a server that opens its shards and to one that answers.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ended, lines_until, started, wait_until
from tests.e2e.support import (
    SERVE_STEPS,
    actors,
    check_unlocked,
    is_unlocked,
    running_head,
)
from tests.sweeps import chosen

RAY_STOP = """
import os, sys
import psutil
from ray.scripts import scripts

everything, session = psutil.process_iter, int(sys.argv.pop())


def of_the_session(attributes=None):
    for process in everything(attributes):
        try:
            if os.getsid(process.pid) == session:
                yield process
        except OSError:
            pass


psutil.process_iter = of_the_session
scripts.main()
"""
"""Ray's own command, which sees the processes of one session only: those of other clusters on this
machine go on."""


def ray_stop(session: int, folder: Path) -> str:
    """What it says; it forgets the address of a cluster in ``folder``, not that of this user's."""
    done = subprocess.run(
        [sys.executable, "-c", RAY_STOP, "stop", str(session)], capture_output=True, text=True,
        env=os.environ | {"RAY_TMPDIR": str(folder)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("step", chosen(SERVE_STEPS, {"logs are in"}))
def test_ray_stop_at_any_step_of_serve_leaves_nothing(
    ready_index: Path, tmp_path: Path, step: str
) -> None:
    with started("serve", ready_index, "--port", 0) as process:
        before = lines_until(process, step)
        time.sleep(random.random())
        stopped = ray_stop(process.pid, tmp_path)
        status, said = ended(process)
    assert "Stopped" in stopped, stopped
    assert status == 1, said
    assert "Traceback" not in said and "***" not in said
    # Ray ends its driver without a word where the store of its cluster is gone during the start,
    # which may have come to any step by then.
    last = (before + said).splitlines()[-1]
    assert last.startswith("error: ") or any(it in last for it in SERVE_STEPS), before + said
    check_unlocked(ready_index)


@pytest.mark.parametrize("step", chosen(["listening on", "logs are in"], {"listening on"}))
def test_ray_stop_ends_a_server_on_the_cluster_that_it_stops(
    ready_index: Path, tmp_path: Path, step: str
) -> None:
    with running_head() as (session, address, environment):
        command = ["serve", ready_index, "--port", 0, "--ray-address", address]
        with started(*command, environment=environment) as process:
            lines_until(process, step)
            time.sleep(random.random())
            stopped = ray_stop(session, tmp_path)
            status, said = ended(process)
        assert wait_until(lambda: not actors(session)), actors(session)
        os.kill(session, signal.SIGKILL)  # `ray start --block`, which would look for what it had
    assert "Stopped" in stopped, stopped
    assert status == 1, said
    assert "Traceback" not in said and "***" not in said
    assert said.splitlines()[-1].startswith("error: ")
    assert wait_until(lambda: is_unlocked(ready_index))
