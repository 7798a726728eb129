"""The state of the Ray cluster that this command serves on: its actors and nodes, and Ray's own
processes if this command started them; and a restart of the GCS.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray._private.node import Node

from bitsift.cluster.serving.control_store import (
    ACTOR_IS_ALIVE,
    NODE_IS_ALIVE,
    all_actors,
    all_nodes,
)
from bitsift.cluster.serving.supervisor import GCS, RAYLET, Actor

_NAMES = {
    ray_constants.PROCESS_TYPE_RAYLET: RAYLET,
    ray_constants.PROCESS_TYPE_GCS_SERVER: GCS,
    ray_constants.PROCESS_TYPE_DASHBOARD: "dashboard",  # runs without its page, too
}


class OwnRay:
    """The cluster that ``ray.init`` joined or started; Ray's processes only if it was started."""

    def __init__(self) -> None:
        self._node: Node | None = ray._private.worker._global_node
        self._node_id = ray.get_runtime_context().get_node_id()

    @property
    def is_local(self) -> bool:
        """Whether this process started it."""
        return self._node is not None and self._node.head

    def ended(self) -> Mapping[str, int]:
        """The pids of its processes that are gone."""
        return {
            name: process.pid
            for name, process in self._processes().items()
            if process.poll() is not None
        }

    @property
    def gcs_pid(self) -> int | None:
        """None on a cluster that this process did not start."""
        gcs = self._processes().get(GCS)
        return None if gcs is None else gcs.pid

    def gcs_is_stopped(self) -> bool:
        """Whether a signal has stopped it."""
        return self.gcs_pid is not None and is_stopped(self.gcs_pid)

    def start_gcs(self) -> None:
        """End the GCS if it still runs, and restart it on its port, from its disk."""
        assert self._node is not None
        self._node.kill_gcs_server(check_alive=False)
        self._node.start_gcs_server()

    def actors(self, names: Mapping[str, str]) -> dict[str, Actor]:
        """The actors with these ids, by name. Raises Unavailable where the GCS does not answer."""
        table = all_actors()
        return {name: self._actor(table[key]) for key, name in names.items() if key in table}

    def _actor(self, facts: Any) -> Actor:
        is_alive = facts.state == ACTOR_IS_ALIVE
        return Actor(facts.pid, is_alive, self.is_local and is_stopped(facts.pid))

    def node_is_alive(self) -> bool:
        """Whether Ray considers the node of this process alive. Asks the GCS, like ``actors``."""
        facts = all_nodes().get(self._node_id)
        return facts is None or facts.state == NODE_IS_ALIVE

    def has_answered(self, reference: Any) -> bool:
        """Whether ``asked`` would return at once."""
        return bool(ray.wait([reference], timeout=0)[0])

    def _processes(self) -> dict[str, subprocess.Popen[bytes]]:
        if self._node is None:
            return {}
        running = self._node.all_processes
        return {
            name: running[kind][0].process for kind, name in _NAMES.items() if running.get(kind)
        }


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped this process on this machine."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except (psutil.Error, ValueError):
        return False
