"""What a reshard needs of the controller and of the index that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from bitsift.cluster.fleet.actors import Fleet, RayNode
from bitsift.cluster.fleet.agent import AgentReport
from bitsift.cluster.fleet.enact import Enactor
from bitsift.cluster.fleet.observed import Observed, Orders
from bitsift.cluster.fleet.spec import ClusterSpec
from bitsift.cluster.fleet.state import State
from bitsift.cluster.fleet.watch import Place, Seen
from bitsift.cluster.manifest import Manifest
from bitsift.router.shards.placement import ReplicaTable


class Served(Protocol):
    """An index as it is seen, and the way to change it: served_index.py's ``Index``."""

    manifest: Manifest
    state: State
    observed: Observed
    reports: Mapping[str, AgentReport]
    said: dict[Place, Seen]
    enactor: Enactor
    urls: dict[str, tuple[str, str | None]]

    def next_epoch(self) -> int: ...

    def table(self) -> ReplicaTable: ...

    def statuses(self, fleet: Fleet, places: list[Place], kind: str) -> dict[Place, Seen]: ...

    def change_orders(self, orders: Orders) -> None: ...

    def drop_reshard(self, why: str) -> None: ...

    def keep(self, state: State, *, on_all: bool = False) -> None: ...


class Serving(Protocol):
    """The controller: control.py's ``Control``."""

    spec: ClusterSpec
    agents: dict[str, Any]
    alive: dict[str, RayNode]

    def successor(
        self, manifest: Manifest, files: dict[str, bytes], state: State, now: float
    ) -> Served:
        """An index that may be served; nothing is done with it."""

    def serve(self, index: Any) -> None: ...
