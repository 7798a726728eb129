"""The status of a cluster, again and again, from one process that has joined its Ray.

It asks the controller as `bitsift cluster status` does and says the same. Where it says nothing,
the command does, and says why.

Run as a program it is that process: a line on standard input is a look, and is answered by one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bitsift.cluster.fleet.actors import CONTROLLER, found_actor
from bitsift.cluster.serving.ray_cluster import ray_cluster
from bitsift.router.shards.ray_calls import Callee, asked

ASK_TIMEOUT_S = 60.0


class StatusWatch:
    """Starts the process when it is first asked, and again where it has ended with its node.

    ``joined`` starts a command that joins the cluster, and ends it.
    """

    def __init__(
        self, address: str, joined: Callable[[Sequence[str]], subprocess.Popen[str]]
    ) -> None:
        self._command = [sys.executable, "-m", "tests.status_watch", address]
        self._joined = joined
        self._process: subprocess.Popen[str] | None = None

    def look(self) -> dict[str, Any] | None:
        """None where it could not be asked."""
        if self._process is None or self._process.poll() is not None:
            self._process = self._joined(self._command)
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        line = ""
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
            line = process.stdout.readline()
        if not line:
            process.wait(ASK_TIMEOUT_S)
            return None
        status: dict[str, Any] = json.loads(line)
        return status


def main(address: str) -> None:
    with os.fdopen(os.dup(1), "w") as answers, ray_cluster(address):
        os.dup2(2, 1)  # Ray prints what befalls its nodes to standard output
        for _ in sys.stdin:
            status = found_actor(CONTROLLER).status.remote()  # type: ignore[union-attr]
            said = asked(status, Callee("the controller"), ASK_TIMEOUT_S)
            print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
