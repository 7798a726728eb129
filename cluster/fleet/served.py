"""What an index needs of the controller that serves it, and a reshard of both."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol, TypeVar

from bitsift.cluster.fleet.actors import Fleet, RayNode
from bitsift.cluster.fleet.agent import AgentReport
from bitsift.cluster.fleet.enact import Enactor
from bitsift.cluster.fleet.membership import Place
from bitsift.cluster.fleet.observed import Observed, Orders
from bitsift.cluster.fleet.spec import ClusterSpec, IndexSource
from bitsift.cluster.fleet.state import State
from bitsift.cluster.fleet.watch import Seen
from bitsift.cluster.manifest import Manifest
from bitsift.router.shards.placement import ReplicaTable

K = TypeVar("K", bound=Hashable)


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

    def ask(self, kind: str, calls: Mapping[K, Callable[[], Any]]) -> dict[K, Any]:
        """See ``Polls.ask``."""

    def source_files(self, source: IndexSource) -> dict[str, bytes]:
        """What belongs to the whole of a spec's index."""

    def successor(
        self, manifest: Manifest, files: dict[str, bytes], state: State, now: float
    ) -> Served:
        """An index that may be served; nothing is done with it."""

    def serve(self, index: Any) -> None: ...
